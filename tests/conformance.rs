//! The conformance checker: our server keeps every rule, on each engine and from a single port, and each
//! fault of a deliberately broken server is reported, which shows that the cases work.

mod common;

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bootstorm::conformance::{Level, Report, Target, Verdict, examine};
use bootstorm::server::{EngineChoice, Server, ServerOptions};
use bootstorm::store::Writes;
use common::peer;

/// The file: blocks of 8 octets go past number 65535, blocks of 512 are whole, and among so many octets
/// there are ends of lines.
const LENGTH: usize = 1_200 * 512;

#[test]
fn ours_keeps_every_rule_on_mio() {
    keeps_every_rule(EngineChoice::Mio);
}

#[cfg(target_os = "linux")]
#[test]
fn ours_keeps_every_rule_on_uring() {
    keeps_every_rule(EngineChoice::Uring);
}

/// Goal: every case passes and none is left out. Method: a folder for writes, and a file with which no case
/// has to be left out.
fn keeps_every_rule(engine: EngineChoice) {
    let root = tempfile::tempdir().expect("a directory");
    let mut options = peer::options(root.path());
    options.engine = engine;
    let Ok(report) = examined(&options) else {
        return common::skip("this machine has no io_uring");
    };
    let others: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.verdict != Verdict::Pass)
        .map(ToString::to_string)
        .collect();
    assert!(others.is_empty(), "{}", others.join("\n"));
    assert!(report.is_good() && report.findings.len() > 60);
}

/// Goal: a server that answers from the port that received the request breaks no rule; unknown senders cannot
/// be recognised there.
#[test]
fn ours_keeps_every_rule_from_a_single_port() {
    let root = tempfile::tempdir().expect("a directory");
    let mut options = peer::options(root.path());
    options.settings.single_port = true;
    let report = examined(&options).expect("the server starts");
    for finding in &report.findings {
        let stranger = finding.case.name.contains("stranger");
        let good = match &finding.verdict {
            Verdict::Pass => !stranger,
            Verdict::Untried(_) => stranger,
            _ => false,
        };
        assert!(good, "{finding}");
    }
}

/// Goal: faults are named. Method: a server with many faults; the case for each fault must report it, and
/// cases about what the server does right must not.
#[test]
fn faults_are_named() {
    let broken = Broken::start();
    let report = examine(&broken.target(), &mut |_| {}).expect("it answers");
    let of = |level| {
        let findings = report.findings.iter();
        let mut names: Vec<_> = findings
            .filter(|finding| finding.case.level == level && finding.verdict.differs())
            .map(|finding| finding.case.name)
            .collect();
        names.sort_unstable();
        names.join("\n")
    };
    insta::assert_snapshot!("faults_that_must_not_be", of(Level::Must));
    insta::assert_snapshot!("faults_that_should_not_be", of(Level::Should));
    assert!(!report.is_good());
    let shown = report
        .findings
        .iter()
        .find(|finding| finding.case.name.contains("Apprentice"))
        .expect("a case");
    let Verdict::Differs { expected, seen } = &shown.verdict else {
        panic!("{shown}");
    };
    assert_eq!(expected, "no DATA 2 for the second and the third ACK 1");
    let packets: Vec<_> = seen
        .iter()
        .filter_map(|line| line.split_once(' ').map(|(_, packet)| packet))
        .collect();
    assert_eq!(
        packets,
        [
            "> RRQ \"image\" octet",
            "< DATA 1 [512]",
            "> ACK 1",
            "< DATA 2 [512]",
            "> ACK 1",
            "> ACK 1",
            "< DATA 2 [512]",
        ]
    );
}

/// Goal: the command's exit code shows whether all is well, and a missing file is reported. Method: our
/// server, quietly.
#[test]
fn the_command_tells_by_its_exit_code() {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("image"), peer::octets(1, LENGTH)).expect("a file");
    let (_server, address) = peer::serve(root.path());
    let check = |name: &str| {
        let url = format!("tftp://{address}/{name}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
        let output = command.args(["check", "--quiet", &url]).output();
        let output = output.expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let (code, text) = check("image");
    assert_eq!(code, Some(0), "{text}");
    // No folder was given: writes are not tried.
    assert!(
        text.contains(" 0 differ in what must be, 0 in what should be"),
        "{text}"
    );
    assert!(text.contains(" 11 not tried"), "{text}");
    let (code, text) = check("absent");
    assert_eq!(code, Some(1), "{text}");
    let told = "refuses \"absent\" (ERROR 1 \"file not found\"); name a file";
    assert!(text.contains(told), "{text}");
    assert_eq!(check("").0, Some(2));

    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let silent = nobody.local_addr().expect("bound");
    // A port that nobody has is as silent as one that nobody reads.
    for nobody in [Some(nobody), None] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
        let output = command.args(["check", &format!("tftp://{silent}/image")]);
        let output = output.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{nobody:?}: {text}");
        let told = format!("{silent} cannot be examined: no answer came within 2 s; see whether");
        assert!(text.contains(&told), "{text}");
    }
}

/// Starts a server, and examines it in everything.
fn examined(options: &ServerOptions) -> std::io::Result<Report> {
    let mut options = options.clone();
    options.directory.writes = Writes::Create;
    fs::write(options.root.join("image"), peer::octets(1, LENGTH)).expect("a file");
    fs::create_dir(options.root.join("up")).expect("a folder");
    let server = Server::start(&options, |result| drop(result.expect("the shard works")))?;
    let target = Target {
        server: server.addresses()[0],
        file: b"image".to_vec(),
        folder: Some(b"up".to_vec()),
    };
    Ok(examine(&target, &mut |_| {}).expect("it answers"))
}

/// A server that keeps few rules. It answers every ACK with the block behind it, agrees to whatever is
/// asked for, tells a wrong length, sends no empty block at the end, repeats nothing, converts nothing,
/// answers errors with errors, and serves its one file under almost any name.
struct Broken {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Broken {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let timeout = Some(Duration::from_millis(100));
        socket.set_read_timeout(timeout).expect("a timeout");
        let address = socket.local_addr().expect("bound");
        let stopped = Arc::new(AtomicBool::new(false));
        let until = stopped.clone();
        let thread = thread::spawn(move || serve_badly(&socket, &until));
        Self {
            address,
            stopped,
            thread: Some(thread),
        }
    }

    fn target(&self) -> Target {
        Target {
            server: self.address,
            file: b"image".to_vec(),
            folder: None,
        }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

fn serve_badly(socket: &UdpSocket, stopped: &AtomicBool) {
    let contents = b"a line of text\n".repeat(500)[..12 * 512].to_vec();
    let mut blksizes: HashMap<SocketAddr, usize> = HashMap::new();
    let mut buffer = [0; 2048];
    while !stopped.load(Ordering::SeqCst) {
        let Ok((len, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let packet = &buffer[..len];
        let block = |number: usize, blksize: usize| {
            let rest = contents.get((number - 1) * blksize..).unwrap_or_default();
            (!rest.is_empty()).then(|| peer::data(number as u16, &rest[..rest.len().min(blksize)]))
        };
        let answer = match packet {
            [0, 1, request @ ..] => {
                let words: Vec<&[u8]> = request.split(|&octet| octet == 0).collect();
                let words = &words[..words.len() - 1];
                let options = words.get(2..).unwrap_or_default();
                let (mut oack, mut blksize) = (vec![0, 6], 512);
                for pair in options.chunks_exact(2) {
                    let mut value = String::from_utf8_lossy(pair[1]).into_owned();
                    match pair[0] {
                        b"tsize" => value = (contents.len() + 1).to_string(),
                        b"blksize" => blksize = value.parse().unwrap_or(512).max(1),
                        b"windowsize" => value += "1",
                        _ => {}
                    }
                    oack.extend([pair[0], b"\0", value.as_bytes(), b"\0"].concat());
                }
                blksizes.insert(client, blksize);
                match words.first() {
                    Some(name) if name.starts_with(b"bootstorm-check") => {
                        Some(peer::error(2, b"/srv/tftp has no such file"))
                    }
                    _ if options.is_empty() => block(1, 512),
                    _ => Some(oack),
                }
            }
            [0, 4, high, low, ..] => {
                let number = usize::from(u16::from_be_bytes([*high, *low]));
                let blksize = blksizes.get(&client).copied().unwrap_or(512);
                block(number + 1, blksize)
            }
            _ => Some(peer::error(0, b"what?")),
        };
        if let Some(answer) = answer {
            socket.send_to(&answer, client).expect("loopback");
        }
    }
}
