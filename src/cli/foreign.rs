//! Options of other servers, for users who migrate: the name of each here, or the reason why there is
//! none. The README has the same table.

use std::ffi::{OsStr, OsString};

use clap::Command;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

const FOREGROUND: &str = "serve always runs in the foreground; leave it out";
const ANOTHER_USER: &str = "bootstorm changes to no other user; start it as that one";
const INETD: &str = "it is for servers that inetd starts; leave it out";
const LISTEN: &str = "write --listen ADDR:PORT";
const LEAST_BLKSIZE: &str = "write --max-blksize 512; --subnet has it for some clients alone";
const FLOOR: &str = "write --retransmit-floor, in milliseconds";
const NO_PID_FILE: &str = "service managers know their processes without one; leave it out";
const NO_RULES: &str = "names are not rewritten; links in ROOT and --case-insensitive may do";
const NO_MULTICAST: &str = "there is no multicast; each client is served for itself";
const NO_REFUSAL: &str = "the option cannot be turned off";

/// The short options of tftpd-hpa; no option here uses these letters.
const LETTERS: &[(&str, &str)] = &[
    ("-4", "ipv4"),
    ("-6", "ipv6"),
    ("-a", "address"),
    ("-B", "blocksize"),
    ("-c", "create"),
    ("-L", "foreground"),
    ("-m", "map-file"),
    ("-p", "permissive"),
    ("-P", "pidfile"),
    ("-r", "refuse"),
    ("-R", "port-range"),
    ("-s", "secure"),
    ("-t", "timeout"),
    ("-T", "retransmit"),
    ("-u", "user"),
    ("-U", "umask"),
];

/// What to write instead, if the error is about an option of another server.
pub(super) fn advice(error: &Error, command: &Command, typed: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument || !is_serve(command, typed) {
        return None;
    }
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    if let Some((_, name)) = LETTERS.iter().find(|(letter, _)| letter == shown) {
        let advice = tftpd_hpa(name)?;
        return Some(format!("{shown} is tftpd-hpa's --{name}: {advice}"));
    }
    let name = shown.strip_prefix("--")?;
    let servers = [
        ("tftpd-hpa", tftpd_hpa(name)),
        ("atftpd", atftpd(name)),
        ("dnsmasq", dnsmasq(name)),
    ];
    servers
        .into_iter()
        .find_map(|(server, advice)| Some(format!("{shown} is {server}'s: {}", advice?)))
}

fn tftpd_hpa(name: &str) -> Option<&'static str> {
    Some(match name {
        "address" => LISTEN,
        "blocksize" => "write --max-blksize",
        "create" => "write --write create, or --write overwrite to have files replaced as well",
        "foreground" => FOREGROUND,
        "ipv4" => "write --listen 0.0.0.0:69",
        "ipv6" => "write --listen with an IPv6 address of the host; [::]:69 takes IPv4 too",
        "map-file" => NO_RULES,
        "permissive" => "all that bootstorm's user may read is served; leave it out",
        "pidfile" => NO_PID_FILE,
        "port-range" => "write --port-range",
        "refuse" => "none is refused; --max-blksize 512 and --max-windowsize 1 come closest",
        "retransmit" => FLOOR,
        "secure" => "bootstorm always confines names to ROOT; leave it out",
        "timeout" => INETD,
        "umask" => "uploads are for everybody to read, less the umask that it is started with",
        "user" => ANOTHER_USER,
        "verbosity" => "write -v, or -vv for every packet",
        _ => return None,
    })
}

fn atftpd(name: &str) -> Option<&'static str> {
    Some(match name {
        "bind-address" | "port" => LISTEN,
        "daemon" | "no-fork" => FOREGROUND,
        "group" => ANOTHER_USER,
        "logfile" => "the log goes to standard error; send it where you want it",
        "maxthread" => "write --max-transfers; threads are one for each core",
        "mcast-addr"
        | "mcast-port"
        | "mcast-switch-client"
        | "mcast-ttl"
        | "mtftp"
        | "mtftp-port"
        | "no-multicast" => NO_MULTICAST,
        "no-blksize" => LEAST_BLKSIZE,
        "no-timeout" | "no-tsize" => NO_REFUSAL,
        "no-windowsize" => "write --max-windowsize 1",
        "pcre" | "pcre-test" => NO_RULES,
        "prevent-sas" => "it is always so; leave it out",
        "retry-timeout" => FLOOR,
        "tftpd-timeout" => INETD,
        "trace" => "write -vv",
        _ => return None,
    })
}

fn dnsmasq(name: &str) -> Option<&'static str> {
    Some(match name {
        "enable-tftp" => "serve does nothing else; leave it out",
        "tftp-lowercase" => "write --case-insensitive",
        "tftp-max" => "write --max-transfers",
        "tftp-mtu" => "write --max-blksize, 32 less than the MTU for IPv4, and 52 less for IPv6",
        "tftp-no-blocksize" => LEAST_BLKSIZE,
        "tftp-no-fail" => "the root has to be there at the start",
        "tftp-port-range" => "write --port-range A:B, with a colon",
        "tftp-root" => "write the directory alone, as in bootstorm serve /srv/tftp",
        "tftp-secure" => "start bootstorm as a user who may read nothing else",
        "tftp-single-port" => "write --single-port",
        "tftp-unique-root" => "all clients have one root; DHCP may name a folder for each",
        _ => return None,
    })
}

/// Whether the first command among the words is `serve`; the others have nothing in common with those
/// servers.
fn is_serve(command: &Command, typed: &[OsString]) -> bool {
    let is_command = |word: &&OsString| command.find_subcommand(word.as_os_str()).is_some();
    let first = typed.iter().skip(1).find(is_command);
    first.is_some_and(|word| word == OsStr::new("serve"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::args::Arguments;
    use super::*;

    #[test]
    fn what_is_foreign_is_not_our_own() {
        let command = Arguments::command();
        let serve = command.find_subcommand("serve").expect("it is there");
        for own in serve.get_arguments().chain(command.get_arguments()) {
            let letter = own.get_short().map(|letter| format!("-{letter}"));
            let is_taken = |(taken, _): &(&str, &str)| Some(*taken) == letter.as_deref();
            assert!(!LETTERS.iter().any(is_taken), "{own}");
            let name = own.get_long().unwrap_or_default();
            // It is the same option here, apart from its letter.
            if name != "port-range" {
                let foreign = [tftpd_hpa(name), atftpd(name), dnsmasq(name)];
                assert_eq!(foreign, [None; 3], "{own}");
            }
        }
        for (_, name) in LETTERS {
            assert!(tftpd_hpa(name).is_some(), "{name}");
        }
    }
}
