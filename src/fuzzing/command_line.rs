//! Fuzz target body for the command line: single values, URLs and servers, and whole lines.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::cli::url::{self, Server, Url};
use crate::cli::values::{self, BlksizeMax, Listen};
use crate::cli::{self as command_line};
use crate::load::profile::Profile;
use crate::proto::negotiate::{BLKSIZE_MAX, BLKSIZE_MIN};
use crate::time::Duration;
use crate::wire::Mode;

/// First octet of an input that is a whole command line, with words separated by line feeds.
const WHOLE_LINE: u8 = b'$';

/// Typed times are floating-point numbers, which are off by less than this within a hundred years.
const TIME_TOLERANCE: Duration = Duration::from_micros(1);

/// Input is accepted or rejected with a reason. An accepted value keeps its bounds, matches a naive parser,
/// and means the same when it is written out and read again.
pub fn cli(octets: &[u8]) {
    if let Some((&WHOLE_LINE, words)) = octets.split_first() {
        let words = words.split(|&octet| octet == b'\n').map(<[u8]>::to_vec);
        let line = std::iter::once(b"bootstorm".to_vec()).chain(words);
        command_line::is_well_formed(line.map(OsString::from_vec));
        return;
    }
    places(octets);
    if let Ok(text) = str::from_utf8(octets) {
        numbers(text);
        times(text);
        addresses(text);
    }
}

/// URLs and servers.
fn places(octets: &[u8]) {
    if let Ok(server) = expect_reason(url::server(octets)) {
        assert_sound(&server);
        assert_eq!(url::server(written(&server).as_bytes()), Ok(server));
    }
    if let Some(Ok(url)) = url::url(octets).map(expect_reason) {
        assert_sound(&url.server);
        assert!(!url.name.contains(&0));
        let again = written_url(&url);
        assert_eq!(url::url(again.as_bytes()), Some(Ok(url)), "{again}");
    }
    if let Some(last) = url::last_component(octets) {
        assert!(!last.contains(&b'/') && !matches!(last, b"" | b"." | b".."));
        assert!(octets.ends_with(last));
    }
}

fn assert_sound(server: &Server) {
    assert!(!server.host.is_empty() && server.port > 0);
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '/';
    assert!(!server.host.contains(odd), "{:?}", server.host);
}

fn written(server: &Server) -> String {
    let Server { host, port } = server;
    if host.contains(':') {
        // Within brackets the first percent sign is an escape.
        format!("[{}]:{port}", host.replacen('%', "%25", 1))
    } else {
        format!("{host}:{port}")
    }
}

fn written_url(url: &Url) -> String {
    let name: String = url
        .name
        .iter()
        .map(|octet| format!("%{octet:02x}"))
        .collect();
    let mode = match url.mode {
        None => "",
        Some(Mode::Octet) => ";mode=octet",
        Some(Mode::Netascii) => ";mode=netascii",
    };
    format!("tftp://{}/{name}{mode}", written(&url.server))
}

/// Sizes, ports and protocol numbers.
fn numbers(text: &str) {
    let size = expect_reason(values::size(text)).ok();
    assert_eq!(size, naive_size(text), "{text:?}");
    assert_eq!(values::memory(text).ok().map(|size| size as u64), size);
    if let Some(size) = size {
        assert_eq!(values::size(&size.to_string()), Ok(size));
    }
    if let Ok((first, last)) = expect_reason(values::port_range(text)) {
        assert!(0 < first && first <= last);
        assert_eq!(
            values::port_range(&format!("{first}:{last}")),
            Ok((first, last))
        );
    }
    let blksize = expect_reason(values::blksize(text)).ok();
    if let Some(blksize) = blksize {
        assert!((BLKSIZE_MIN..=BLKSIZE_MAX).contains(&blksize));
        assert_eq!(values::blksize(&blksize.to_string()), Ok(blksize));
    }
    match expect_reason(values::blksize_max(text)) {
        Ok(BlksizeMax::Mtu) => assert_eq!(text.to_ascii_lowercase(), "mtu"),
        Ok(BlksizeMax::Octets(octets)) => assert_eq!(blksize, Some(octets)),
        Err(_) => assert_eq!(blksize, None),
    }
    let is_digits = text.chars().all(|c| c.is_ascii_digit());
    let number = text.parse::<u64>().ok();
    let number = number.filter(|&number| is_digits && number > 0);
    let windowsize = expect_reason(values::windowsize(text)).ok().map(u64::from);
    assert_eq!(windowsize, number.filter(|&number| number < 1 << 15));
    let timeout = expect_reason(values::timeout(text)).ok().map(u64::from);
    assert_eq!(timeout, number.filter(|&number| number < 1 << 8));
}

/// A size as a parser with unbounded numbers would read it.
fn naive_size(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let unit = unit.trim_start();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some(_) => return None,
    };
    let base: u128 = match (power, unit.get(1..).unwrap_or("")) {
        (0, "") | (1.., "" | "b") => 1_000,
        (1.., "ib") => 1_024,
        _ => return None,
    };
    // So many digits are too many for any other arithmetic, whatever the number of leading zeros.
    let digits = number.trim_start_matches('0');
    if number.is_empty() || digits.len() > 20 {
        return None;
    }
    let octets = digits.parse::<u128>().unwrap_or(0) * base.pow(power);
    u64::try_from(octets).ok()
}

/// Times, rates and probabilities.
fn times(text: &str) {
    let seconds = expect_reason(values::seconds(text)).ok();
    if let Some(time) = seconds {
        assert!(time < Duration::from_secs(100 * 365 * 86_400));
        let again = values::seconds(&time.as_secs_f64().to_string());
        assert!(again.is_ok_and(|again| again.abs_diff(time) < TIME_TOLERANCE));
    }
    assert_eq!(
        expect_reason(values::seconds_above_zero(text)).ok(),
        seconds.filter(|time| !time.is_zero())
    );
    assert_eq!(
        expect_reason(values::milliseconds(text)).ok(),
        seconds.map(|time| time / 1000)
    );
    if let Ok(rate) = expect_reason(values::rate(text)) {
        assert!(rate > 0.0 && rate.is_finite());
        assert_eq!(values::rate(&rate.to_string()), Ok(rate));
    }
    if let Ok(probability) = expect_reason(values::probability(text)) {
        assert!((0.0..=1.0).contains(&probability));
        assert_eq!(
            values::probability(&probability.to_string()),
            Ok(probability)
        );
    }
    if let Ok(profiles) = expect_reason(values::profiles(text)) {
        let one = |(profile, weight): &(Profile, u32)| format!("{}={weight}", profile.name);
        let again: Vec<String> = profiles.0.iter().map(one).collect();
        assert_eq!(values::profiles(&again.join(",")), Ok(profiles));
    }
}

/// Listen addresses and subnets.
fn addresses(text: &str) {
    if let Ok(listen) = expect_reason(values::listen(text)) {
        let again = match &listen {
            Listen::Anywhere(port) => format!(":{port}"),
            Listen::At(address) => address.to_string(),
            Listen::Named(host, port) => format!("{host}:{port}"),
        };
        assert_eq!(values::listen(&again), Ok(listen), "{again}");
    }
    if let Ok(subnet) = expect_reason(values::subnet(text)) {
        assert!(subnet.holds(subnet.address));
        assert!(subnet.prefix <= if subnet.address.is_ipv4() { 32 } else { 128 });
        let settings = [
            subnet.blksize_max.map(|n| format!("max-blksize={n}")),
            subnet.windowsize_max.map(|n| format!("max-windowsize={n}")),
            subnet
                .retransmit_floor
                .map(|time| format!("retransmit-floor={}", time.as_secs_f64() * 1e3)),
        ];
        let settings: Vec<_> = settings.into_iter().flatten().collect();
        let (address, prefix) = (subnet.address, subnet.prefix);
        let again = format!("{address}/{prefix}:{}", settings.join(","));
        let mut read = values::subnet(&again).unwrap_or_else(|why| panic!("{again}: {why}"));
        if let (Some(floor), Some(read)) = (subnet.retransmit_floor, &mut read.retransmit_floor) {
            assert!(floor.abs_diff(*read) < TIME_TOLERANCE);
            *read = floor;
        }
        assert_eq!(read, subnet);
    }
}

/// Checks that an error says what is expected.
fn expect_reason<T>(result: Result<T, String>) -> Result<T, String> {
    if let Err(reason) = &result {
        assert!(!reason.is_empty());
    }
    result
}
