//! `serve`: converts the arguments to the server's options.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::thread;

use super::Trouble;
use super::args::{LogFormat, Serve};
use super::values::{Listen, PORT};
use crate::config::{self, STRICT_RETRIES, Settings, Subnet};
use crate::control::{self, ControlOptions};
use crate::proto::timing::Patience;
use crate::server::ServerOptions;
use crate::store::directory::DirectoryOptions;

/// The first port that any user may listen on.
const UNPRIVILEGED_PORT_MIN: u16 = 1024;

pub(super) fn run(arguments: &Serve, log_format: LogFormat) -> Result<(), Trouble> {
    let ipv6 = has_ipv6();
    let options = options(arguments, ipv6)?;
    let admin = match &arguments.admin {
        Some(typed) => addresses(typed, ipv6)?.first().copied(),
        None => None,
    };
    let control = ControlOptions {
        drain_timeout: arguments.drain_timeout,
        admin,
        objects: log_format == LogFormat::Json,
    };
    control::serve(&options, &control).map_err(|error| failed(&error, &options, admin))
}

/// The error, with advice if the cause is known.
fn failed(error: &io::Error, options: &ServerOptions, admin: Option<SocketAddr>) -> Trouble {
    let clients = options
        .listen
        .iter()
        .map(|&address| (Side::Clients, address));
    let operators = admin.map(|address| (Side::Operators, address));
    let told = error.to_string();
    for (side, address) in clients.chain(operators) {
        for errno in [libc::EACCES, libc::EADDRINUSE, libc::EADDRNOTAVAIL] {
            // Only the system's plain error for this very address: other errors, such as having no port
            // to answer from, already say what to do.
            let refusal = io::Error::from_raw_os_error(errno);
            let transport = side.transport();
            if told == format!("cannot listen on {transport} {address}: {refusal}")
                && let Some(hint) = hint(side, address, refusal.kind())
            {
                return Trouble::Work(format!("{told}: {hint}"));
            }
        }
    }
    Trouble::work(error)
}

/// The purpose of a listening address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Clients,
    Operators,
}

impl Side {
    const fn transport(self) -> &'static str {
        match self {
            Self::Clients => "udp",
            Self::Operators => "tcp",
        }
    }
}

/// What to do if the system does not let this process listen there.
fn hint(side: Side, address: SocketAddr, refusal: io::ErrorKind) -> Option<String> {
    let (flag, tool, example) = match side {
        Side::Clients => ("--listen", "ss -lunp", ":6969"),
        Side::Operators => ("--admin", "ss -ltnp", "127.0.0.1:9100"),
    };
    match refusal {
        io::ErrorKind::PermissionDenied if address.port() < UNPRIVILEGED_PORT_MIN => Some(format!(
            "ports below {UNPRIVILEGED_PORT_MIN} need root or CAP_NET_BIND_SERVICE; any user may take another, as with {flag} {example}"
        )),
        io::ErrorKind::AddrInUse => Some(format!(
            "another program has the port, or bootstorm runs already ({tool} tells); {flag} takes another one, or 0 for any that is free"
        )),
        io::ErrorKind::AddrNotAvailable => Some(format!(
            "this host does not have that address (ip address lists those that it has); {flag} :{} is every one of them",
            address.port()
        )),
        _ => None,
    }
}

/// Converts the arguments, for a host with or without IPv6.
fn options(arguments: &Serve, ipv6: bool) -> Result<ServerOptions, Trouble> {
    let mut listen = Vec::new();
    for typed in &arguments.listen {
        listen.extend(addresses(typed, ipv6)?);
    }
    if listen.is_empty() {
        listen.push(anywhere(PORT, ipv6));
    }
    // Port 0 is a different port each time.
    let twice = duplicate(listen.iter().filter(|address| address.port() != 0));
    if let Some(address) = twice {
        return Err(Trouble::arguments(format!(
            "--listen has {address} twice: once is enough"
        )));
    }
    let networks = arguments.subnet.iter().map(Subnet::network);
    if let Some((network, prefix)) = duplicate(networks) {
        return Err(Trouble::arguments(format!(
            "--subnet has {network}/{prefix} twice: write all its settings into one, with commas between"
        )));
    }
    // Not left to clap, which treats a variable that is set to "no" as given.
    if arguments.single_port && arguments.port_range.is_some() {
        return Err(Trouble::arguments(
            "--single-port cannot be used with --port-range, as it answers from the port that was asked; \
             variables and the file of --config count as well",
        ));
    }
    if let (Some(wanted), Some(memory)) = (arguments.frame_cache, config::memory())
        && wanted as u64 > memory
    {
        return Err(Trouble::arguments(format!(
            "--frame-cache: {} MiB is more than the {} MiB of memory that there is; without it, a quarter of that is taken",
            wanted >> 20,
            memory >> 20
        )));
    }
    let mut patience = Patience {
        lockstep_floor: arguments.retransmit_floor,
        idle: arguments.idle_timeout,
        ..Patience::DEFAULT
    };
    if arguments.strict {
        patience.unvalidated_retries = STRICT_RETRIES;
    }
    let workers = arguments.workers.map_or_else(
        || thread::available_parallelism().map_or(1, usize::from),
        usize::from,
    );
    Ok(ServerOptions {
        listen,
        workers,
        pin: arguments.pin,
        settings: Settings {
            patience,
            blksize_max: arguments.max_blksize.octets(),
            windowsize_max: arguments.max_windowsize,
            transfers_max: usize::try_from(arguments.max_transfers).unwrap_or(usize::MAX),
            uploads_max: config::UPLOADS_MAX,
            single_port: arguments.single_port,
            port_range: arguments.port_range,
            subnets: arguments.subnet.clone(),
        },
        root: arguments.root.clone(),
        directory: DirectoryOptions {
            writes: arguments.write.into(),
            case_insensitive: arguments.case_insensitive,
            upload_octets_max: arguments.max_upload,
        },
        frame_cache_octets: arguments
            .frame_cache
            .unwrap_or_else(config::frame_cache_octets_default),
        engine: arguments.engine.into(),
        gso: !arguments.no_gso,
    })
}

/// The first element that occurs a second time.
fn duplicate<T: PartialEq>(all: impl IntoIterator<Item = T>) -> Option<T> {
    let mut seen = Vec::new();
    for one in all {
        if seen.contains(&one) {
            return Some(one);
        }
        seen.push(one);
    }
    None
}

fn addresses(listen: &Listen, ipv6: bool) -> Result<Vec<SocketAddr>, Trouble> {
    match listen {
        Listen::At(address) => Ok(vec![*address]),
        Listen::Anywhere(port) => Ok(vec![anywhere(*port, ipv6)]),
        Listen::Named(name, port) => {
            let mut addresses: Vec<SocketAddr> = (name.as_str(), *port)
                .to_socket_addrs()
                .map_err(|error| Trouble::Work(format!("cannot listen on {name}:{port}: {error}")))?
                .filter(|address| ipv6 || address.is_ipv4())
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
            Ok(addresses)
        }
    }
}

/// The wildcard address of the host: IPv6 sockets take IPv4 too.
fn anywhere(port: u16, ipv6: bool) -> SocketAddr {
    if ipv6 {
        (Ipv6Addr::UNSPECIFIED, port).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, port).into()
    }
}

/// Whether this host supports IPv6.
fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
        || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Arguments, Command};
    use super::*;
    use crate::server::EngineChoice;
    use crate::store::Writes;
    use crate::time::Duration;

    fn typed(line: &str) -> ServerOptions {
        options(&parsed(line), true).expect(line)
    }

    fn parsed(line: &str) -> Serve {
        let words = ["bootstorm", "serve"]
            .into_iter()
            .chain(line.split_whitespace());
        match Arguments::try_parse_from(words).expect(line).command {
            Command::Serve(serve) => *serve,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_settings() {
        let options = typed("");
        assert_eq!(options.settings, Settings::default());
        assert_eq!(options.directory, DirectoryOptions::default());
        assert_eq!(
            options.frame_cache_octets,
            config::frame_cache_octets_default()
        );
        assert_eq!(parsed("").drain_timeout, config::DRAIN_TIMEOUT_DEFAULT);
        assert_eq!(options.root.as_os_str(), "/srv/tftp");
        assert_eq!(options.listen, ["[::]:69".parse().unwrap()]);
        assert!(options.workers >= 1);
        assert_eq!(options.engine, EngineChoice::Auto);
        assert_eq!(typed("--engine uring").engine, EngineChoice::Uring);
        let embedded = ServerOptions::default();
        assert_eq!(options.settings, embedded.settings);
        assert_eq!(options.directory, embedded.directory);
        assert_eq!(options.frame_cache_octets, embedded.frame_cache_octets);
        let rest = |options: &ServerOptions| (options.workers, options.pin, options.gso);
        assert_eq!(rest(&options), rest(&embedded));
        assert_eq!(options.engine, embedded.engine);
        assert!(
            embedded
                .listen
                .iter()
                .all(|address| address.ip().is_loopback())
        );
    }

    #[test]
    fn every_flag_arrives() {
        let options = typed(
            "/images -l :6969 --listen 127.0.0.1:0 --write overwrite --engine mio --workers 3 \
             --port-range 40000:40100 --max-blksize 1024 --max-windowsize 16 --max-transfers 10 \
             --max-upload 1GiB --idle-timeout 5 --strict --case-insensitive --retransmit-floor 250 \
             --subnet 10.0.0.0/8:max-windowsize=1 --subnet ::/0:max-blksize=512,retransmit-floor=9 \
             --frame-cache 0",
        );
        let listen: Vec<SocketAddr> =
            vec!["[::]:6969".parse().unwrap(), "127.0.0.1:0".parse().unwrap()];
        assert_eq!(options.listen, listen);
        assert_eq!(options.engine, EngineChoice::Mio);
        assert_eq!(options.workers, 3);
        assert_eq!(options.frame_cache_octets, 0);
        assert_eq!(options.directory.writes, Writes::Overwrite);
        assert!(options.directory.case_insensitive);
        assert_eq!(options.directory.upload_octets_max, Some(1 << 30));
        let settings = options.settings;
        assert_eq!(settings.port_range, Some((40_000, 40_100)));
        assert_eq!(settings.blksize_max, Some(1024));
        assert_eq!(settings.windowsize_max, 16);
        assert_eq!(settings.transfers_max, 10);
        assert_eq!(settings.patience.idle, Duration::from_secs(5));
        assert_eq!(settings.patience.lockstep_floor, Duration::from_millis(250));
        assert_eq!(settings.patience.unvalidated_retries, STRICT_RETRIES);
        assert_eq!(settings.subnets.len(), 2);
        assert!(typed("--single-port").settings.single_port);
        assert!(typed("--pin").pin && !typed("").pin);
        assert!(!typed("--no-gso").gso && typed("").gso);
    }

    #[test]
    fn what_is_there_twice_is_refused() {
        for (line, hint) in [
            ("-l :7 -l :7", "[::]:7 twice"),
            ("-l 127.0.0.1:7 -l localhost:7", "127.0.0.1:7 twice"),
            (
                "--subnet 10.0.0.0/8:max-blksize=512 --subnet 10.0.0.0/8:max-windowsize=1",
                "10.0.0.0/8 twice",
            ),
            (
                "--subnet ::/0:max-blksize=512 --subnet ::/0:max-blksize=512",
                "::/0 twice",
            ),
        ] {
            match options(&parsed(line), true) {
                Err(Trouble::Arguments(why)) => assert!(why.contains(hint), "{why}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        assert_eq!(
            typed("-l :0 -l :0 -l 127.0.0.1:7 -l [::1]:7").listen.len(),
            4
        );
        let subnets = "--subnet 0.0.0.0/0:max-blksize=512 --subnet 0.0.0.0/1:max-blksize=8 --subnet ::/0:max-blksize=8";
        assert_eq!(typed(subnets).settings.subnets.len(), 3);
    }

    #[test]
    fn advice_follows_what_the_system_refused() {
        let options = ServerOptions {
            listen: vec![
                "127.0.0.1:6969".parse().unwrap(),
                "[::]:69".parse().unwrap(),
            ],
            ..ServerOptions::default()
        };
        let told = |text: &str, errno: i32| {
            let refusal = io::Error::from_raw_os_error(errno);
            let error = io::Error::new(refusal.kind(), format!("{text}: {refusal}"));
            match failed(&error, &options, Some("127.0.0.1:9100".parse().unwrap())) {
                Trouble::Work(told) => told,
                other => panic!("{other:?}"),
            }
        };
        let on = "cannot listen on";
        for (text, errno, hint) in [
            (
                format!("{on} udp [::]:69"),
                libc::EACCES,
                "need root or CAP_NET_BIND_SERVICE",
            ),
            (
                format!("{on} udp 127.0.0.1:6969"),
                libc::EADDRINUSE,
                "ss -lunp",
            ),
            (
                format!("{on} udp 127.0.0.1:6969"),
                libc::EADDRNOTAVAIL,
                "--listen :6969",
            ),
            (
                format!("{on} tcp 127.0.0.1:9100"),
                libc::EADDRINUSE,
                "--admin takes another",
            ),
        ] {
            let told = told(&text, errno);
            assert!(told.contains(hint), "{told}");
        }
        // The advice does not apply to these errors.
        for (text, errno) in [
            (format!("{on} udp 127.0.0.1:6969"), libc::EACCES),
            (
                format!("{on} udp 127.0.0.1:6969: no port is free"),
                libc::EADDRINUSE,
            ),
            (format!("{on} udp 127.0.0.1:7"), libc::EADDRINUSE),
            ("cannot serve /srv/tftp".to_owned(), libc::EACCES),
        ] {
            let refusal = io::Error::from_raw_os_error(errno);
            assert_eq!(told(&text, errno), format!("{text}: {refusal}"));
        }
    }

    #[test]
    fn without_ipv6_the_default_is_ipv4() {
        let listen = |line| options(&parsed(line), false).expect(line).listen;
        assert_eq!(listen(""), ["0.0.0.0:69".parse().unwrap()]);
        assert_eq!(listen("-l :7"), ["0.0.0.0:7".parse().unwrap()]);
        assert_eq!(listen("-l [::1]:7"), ["[::1]:7".parse().unwrap()]);
    }

    #[test]
    fn names_stand_for_their_addresses() {
        let listen = typed("-l localhost:7").listen;
        assert!(!listen.is_empty());
        assert!(
            listen
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 7)
        );
    }
}
