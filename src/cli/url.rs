//! The location of a file: `tftp://HOST[:PORT]/NAME[;mode=MODE]` (RFC 3617), or `HOST[:PORT]` and a name.
//!
//! Names are octets; only the host must be text.

use percent_encoding::percent_decode;

use super::values::{PORT, unsigned};
use crate::wire::Mode;

/// A file on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) server: Server,
    /// The file's name, without the slash after the host; empty if none was given.
    pub(crate) name: Vec<u8>,
    /// The transfer mode that the URL specifies.
    pub(crate) mode: Option<Mode>,
}

/// A server whose name has not been resolved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Reads a URL; `None` if the text is not a URL.
pub(crate) fn url(octets: &[u8]) -> Option<Result<Url, String>> {
    let separator = octets.windows(3).position(|three| three == b"://")?;
    let (scheme, rest) = (&octets[..separator], &octets[separator + 3..]);
    // A file's name may also contain a colon and slashes.
    if scheme.is_empty() || !scheme.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    if !scheme.eq_ignore_ascii_case(b"tftp") {
        let scheme = scheme.escape_ascii();
        return Some(Err(format!(
            "{scheme}:// is not spoken here; tftp://HOST/NAME is expected"
        )));
    }
    Some(after_scheme(rest))
}

fn after_scheme(octets: &[u8]) -> Result<Url, String> {
    let slash = octets.iter().position(|&octet| octet == b'/');
    let (authority, path) = octets.split_at(slash.unwrap_or(octets.len()));
    let server = server(authority)?;
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let (path, mode) = match path.iter().rposition(|&octet| octet == b';') {
        Some(semicolon) => match mode(&path[semicolon + 1..])? {
            Some(mode) => (&path[..semicolon], Some(mode)),
            None => (path, None),
        },
        None => (path, None),
    };
    let name = unescaped(path)?;
    Ok(Url { server, name, mode })
}

/// Reads `mode=netascii` or `mode=octet`; `None` if the parameter is another one.
fn mode(parameter: &[u8]) -> Result<Option<Mode>, String> {
    let parameter = parameter.to_ascii_lowercase();
    match parameter.strip_prefix(b"mode=") {
        None => Ok(None),
        Some(b"netascii") => Ok(Some(Mode::Netascii)),
        Some(b"octet") => Ok(Some(Mode::Octet)),
        Some(_) => Err("mode=netascii or mode=octet is expected after the semicolon".to_owned()),
    }
}

fn unescaped(path: &[u8]) -> Result<Vec<u8>, String> {
    for (place, _) in path.iter().enumerate().filter(|&(_, &octet)| octet == b'%') {
        let digits = path.get(place + 1..place + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(
                "a percent sign in a URL begins an escape, as in %20; itself it is %25".to_owned(),
            );
        }
    }
    let name: Vec<u8> = percent_decode(path).collect();
    checked(name)
}

/// Checks that the name fits in a request.
pub(crate) fn checked(name: Vec<u8>) -> Result<Vec<u8>, String> {
    if name.contains(&0) {
        return Err("a name cannot hold a NUL".to_owned());
    }
    Ok(name)
}

/// Reads `HOST[:PORT]`; an IPv6 address with a port must be in brackets.
pub(crate) fn server(octets: &[u8]) -> Result<Server, String> {
    let text = str::from_utf8(octets)
        .map_err(|_| "the name of the server has to be text in UTF-8".to_owned())?;
    if text.contains('@') {
        return Err("TFTP knows no users; HOST or HOST:PORT is expected".to_owned());
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or("the bracket of the IPv6 address is not closed")?;
            let port = match rest.strip_prefix(':') {
                None if rest.is_empty() => None,
                None => return Err("a port or nothing is expected after the bracket".to_owned()),
                port => port,
            };
            // RFC 6874 escapes the percent sign before an interface.
            (host.replacen("%25", "%", 1), port)
        }
        // Several colons: an IPv6 address without a port.
        None if text.matches(':').count() > 1 => (text.to_owned(), None),
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    if host.is_empty() {
        return Err("the name of the server is missing".to_owned());
    }
    if let Some(odd) = host
        .chars()
        .find(|c| c.is_control() || c.is_whitespace() || "/\\[]\"<>".contains(*c))
    {
        return Err(format!("{odd:?} cannot stand in the name of a server"));
    }
    let port = match port {
        None | Some("") => PORT,
        Some(port) => unsigned(port)
            .filter(|&port| port > 0)
            .ok_or("a port from 1 to 65535 is expected after the colon")?,
    };
    Ok(Server { host, port })
}

/// The last component of a name, if it is a valid file name.
pub(crate) fn last_component(name: &[u8]) -> Option<&[u8]> {
    name.rsplit(|&octet| octet == b'/')
        .next()
        .filter(|last| !matches!(*last, b"" | b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Url, String> {
        url(text.as_bytes()).expect("a URL")
    }

    fn parts(text: &str) -> (String, u16, Vec<u8>, Option<Mode>) {
        let Url { server, name, mode } = read(text).expect(text);
        (server.host, server.port, name, mode)
    }

    #[test]
    fn urls_of_rfc_3617() {
        let plain = |host: &str, port, name: &[u8]| (host.to_owned(), port, name.to_vec(), None);
        assert_eq!(
            parts("tftp://example.com/myconfigurationfile;mode=netascii"),
            (
                "example.com".into(),
                69,
                b"myconfigurationfile".to_vec(),
                Some(Mode::Netascii)
            )
        );
        assert_eq!(parts("TFTP://h:6969/a;MODE=Octet").3, Some(Mode::Octet));
        assert_eq!(parts("tftp://h/a/b"), plain("h", 69, b"a/b"));
        assert_eq!(parts("tftp://h//a"), plain("h", 69, b"/a"));
        assert_eq!(parts("tftp://h"), plain("h", 69, b""));
        assert_eq!(parts("tftp://h/"), plain("h", 69, b""));
        assert_eq!(parts("tftp://h:/x"), plain("h", 69, b"x"));
        assert_eq!(parts("tftp://[::1]:7/x"), plain("::1", 7, b"x"));
        assert_eq!(
            parts("tftp://[fe80::1%25eth0]/x"),
            plain("fe80::1%eth0", 69, b"x")
        );
        assert_eq!(
            parts("tftp://h/a%20b%3Bmode=octet%ff"),
            plain("h", 69, b"a b;mode=octet\xff")
        );
        assert_eq!(parts("tftp://h/a;b?c#d"), plain("h", 69, b"a;b?c#d"));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (text, hint) in [
            ("http://h/x", "http:// is not spoken"),
            ("tftp:///x", "server is missing"),
            ("tftp://h:0/x", "port"),
            ("tftp://h:70000/x", "port"),
            ("tftp://user@h/x", "no users"),
            ("tftp://[::1/x", "not closed"),
            ("tftp://[::1]x/x", "after the bracket"),
            ("tftp://h/%zz", "%25"),
            ("tftp://h/%", "%25"),
            ("tftp://h/a%00b", "NUL"),
            ("tftp://h/a;mode=mail", "mode=netascii"),
            ("tftp://a b/x", "' ' cannot stand"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_url_is_left_alone() {
        for text in ["", "h", "h:69", "a/b://c", "://", "[::1]", "dir/tftp://x"] {
            assert_eq!(url(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn servers_without_a_url() {
        let at = |text: &str| server(text.as_bytes()).map(|s| (s.host, s.port));
        assert_eq!(at("h"), Ok(("h".into(), 69)));
        assert_eq!(at("h:7"), Ok(("h".into(), 7)));
        assert_eq!(at("::1"), Ok(("::1".into(), 69)));
        assert_eq!(at("[::1]:7"), Ok(("::1".into(), 7)));
        assert!(at("").is_err());
        assert!(at(":69").is_err());
        assert!(at("h:+69").is_err());
        assert!(server(b"\xff").is_err());
    }

    #[test]
    fn last_components() {
        assert_eq!(last_component(b"a/b.img"), Some(&b"b.img"[..]));
        assert_eq!(last_component(b"b.img"), Some(&b"b.img"[..]));
        for name in [&b""[..], b"a/", b"..", b"a/.", b"/"] {
            assert_eq!(last_component(name), None);
        }
    }

    #[test]
    fn hostile_octets_never_panic() {
        let mut random = fastrand::Rng::with_seed(1);
        let alphabet = b"tftp://[]:%;=mode@/.\\0aF9\xff\xc3\xa9\0 ";
        for _ in 0..20_000 {
            let len = random.usize(0..40);
            let noise: Vec<u8> = (0..len)
                .map(|_| alphabet[random.usize(0..alphabet.len())])
                .collect();
            let octets: Vec<u8> = if random.bool() {
                [&b"tftp://"[..], &noise].concat()
            } else {
                noise
            };
            if let Some(Ok(url)) = url(&octets) {
                assert!(!url.server.host.is_empty() && !url.name.contains(&0));
                assert!(last_component(&url.name).is_none_or(|last| !last.contains(&b'/')));
            }
            let _ = server(&octets);
        }
    }
}
