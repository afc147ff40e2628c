//! Why a transfer failed: one sentence for users, with what they can do about it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::LocalFile;
use crate::shard::Operation;
use crate::time::Duration;
use crate::wire::{ErrorCode, Escaped};

/// Why a transfer failed.
#[derive(Debug)]
pub enum Failure {
    /// The server's name resolves to no address.
    UnknownHost {
        /// The name.
        host: String,
        /// The system's message.
        why: String,
    },
    /// Packets to the server cannot be sent.
    Unreachable {
        /// The address.
        server: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The server did not answer.
    Unanswered {
        /// The address.
        server: SocketAddr,
        /// How long nothing arrived.
        elapsed: Duration,
        /// Whether options were requested.
        options: bool,
    },
    /// The server stopped answering.
    Silent {
        /// The address.
        server: SocketAddr,
        /// Octets that had arrived.
        octets: u64,
        /// How long nothing arrived.
        silence: Duration,
    },
    /// The server's host reports that its port is closed.
    Gone {
        /// The address.
        server: SocketAddr,
        /// Octets that had arrived.
        octets: u64,
    },
    /// The server sent an ERROR.
    Refused {
        /// The address.
        server: SocketAddr,
        /// The requested operation.
        operation: Operation,
        /// The requested name.
        name: Vec<u8>,
        /// The code.
        code: ErrorCode,
        /// The text, which may be any octets.
        text: Vec<u8>,
    },
    /// This end could not continue with what the server sent.
    GivenUp {
        /// The address.
        server: SocketAddr,
        /// Why.
        text: Vec<u8>,
    },
    /// Access to the local file failed.
    Local {
        /// The requested operation.
        operation: Operation,
        /// The file.
        file: LocalFile,
        /// The system's error.
        error: io::Error,
    },
    /// The user interrupted it.
    Interrupted,
    /// The system is out of a resource.
    System(io::Error),
}

impl Failure {
    /// What happened, without advice.
    #[must_use]
    pub fn brief(&self) -> String {
        self.told().0
    }

    /// What happened, and advice.
    fn told(&self) -> (String, String) {
        match self {
            Self::UnknownHost { host, why } => (
                format!("no address is known for \"{}\" ({why})", Escaped(host.as_bytes())),
                "check its spelling, or give the server's IP address".to_owned(),
            ),
            Self::Unreachable { server, error } => (
                format!("nothing can be sent to {server} ({})", plain(error)),
                unreachable_advice(error).to_owned(),
            ),
            Self::Unanswered {
                server,
                elapsed,
                options,
            } => (
                format!("no answer from {server} in {:.0} s", elapsed.as_secs_f64()),
                format!(
                    "is a TFTP server running there, and does a firewall let UDP port {} through? Its answers come from another port{}",
                    server.port(),
                    if *options {
                        ". A very old server may want --no-options"
                    } else {
                        ""
                    }
                ),
            ),
            Self::Silent {
                server,
                octets,
                silence,
            } => (
                format!(
                    "{server} fell silent for {:.0} s after {octets} octets",
                    silence.as_secs_f64()
                ),
                "see whether the server still runs, and try again, with a smaller --blksize if large packets get lost on the way".to_owned(),
            ),
            Self::Gone { server, octets } => (
                format!("{server} went away after {octets} octets"),
                "see whether the server still runs, and try again".to_owned(),
            ),
            Self::Refused {
                server,
                operation,
                name,
                code,
                text,
            } => refused(*server, *operation, name, *code, text),
            Self::GivenUp { server, text } => (
                format!("gave up the transfer with {server}: {}", Escaped(text)),
                "try again; if it stays so, try --no-options".to_owned(),
            ),
            Self::Local {
                operation,
                file,
                error,
            } => {
                let verb = match operation {
                    Operation::Read => "write",
                    Operation::Write => "read",
                };
                (
                    format!("cannot {verb} {file} ({})", plain(error)),
                    local_advice(*operation, error).to_owned(),
                )
            }
            Self::Interrupted => (
                "interrupted".to_owned(),
                "the server was told, and no file is left".to_owned(),
            ),
            Self::System(error) => (
                format!("the system refuses ({})", plain(error)),
                "see whether it is out of memory or file descriptors (ulimit -n)".to_owned(),
            ),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, advice) = self.told();
        write!(f, "{what}: {advice}")
    }
}

impl std::error::Error for Failure {}

/// The server's ERROR in words.
fn refused(
    server: SocketAddr,
    operation: Operation,
    name: &[u8],
    code: ErrorCode,
    text: &[u8],
) -> (String, String) {
    let name = Escaped(name);
    let write = operation == Operation::Write;
    let (what, advice) = match code {
        ErrorCode::NOT_FOUND if write => (
            format!("{server} has no place for \"{name}\""),
            "the directory must exist there, and some servers only take files that do",
        ),
        ErrorCode::NOT_FOUND => (
            format!("{server} has no file \"{name}\""),
            "check the name, which counts from the server's root and in which case matters",
        ),
        ErrorCode::ACCESS if write => (
            format!("{server} does not take \"{name}\""),
            "the server must allow uploads (bootstorm: serve --write create), and its user must be able to write there",
        ),
        ErrorCode::ACCESS => (
            format!("{server} does not give out \"{name}\""),
            "the file must be readable for the server's user and lie below its root",
        ),
        ErrorCode::DISK_FULL => (
            format!("{server} has no room for \"{name}\""),
            "free space there, or raise the server's limit on uploads",
        ),
        ErrorCode::ILLEGAL => (
            format!("{server} calls the request illegal"),
            "it may not know something that was asked for; try --no-options",
        ),
        ErrorCode::UNKNOWN_TID => (
            format!("{server} does not know this transfer"),
            "it may have restarted, or a NAT on the way changes ports; try again",
        ),
        ErrorCode::EXISTS => (
            format!("{server} already has \"{name}\""),
            "choose another name, or let the server replace files (bootstorm: serve --write overwrite)",
        ),
        ErrorCode::NO_USER => (
            format!("{server} wants a user that it does not know"),
            "TFTP has no users any more; ask whoever runs the server",
        ),
        ErrorCode::OPTIONS => (
            format!("{server} does not agree to the options"),
            "try --no-options",
        ),
        ErrorCode::UNDEFINED => (
            format!("{server} refuses \"{name}\""),
            "its log may say more",
        ),
        _ => (
            format!("{server} refuses \"{name}\" with a code that no RFC defines"),
            "its log may say more",
        ),
    };
    let said = if text.is_empty() {
        format!("error {code}")
    } else {
        format!("error {code}, \"{}\"", Escaped(text))
    };
    (format!("{what} ({said})"), advice.to_owned())
}

fn unreachable_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EHOSTDOWN) => {
            "no route leads there; check this host's network, and the address"
        }
        Some(libc::EADDRNOTAVAIL) => {
            "this host has no address to send from; check that its network is up"
        }
        Some(libc::EAFNOSUPPORT) => {
            "this host does not speak that version of IP; use an address of the other"
        }
        Some(libc::ECONNREFUSED) => "no server listens on that port; check that it runs",
        Some(libc::EACCES | libc::EPERM) => {
            "a firewall rule of this host forbids it, or it is a broadcast address"
        }
        Some(libc::EINVAL) => {
            "a link-local address needs its interface, as in [fe80::1%eth0]; otherwise check the address"
        }
        _ => "check this host's network, and the address",
    }
}

fn local_advice(operation: Operation, error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) if operation == Operation::Read => {
            "create its directory first, or choose another with -o"
        }
        Some(libc::ENOENT) => "check the name",
        Some(libc::ENOTDIR) => "part of the path is a file; check the path",
        Some(libc::EACCES | libc::EPERM) if operation == Operation::Read => {
            "you may not write there; choose another place with -o"
        }
        Some(libc::EACCES | libc::EPERM) => "you may not read it; check its permissions",
        Some(libc::EROFS) => "the file system is read-only; choose another place with -o",
        Some(libc::ENOSPC | libc::EDQUOT) => "make room, or choose another place with -o",
        Some(libc::EFBIG) => "it is larger than the file system or your limit allows (ulimit -f)",
        Some(libc::EISDIR) => "it is a directory; name a file in it",
        Some(libc::ENAMETOOLONG) => "choose a shorter name",
        Some(libc::EPIPE) => "whoever was to read it has ended",
        Some(libc::EMFILE | libc::ENFILE) => "close some files, or raise the limit (ulimit -n)",
        Some(libc::EIO) => "the disk may be failing; see the system's log",
        _ if error.kind() == io::ErrorKind::InvalidInput => "only regular files can be sent",
        _ => "nothing was left half done; try again",
    }
}

/// The system's message, without the error number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(operation: Operation, code: u16) -> String {
        Failure::Refused {
            server: "192.0.2.1:69".parse().unwrap(),
            operation,
            name: b"boot\x1b[2J".to_vec(),
            code: ErrorCode(code),
            text: b"no \x07bell".to_vec(),
        }
        .to_string()
    }

    #[test]
    fn every_error_code_has_its_sentence_and_harms_no_terminal() {
        let sentences: Vec<String> = (0..=9)
            .flat_map(|code| [Operation::Read, Operation::Write].map(|side| refused(side, code)))
            .collect();
        for sentence in &sentences {
            assert!(sentence.contains("no \\x07bell"), "{sentence}");
            assert!(!sentence.contains(['\x1b', '\x07']), "{sentence}");
        }
        assert_eq!(
            refused(Operation::Read, 1),
            "192.0.2.1:69 has no file \"boot\\x1b[2J\" (error 1, \"no \\x07bell\"): check the name, which counts from the server's root and in which case matters"
        );
        assert!(refused(Operation::Write, 2).contains("--write create"));
        assert!(refused(Operation::Write, 6).contains("--write overwrite"));
        assert!(refused(Operation::Read, 8).contains("--no-options"));
    }

    #[test]
    fn system_errors_say_what_to_do() {
        let local = |operation, errno| {
            Failure::Local {
                operation,
                file: LocalFile::StandardOutput,
                error: io::Error::from_raw_os_error(errno),
            }
            .to_string()
        };
        assert_eq!(
            local(Operation::Read, libc::ENOSPC),
            "cannot write standard output (No space left on device): make room, or choose another place with -o"
        );
        assert!(local(Operation::Read, libc::EISDIR).contains("name a file in it"));
        assert!(local(Operation::Write, libc::ENOENT).contains("check the name"));
        let unreachable = Failure::Unreachable {
            server: "[2001:db8::1]:69".parse().unwrap(),
            error: io::Error::from_raw_os_error(libc::ENETUNREACH),
        };
        assert_eq!(
            unreachable.to_string(),
            "nothing can be sent to [2001:db8::1]:69 (Network is unreachable): no route leads there; check this host's network, and the address"
        );
    }
}
