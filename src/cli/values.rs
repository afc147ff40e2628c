//! Values on the command line: sizes, times, addresses, ranges and subnets, with errors that say what
//! is expected.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use crate::config::Subnet;
use crate::load::profile::{self, Flash, Profile};
use crate::proto::negotiate::{BLKSIZE_MAX, BLKSIZE_MIN, WINDOWSIZE_MAX};
use crate::store::EXTENT_OCTETS;
use crate::time::Duration;

/// The port of TFTP (RFC 1350).
pub(crate) const PORT: u16 = 69;

/// The maximum of a 32-bit number.
pub(super) const U32_MAX: u64 = u32::MAX as u64;

/// Where to listen, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// Every address of the host.
    Anywhere(u16),
    /// One address.
    At(SocketAddr),
    /// The addresses of a name.
    Named(String, u16),
}

/// The largest block size, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlksizeMax {
    /// What fits the MTU of the path to the client.
    Mtu,
    /// This many octets.
    Octets(u16),
}

impl BlksizeMax {
    pub(crate) const fn octets(self) -> Option<u16> {
        match self {
            Self::Mtu => None,
            Self::Octets(octets) => Some(octets),
        }
    }
}

/// Reads `ADDR:PORT` or `:PORT`.
pub(crate) fn address(text: &str) -> Result<Listen, String> {
    let expected = "an IP address and a port are expected, as in 127.0.0.1:9100 or [::1]:9100; or :9100, for every address";
    match listen(text) {
        Ok(Listen::Named(..)) | Err(_) => Err(expected.to_owned()),
        address => address,
    }
}

/// Reads the address of an admin side: `ADDR:PORT`, `NAME:PORT`, `:PORT` of this host, or the URL that
/// `serve` prints.
pub(crate) fn admin(text: &str) -> Result<String, String> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    let text = text.trim_end_matches('/');
    listen(text)?;
    Ok(match text.strip_prefix(':') {
        Some(port) => format!("localhost:{port}"),
        None => text.to_owned(),
    })
}

/// Reads `ADDR:PORT`, `:PORT` or `NAME:PORT`.
pub(crate) fn listen(text: &str) -> Result<Listen, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Listen::At(address));
    }
    if text.chars().all(|c| c.is_ascii_digit()) && !text.is_empty() {
        return Err(format!("to listen on port {text}, write :{text}"));
    }
    if text.contains('/') {
        let expected = "an address and a port are expected, as in 192.0.2.1:69 or :69, and no path";
        return Err(format!(
            "{expected}; tftpd-hpa's -l, which has no value, is left out here"
        ));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let example = SocketAddr::new(address, PORT);
        return Err(format!("the port is missing; write {example}"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("the port is missing; write {text}:{PORT}"));
    };
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("an IPv6 address stands in brackets, as in [::1]:69".to_owned());
    }
    let port = unsigned(port)
        .ok_or_else(|| format!("\"{port}\" is no port; a number from 0 to 65535 is expected"))?;
    match host {
        "" | "*" => Ok(Listen::Anywhere(port)),
        _ if host.starts_with('[') => Err(format!("{host} is no IPv6 address")),
        _ => Ok(Listen::Named(host.to_owned(), port)),
    }
}

/// No machine starts more transfers per second.
const RATE_MAX: f64 = 1e7;

/// Reads a number of octets: `300`, `64K` (thousands) or `64KiB` (1,024s), up to T and TiB.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kb" => Some(1_000),
        "m" | "mb" => Some(1_000_000),
        "g" | "gb" => Some(1_000_000_000),
        "t" | "tb" => Some(1_000_000_000_000),
        "kib" => Some(1 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        "tib" => Some(1 << 40),
        _ => None,
    };
    let expected = "a whole number of octets is expected, with K, M, G, T (thousands) or KiB, MiB, GiB, TiB (1,024s), as in 64MiB";
    let (Some(factor), false) = (factor, number.is_empty()) else {
        return Err(expected.to_owned());
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "that is more than 16 EiB".to_owned())
}

/// Reads the size of the frame cache: zero, or at least enough for one stretch of a file.
pub(super) fn frame_cache(text: &str) -> Result<usize, String> {
    match memory(text)? {
        size if size > 0 && (size as u64) < EXTENT_OCTETS => Err(format!(
            "too little to keep anything: at least {}MiB is expected, or 0 for no cache",
            EXTENT_OCTETS >> 20
        )),
        size => Ok(size),
    }
}

/// Reads a size that must fit in memory.
pub(crate) fn memory(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?)
        .map_err(|_| "that is more than this machine can address".to_owned())
}

/// Reads `A:B`, the first and the last port.
pub(crate) fn port_range(text: &str) -> Result<(u16, u16), String> {
    let expected = "two ports are expected, the first and the last, as in 40000:40100";
    let (first, last) = text.split_once(':').ok_or(expected)?;
    let port = |text: &str| unsigned(text).ok_or_else(|| expected.to_owned());
    match (port(first)?, port(last)?) {
        (0, _) => Err("port 0 is none; ports from 1 to 65535 are expected".to_owned()),
        (first, last) if first > last => Err(format!("write the lower port first: {last}:{first}")),
        range => Ok(range),
    }
}

/// Reads a block size.
pub(crate) fn blksize(text: &str) -> Result<u16, String> {
    within(text, BLKSIZE_MIN, BLKSIZE_MAX)
}

/// Reads a block size or `mtu`.
pub(crate) fn blksize_max(text: &str) -> Result<BlksizeMax, String> {
    if text.eq_ignore_ascii_case("mtu") {
        return Ok(BlksizeMax::Mtu);
    }
    blksize(text)
        .map(BlksizeMax::Octets)
        .map_err(|error| format!("{error}, or mtu"))
}

/// Reads a window size.
pub(crate) fn windowsize(text: &str) -> Result<u16, String> {
    within(text, 1, WINDOWSIZE_MAX).map_err(|error| match unsigned::<u16>(text) {
        Some(WINDOWSIZE_MAX..) => {
            format!("{error}: with more, old blocks could not be told from new ones")
        }
        _ => error,
    })
}

/// Reads a count of at least one.
pub(super) fn count(text: &str) -> Result<u64, String> {
    unsigned(text)
        .filter(|&count| count > 0)
        .ok_or_else(|| "a whole number above zero is expected".to_owned())
}

/// Reads the value of the `timeout` option.
pub(crate) fn timeout(text: &str) -> Result<u8, String> {
    within(text, 1, u8::MAX)
}

/// Reads a time in seconds, fractions included.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    fraction(text)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        // The limit is a hundred years, longer than any real wait; beyond it sums would overflow.
        .filter(|time| time.as_secs() < 100 * 365 * 86_400)
        .ok_or_else(|| "a number of seconds is expected, as in 30 or 0.5".to_owned())
}

/// Reads a time in seconds that is not zero.
pub(crate) fn seconds_above_zero(text: &str) -> Result<Duration, String> {
    seconds(text)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "a number of seconds above zero is expected, as in 30 or 0.5".to_owned())
}

/// Reads a time in milliseconds, fractions included.
pub(crate) fn milliseconds(text: &str) -> Result<Duration, String> {
    seconds(text)
        .map(|time| time / 1000)
        .map_err(|_| "a number of milliseconds is expected, as in 250".to_owned())
}

/// Client profiles with their weights, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profiles(pub(crate) Vec<(Profile, u32)>);

/// Reads the name of a profile, or several with weights: `ipxe=5,edk2=3`.
pub(crate) fn profiles(text: &str) -> Result<Profiles, String> {
    let profile = |text: &str| {
        let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
        let profile = *profile::find(name)?;
        Some((profile, unsigned(weight).filter(|&weight| weight > 0)?))
    };
    let profiles = text.split(',').map(profile).collect::<Option<_>>();
    profiles.map(Profiles).ok_or_else(|| {
        let names = profile::PROFILES.iter().map(|profile| profile.name);
        let names: Vec<_> = names.collect();
        format!(
            "one of {} is expected, or several with weights, as in ipxe=5,edk2=3",
            names.join(", ")
        )
    })
}

/// The minimum and maximum of a delay, as typed.
pub(super) type Delay = (Duration, Duration);

/// Reads a delay in milliseconds: `5` or `2..10`.
pub(super) fn delay(text: &str) -> Result<Delay, String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let expected = "milliseconds are expected, or the least and the most of them, as in 5 or 2..10";
    let [least, most] = [milliseconds(least), milliseconds(most)];
    match (least, most) {
        (Ok(least), Ok(most)) if least <= most => Ok((least, most)),
        _ => Err(expected.to_owned()),
    }
}

/// Reads after how many blocks a client pauses, and for how long: `45:500`.
pub(super) fn flash(text: &str) -> Result<Flash, String> {
    let expected = "blocks and milliseconds are expected, as in 45:500";
    let (blocks, pause) = text.split_once(':').ok_or(expected)?;
    match (within(blocks, 1, u16::MAX), milliseconds(pause)) {
        (Ok(blocks), Ok(pause)) => Ok(Flash { blocks, pause }),
        _ => Err(expected.to_owned()),
    }
}

/// Above this, the second of many files is requested once in a million times.
const EXPONENT_MAX: f64 = 20.0;

/// Reads the exponent of Zipf's law.
pub(super) fn exponent(text: &str) -> Result<f64, String> {
    fraction(text)
        .filter(|exponent| (0.0..=EXPONENT_MAX).contains(exponent))
        .ok_or_else(|| format!("a number from 0 to {EXPONENT_MAX} is expected, as in 1"))
}

/// The maximum ratio of a step's load to that of the step before: more would overshoot.
const FACTOR_MAX: f64 = 10.0;

/// Reads the ratio of a step's load to that of the step before.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    fraction(text)
        .filter(|factor| (1.01..=FACTOR_MAX).contains(factor))
        .ok_or_else(|| format!("a number from 1.01 to {FACTOR_MAX} is expected, as in 1.5"))
}

/// Reads a rate per second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    fraction(text)
        .filter(|rate| *rate > 0.0 && *rate <= RATE_MAX)
        .ok_or_else(|| format!("a number a second, above 0 and up to {RATE_MAX}, is expected"))
}

/// Reads a range of seeds: `0..1000`.
pub(super) fn seeds(text: &str) -> Result<Range<u64>, String> {
    text.split_once("..")
        .and_then(|(first, end)| Some(unsigned(first)?..unsigned(end)?))
        .filter(|seeds: &Range<u64>| !seeds.is_empty())
        .ok_or_else(|| "two numbers are expected, the second one larger, as in 0..1000".to_owned())
}

/// Reads a probability: `0.05` or `5%`.
pub(crate) fn probability(text: &str) -> Result<f64, String> {
    let (number, divisor) = match text.strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (text, 1.0),
    };
    fraction(number)
        .map(|number| number / divisor)
        .filter(|probability| (0.0..=1.0).contains(probability))
        .ok_or_else(|| "a probability from 0 to 1 is expected, as in 0.05 or 5%".to_owned())
}

/// Reads `CIDR:NAME=VALUE,…`.
pub(crate) fn subnet(text: &str) -> Result<Subnet, String> {
    let expected = "a subnet and its settings are expected, as in 10.1.0.0/16:max-blksize=1024,max-windowsize=8,retransmit-floor=500";
    // An IPv6 address contains colons itself; the separator comes after the prefix length.
    let (address, rest) = text.split_once('/').ok_or(expected)?;
    let (prefix, settings) = rest.split_once(':').ok_or(expected)?;
    let address: IpAddr = address
        .trim_matches(['[', ']'])
        .parse()
        .map_err(|_| format!("\"{address}\" is no IP address; {expected}"))?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix =
        within(prefix, 0, bits).map_err(|error| format!("in the prefix length, {error}"))?;
    let mut subnet = Subnet {
        address,
        prefix,
        blksize_max: None,
        windowsize_max: None,
        retransmit_floor: None,
    };
    let (network, _) = subnet.network();
    if network != address {
        // Either number may be the mistyped one.
        return Err(format!(
            "{address}/{prefix} is an address within a subnet; write {network}/{prefix}:{settings}"
        ));
    }
    for setting in settings.split(',') {
        let (name, value) = setting.split_once('=').ok_or(expected)?;
        let named = |error: String| format!("in {name}, {error}");
        let twice = match name {
            "max-blksize" => {
                let value = blksize(value).map_err(named)?;
                subnet.blksize_max.replace(value).is_some()
            }
            "max-windowsize" => {
                let value = windowsize(value).map_err(named)?;
                subnet.windowsize_max.replace(value).is_some()
            }
            "retransmit-floor" => {
                let value = milliseconds(value).map_err(named)?;
                subnet.retransmit_floor.replace(value).is_some()
            }
            _ => {
                return Err(format!(
                    "\"{name}\" is no setting of a subnet; max-blksize, max-windowsize or retransmit-floor is expected"
                ));
            }
        };
        if twice {
            return Err(format!("{name} is there twice: once is enough"));
        }
    }
    Ok(subnet)
}

/// Reads a number from `LEAST` to `MOST`, which must fit in `N`.
pub(super) fn number<N, const LEAST: u64, const MOST: u64>(text: &str) -> Result<N, String>
where
    N: TryFrom<u64>,
{
    let number = within(text, LEAST, MOST)?;
    N::try_from(number).map_err(|_| format!("{number} is too large"))
}

/// Reads an integer of any size.
pub(super) fn whole(text: &str) -> Result<u64, String> {
    unsigned(text).ok_or_else(|| "a whole number is expected, 0 or above".to_owned())
}

/// Reads a yes or no, where a flag cannot express it by its presence.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        // A variable may be set to an empty value.
        "0" | "false" | "no" | "off" | "" => Ok(false),
        _ => Err("1, true, yes or on is expected, or 0, false, no or off".to_owned()),
    }
}

/// Reads a log filter.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let expected = "a level is expected, or some by module, as in bootstorm::shard=debug";
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; {expected}")),
    }
}

fn within<N: FromStr + PartialOrd + std::fmt::Display + Copy>(
    text: &str,
    least: N,
    most: N,
) -> Result<N, String> {
    unsigned(text)
        .filter(|number| *number >= least && *number <= most)
        .ok_or_else(|| format!("a number from {least} to {most} is expected"))
}

/// Reads a number that may have a fraction; a sign is an error.
fn fraction(text: &str) -> Option<f64> {
    text.parse().ok().filter(|_| !text.starts_with(['+', '-']))
}

/// Reads digits; a sign is an error.
pub(crate) fn unsigned<N: FromStr>(text: &str) -> Option<N> {
    let is_digits = text.bytes().all(|octet| octet.is_ascii_digit());
    text.parse().ok().filter(|_| is_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_sides_are_named_as_they_are_printed() {
        let told = [
            ("127.0.0.1:9100", "127.0.0.1:9100"),
            ("http://[::1]:9100/", "[::1]:9100"),
            ("server.lan:9100", "server.lan:9100"),
            (":9100", "localhost:9100"),
        ];
        for (typed, meant) in told {
            assert_eq!(admin(typed).as_deref(), Ok(meant));
        }
        for typed in ["", "9100", "127.0.0.1", "https://a:1/b"] {
            assert!(admin(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn addresses_to_listen_on() {
        assert_eq!(
            listen("[::1]:69"),
            Ok(Listen::At("[::1]:69".parse().unwrap()))
        );
        assert_eq!(
            listen("10.0.0.1:0"),
            Ok(Listen::At("10.0.0.1:0".parse().unwrap()))
        );
        assert_eq!(listen(":6969"), Ok(Listen::Anywhere(6969)));
        assert_eq!(listen("*:69"), Ok(Listen::Anywhere(69)));
        assert_eq!(
            listen("localhost:69"),
            Ok(Listen::Named("localhost".into(), 69))
        );
        for (typed, hint) in [
            ("6969", "write :6969"),
            ("10.0.0.1", "write 10.0.0.1:69"),
            ("::1", "write [::1]:69"),
            ("[::1]", "write [::1]:69"),
            ("localhost", "write localhost:69"),
            ("fe80:::69", "brackets"),
            ("[nonsense]:69", "no IPv6 address"),
            ("host:70000", "0 to 65535"),
            ("host:", "0 to 65535"),
            ("10.0.0.1:+5", "0 to 65535"),
            ("", "missing"),
            (":", "0 to 65535"),
            ("/srv/tftp", "no path"),
        ] {
            let error = listen(typed).unwrap_err();
            assert!(error.contains(hint), "{typed}: {error}");
        }
    }

    #[test]
    fn an_address_has_a_port() {
        let expected = Listen::At(SocketAddr::from(([127, 0, 0, 1], 9100)));
        assert_eq!(address("127.0.0.1:9100"), Ok(expected));
        assert_eq!(address(":9100"), Ok(Listen::Anywhere(9100)));
        for typed in ["9100", ":", "127.0.0.1", "localhost:9100", ""] {
            let error = address(typed).expect_err("no address");
            assert!(error.contains("as in 127.0.0.1:9100"), "{error}");
        }
    }

    #[test]
    fn sizes() {
        let good = [
            ("0", 0),
            ("300", 300),
            ("64K", 64_000),
            ("64 kb", 64_000),
            ("64KiB", 65_536),
            ("2g", 2_000_000_000),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
        ];
        for (typed, octets) in good {
            assert_eq!(size(typed), Ok(octets), "{typed}");
        }
        for typed in ["", "K", "-1", "1.5G", "1X", "0x10", "１", "99999999999T"] {
            assert!(size(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn a_frame_cache_has_room_for_something_or_is_none() {
        assert_eq!(frame_cache("0"), Ok(0));
        assert_eq!(frame_cache("1MiB"), Ok(1 << 20));
        for typed in ["1", "64K", "1048575"] {
            let error = frame_cache(typed).expect_err("too little");
            assert!(error.contains("1MiB"), "{error}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("1:65535"), Ok((1, 65_535)));
        assert_eq!(port_range("7:7"), Ok((7, 7)));
        for typed in [
            "", ":", "1", "0:5", "9:5", "1:70000", "a:b", "1:2:3", "+1:2",
        ] {
            assert!(port_range(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn block_and_window_sizes() {
        assert_eq!(blksize_max("mtu"), Ok(BlksizeMax::Mtu));
        assert_eq!(blksize_max("8"), Ok(BlksizeMax::Octets(8)));
        assert_eq!(blksize("65464"), Ok(65_464));
        assert_eq!(windowsize("32767"), Ok(32_767));
        assert_eq!(
            windowsize("32768"),
            Err("a number from 1 to 32767 is expected: with more, old blocks could not be told from new ones".into())
        );
        assert_eq!(timeout("255"), Ok(255));
        assert_eq!(
            blksize_max("7"),
            Err("a number from 8 to 65464 is expected, or mtu".into())
        );
        assert!(blksize("65465").is_err());
        assert!(blksize("+512").is_err());
        assert!(windowsize("0").is_err());
        assert!(timeout("256").is_err());
    }

    #[test]
    fn numbers_and_switches() {
        assert_eq!(number::<u16, 1, 1024>("1024"), Ok(1024));
        for typed in ["0", "1025", "+1", "-1", "", "x", "99999999999999999999"] {
            let expected = "a number from 1 to 1024 is expected".to_owned();
            assert_eq!(number::<u16, 1, 1024>(typed), Err(expected), "{typed}");
        }
        assert_eq!(number::<u32, 1, U32_MAX>("4294967295"), Ok(u32::MAX));
        assert_eq!(whole("0"), Ok(0));
        assert!(whole("-1").is_err());
        for typed in ["1", "Yes", "on", "TRUE"] {
            assert_eq!(switch(typed), Ok(true), "{typed}");
        }
        for typed in ["0", "no", "Off", "false", ""] {
            assert_eq!(switch(typed), Ok(false), "{typed}");
        }
        for typed in ["2", "maybe", "of", " "] {
            assert!(switch(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn times_and_probabilities() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(milliseconds("250"), Ok(Duration::from_millis(250)));
        for typed in ["", "-1", "+1", "NaN", "inf", "1e300", "1s"] {
            assert!(seconds(typed).is_err(), "{typed}");
        }
        assert!(milliseconds("+100").is_err() && seconds_above_zero("+100").is_err());
        assert_eq!(probability("5%"), Ok(0.05));
        assert_eq!(probability("1"), Ok(1.0));
        for typed in ["", "%", "1.1", "101%", "-0.1", "+0.1", "NaN"] {
            assert!(probability(typed).is_err(), "{typed}");
        }
        assert!(rate("+5").is_err() && seeds("+0..1").is_err());
        assert!(number::<u16, 1, 1024>("+2").is_err() && count("+100").is_err());
        assert_eq!(number::<u16, 1, 1024>("1024"), Ok(1024));
    }

    #[test]
    fn clients_and_what_befalls_them() {
        let Profiles(two) = profiles("ipxe=5,edk2").expect("two");
        let two: Vec<_> = two.iter().map(|(p, weight)| (p.name, *weight)).collect();
        assert_eq!(two, [("ipxe", 5), ("edk2", 1)]);
        for typed in ["", "ipxe,", "ipxe=0", "ipxe=x", "bios"] {
            assert!(profiles(typed).is_err(), "{typed}");
        }
        let millis = Duration::from_millis;
        assert_eq!(delay("5"), Ok((millis(5), millis(5))));
        assert_eq!(delay("2..10"), Ok((millis(2), millis(10))));
        for typed in ["", "..", "10..2", "2..", "-1"] {
            assert!(delay(typed).is_err(), "{typed}");
        }
        let (blocks, pause) = (45, millis(500));
        assert_eq!(flash("45:500"), Ok(Flash { blocks, pause }));
        assert!(flash("0:500").is_err() && flash("45").is_err());
        assert!(factor("1").is_err() && factor("NaN").is_err());
        assert_eq!((factor("2"), exponent("0.8")), (Ok(2.0), Ok(0.8)));
    }

    #[test]
    fn subnets() {
        let full = subnet("2001:db8::/32:max-blksize=1228,max-windowsize=8,retransmit-floor=500");
        assert_eq!(
            full,
            Ok(Subnet {
                address: "2001:db8::".parse().unwrap(),
                prefix: 32,
                blksize_max: Some(1228),
                windowsize_max: Some(8),
                retransmit_floor: Some(Duration::from_millis(500)),
            })
        );
        assert_eq!(
            subnet("10.0.0.0/8:max-windowsize=1").map(|subnet| subnet.prefix),
            Ok(8)
        );
        for (typed, meant) in [
            ("10.0.0.1/8:max-blksize=512", "10.0.0.0/8:max-blksize=512"),
            (
                "2001:db8::1/32:max-windowsize=1",
                "2001:db8::/32:max-windowsize=1",
            ),
            ("1.2.3.4/0:max-windowsize=1", "0.0.0.0/0:max-windowsize=1"),
        ] {
            let error = subnet(typed).expect_err(typed);
            assert!(error.ends_with(&format!("write {meant}")), "{error}");
            assert!(subnet(meant).is_ok(), "{meant}");
        }
        assert!(subnet("10.0.0.1/32:max-blksize=512").is_ok());
        for typed in [
            "",
            "10.0.0.0",
            "10.0.0.0/8",
            "10.0.0.0/8:",
            "10.0.0.0/33:max-blksize=512",
            "::/129:max-blksize=512",
            "host/8:max-blksize=512",
            "10.0.0.0/8:max-blksize=7",
            "10.0.0.0/8:blksize=512",
            "10.0.0.0/8:max-blksize",
            "10.0.0.0/8:max-blksize=512,max-blksize=512",
            "10.0.0.0/8:max-windowsize=4,max-windowsize=5",
            "10.0.0.0/8:retransmit-floor=4,max-blksize=512,retransmit-floor=5",
        ] {
            assert!(subnet(typed).is_err(), "{typed}");
        }
    }
}
