//! Arguments as typed.
//!
//! The short letters of tftpd-hpa (`-l -L -4 -6 -a -c -s -u -p -t -T -m -r -B -R -v -V`) mean here what
//! they mean there, or nothing.

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::values::{self, BlksizeMax, Delay, Listen, Profiles, U32_MAX};
use crate::config::Subnet;
use crate::load::profile::Flash;
use crate::server;
use crate::store;
use crate::time::Duration;

/// TFTP for the moment when a thousand machines power on at once.
#[derive(Debug, Parser)]
#[command(name = "bootstorm", version, propagate_version = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) log: LogArguments,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a boot storm on this machine, with nothing to prepare.
    ///
    /// Starts its own server with its own image on loopback, and many clients that boot from it at once
    /// and compare every octet. Prints a table and writes a page with plots; leaves nothing else
    /// behind.
    Demo(Demo),
    /// The demo's server.
    #[command(hide = true)]
    DemoServer(DemoServer),
    /// Cleans up after a comparison that was killed.
    #[command(hide = true)]
    CompareGuard(CompareGuard),
    /// Serve the files in a directory.
    ///
    /// Every flag can also be set by an environment variable: separate several values with spaces; turn
    /// a flag without a value on with 1, true, yes or on, and off with 0, false, no or off. --config
    /// names a file that sets them as well. Flags override variables, and variables override the file.
    Serve(Box<Serve>),
    /// Download a file from a server.
    ///
    /// Use bootstorm get tftp://HOST/NAME, or bootstorm get HOST NAME. The file appears once it is
    /// complete, under the last part of its name unless -o is given.
    Get(Get),
    /// Upload a file to a server.
    ///
    /// Use bootstorm put FILE tftp://HOST/NAME, or bootstorm put FILE HOST NAME. If the name is missing
    /// or ends in a slash, the file's own name is used.
    Put(Put),
    /// Generate load against any TFTP server and measure it.
    ///
    /// Runs thousands of clients in one process, each with its own address on loopback. By default each
    /// client gets the file once; --transfers or --duration keep them busy, --rate starts new ones
    /// regardless of how the server responds, and --within starts all of them once, in a storm.
    Load(Box<Load>),
    /// Test a TFTP server's conformance to the RFCs.
    ///
    /// Use bootstorm check tftp://HOST/NAME, where NAME is a readable file; a file of 600 KB or more
    /// that contains line endings allows every case to run. Each case is a few packets, and deviations
    /// are shown with their packets. The exit code is 0 if the server keeps every mandatory rule.
    Check(Check),
    /// Run the server and clients in a simulated network.
    ///
    /// Time is virtual, and the same seed repeats the run.
    Simulate(Simulate),
    /// Watch a running server: traffic, latencies, and the clients being served.
    ///
    /// The server must have been started with --admin. On a terminal the display is updated in place;
    /// elsewhere each update is printed below the previous one.
    Top(Top),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogArguments {
    /// Log more; twice for every packet.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Format of log lines.
    #[arg(
        long,
        global = true,
        env = "BOOTSTORM_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(super) log_format: LogFormat,
    /// Which log lines are written, by module, as in bootstorm::shard=debug.
    #[arg(
        long,
        global = true,
        env = "BOOTSTORM_LOG_FILTER",
        hide_env_values = true,
        value_name = "FILTER",
        value_parser = values::log_filter
    )]
    pub(super) log_filter: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Number of clients.
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = values::number::<u32, 1, 50_000>
    )]
    pub(super) clients: u32,
    /// Size of the image, in octets.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = values::memory)]
    pub(super) size: usize,
    /// Time within which all clients power on.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = values::seconds)]
    pub(super) within: Duration,
    /// File for the page with plots. [default: bootstorm-demo.html, here or else in the directory for
    /// temporary files]
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Show no progress.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// Arguments of the demo server.
#[derive(Debug, Args)]
pub(super) struct DemoServer {
    /// Size of the image, in octets.
    pub(super) size: usize,
    /// Threads that serve.
    pub(super) workers: usize,
}

/// Arguments of the guard of a comparison.
#[derive(Debug, Args)]
pub(super) struct CompareGuard {
    /// The process that compares.
    pub(super) comparer: u32,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Directory whose files are served. It is opened once at startup; a directory that replaces it
    /// later is served after a restart.
    #[arg(
        env = "BOOTSTORM_ROOT",
        hide_env_values = true,
        default_value = "/srv/tftp"
    )]
    pub(super) root: PathBuf,
    /// TOML file with the same settings as the flags, under the same names without the leading dashes;
    /// flags and environment variables override it.
    #[arg(
        long,
        env = "BOOTSTORM_CONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(super) config: Option<PathBuf>,
    /// Address to listen on, repeatable. Port 0 picks a free port; ":6969" is that port on every
    /// address. [default: [::]:69, or 0.0.0.0:69 without IPv6]
    #[arg(
        short,
        long,
        env = "BOOTSTORM_LISTEN",
        hide_env_values = true,
        value_name = "ADDR:PORT",
        value_delimiter = ' ',
        value_parser = values::listen
    )]
    pub(super) listen: Vec<Listen>,
    /// What clients may write.
    #[arg(
        long,
        env = "BOOTSTORM_WRITE",
        hide_env_values = true,
        value_name = "WHAT",
        default_value = "off"
    )]
    pub(super) write: Write,
    /// How datagrams are sent and received.
    #[arg(
        long,
        env = "BOOTSTORM_ENGINE",
        hide_env_values = true,
        value_name = "ENGINE",
        default_value = "auto"
    )]
    pub(super) engine: EngineChoice,
    /// Send each datagram with its own system call (for network cards that segment bursts wrongly).
    #[arg(long, env = "BOOTSTORM_NO_GSO", hide_env_values = true, value_parser = values::switch)]
    pub(super) no_gso: bool,
    /// Number of server threads. [default: one per core]
    #[arg(
        long,
        env = "BOOTSTORM_WORKERS",
        hide_env_values = true,
        value_name = "N",
        value_parser = values::number::<u16, 1, 1024>
    )]
    pub(super) workers: Option<u16>,
    /// Pin each worker to a core; fails if there are fewer cores than workers (Linux only).
    #[arg(long, env = "BOOTSTORM_PIN", hide_env_values = true, value_parser = values::switch)]
    pub(super) pin: bool,
    /// Answer every transfer from the listening port (for NAT and Kubernetes).
    #[arg(long, env = "BOOTSTORM_SINGLE_PORT", hide_env_values = true, value_parser = values::switch)]
    pub(super) single_port: bool,
    /// Ports that transfers are answered from, A and B included; each worker and address takes one.
    #[arg(
        long,
        env = "BOOTSTORM_PORT_RANGE",
        hide_env_values = true,
        value_name = "A:B",
        value_parser = values::port_range
    )]
    pub(super) port_range: Option<(u16, u16)>,
    /// Largest block size; mtu is the largest that needs no IP fragmentation.
    #[arg(
        long,
        env = "BOOTSTORM_MAX_BLKSIZE",
        hide_env_values = true,
        value_name = "N|mtu",
        default_value = "mtu",
        value_parser = values::blksize_max
    )]
    pub(super) max_blksize: BlksizeMax,
    /// Most unacknowledged blocks per client.
    #[arg(
        long,
        env = "BOOTSTORM_MAX_WINDOWSIZE",
        hide_env_values = true,
        value_name = "N",
        default_value = "64",
        value_parser = values::windowsize
    )]
    pub(super) max_windowsize: u16,
    /// Most concurrent transfers.
    #[arg(
        long,
        env = "BOOTSTORM_MAX_TRANSFERS",
        hide_env_values = true,
        value_name = "N",
        default_value = "65536",
        value_parser = values::number::<u32, 1, U32_MAX>
    )]
    pub(super) max_transfers: u32,
    /// Largest upload accepted. [default: what the disk holds]
    #[arg(
        long,
        env = "BOOTSTORM_MAX_UPLOAD",
        hide_env_values = true,
        value_name = "SIZE",
        value_parser = values::size
    )]
    pub(super) max_upload: Option<u64>,
    /// A transfer ends after this long without progress.
    #[arg(
        long,
        env = "BOOTSTORM_IDLE_TIMEOUT",
        hide_env_values = true,
        value_name = "SECONDS",
        default_value = "30",
        value_parser = values::seconds_above_zero
    )]
    pub(super) idle_timeout: Duration,
    /// How long running transfers may continue after SIGTERM.
    #[arg(
        long,
        env = "BOOTSTORM_DRAIN_TIMEOUT",
        hide_env_values = true,
        value_name = "SECONDS",
        default_value = "60",
        value_parser = values::seconds
    )]
    pub(super) drain_timeout: Duration,
    /// Serve /metrics, /healthz, /readyz and /transfers over HTTP here, without authentication. ":9100"
    /// is every address.
    #[arg(
        long,
        env = "BOOTSTORM_ADMIN",
        hide_env_values = true,
        value_name = "ADDR:PORT",
        value_parser = values::address
    )]
    pub(super) admin: Option<Listen>,
    /// Retransmit only once to a client that has not answered yet.
    #[arg(long, env = "BOOTSTORM_STRICT", hide_env_values = true, value_parser = values::switch)]
    pub(super) strict: bool,
    /// If a name is not found, search for it ignoring case.
    #[arg(long, env = "BOOTSTORM_CASE_INSENSITIVE", hide_env_values = true, value_parser = values::switch)]
    pub(super) case_insensitive: bool,
    /// Minimum retransmission timeout for a client without a window.
    #[arg(
        long,
        env = "BOOTSTORM_RETRANSMIT_FLOOR",
        hide_env_values = true,
        value_name = "MS",
        default_value = "1000",
        value_parser = values::milliseconds
    )]
    pub(super) retransmit_floor: Duration,
    /// Settings for the clients of a subnet, repeatable; the longest prefix wins. Any of
    /// max-blksize=N,max-windowsize=N,retransmit-floor=MS.
    #[arg(
        long,
        env = "BOOTSTORM_SUBNET",
        hide_env_values = true,
        value_name = "CIDR:SETTINGS",
        value_delimiter = ' ',
        value_parser = values::subnet
    )]
    pub(super) subnet: Vec<Subnet>,
    /// Memory for packets shared between transfers of the same file. [default: a quarter of the memory]
    #[arg(
        long,
        env = "BOOTSTORM_FRAME_CACHE",
        hide_env_values = true,
        value_name = "SIZE",
        value_parser = values::frame_cache
    )]
    pub(super) frame_cache: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Write {
    /// Nothing.
    Off,
    /// New files.
    Create,
    /// New files, and new contents for existing ones.
    Overwrite,
}

impl From<Write> for store::Writes {
    fn from(write: Write) -> Self {
        match write {
            Write::Off => Self::Off,
            Write::Create => Self::Create,
            Write::Overwrite => Self::Overwrite,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineChoice {
    /// The best engine available on this system.
    Auto,
    /// Readiness notification and plain system calls, on every Unix.
    Mio,
    /// Linux io_uring; an error if it is missing or forbidden.
    Uring,
}

impl From<EngineChoice> for server::EngineChoice {
    fn from(choice: EngineChoice) -> Self {
        match choice {
            EngineChoice::Auto => Self::Auto,
            EngineChoice::Mio => Self::Mio,
            EngineChoice::Uring => Self::Uring,
        }
    }
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Address given to serve --admin; :9100 is that port on this host.
    #[arg(value_name = "ADDR:PORT", value_parser = values::admin)]
    pub(super) server: String,
    /// Time between updates.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = values::seconds_above_zero)]
    pub(super) interval: Duration,
    /// Print one update, for a single interval, and exit.
    #[arg(long)]
    pub(super) once: bool,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// tftp://HOST[:PORT]/NAME, or HOST[:PORT] followed by NAME.
    #[arg(value_name = "URL|HOST")]
    pub(super) server: OsString,
    /// Name of the file on HOST.
    pub(super) name: Option<OsString>,
    /// File to write; - is standard output, which receives the octets as they arrive.
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    #[command(flatten)]
    pub(super) terms: Terms,
}

/// Arguments of `put`.
#[derive(Debug, Args)]
pub(super) struct Put {
    /// File to send.
    pub(super) file: PathBuf,
    /// tftp://HOST[:PORT]/NAME, or HOST[:PORT] followed by NAME.
    #[arg(value_name = "URL|HOST")]
    pub(super) server: OsString,
    /// Name of the file on HOST.
    pub(super) name: Option<OsString>,
    #[command(flatten)]
    pub(super) terms: Terms,
}

/// Arguments that `get` and `put` share.
#[derive(Debug, Args)]
pub(super) struct Terms {
    /// Block size in octets. [default: what fits the path to the server]
    #[arg(long, value_name = "N", value_parser = values::blksize)]
    pub(super) blksize: Option<u16>,
    /// Window size in blocks. [default: up to 64]
    #[arg(long, value_name = "N", value_parser = values::windowsize)]
    pub(super) windowsize: Option<u16>,
    /// Retransmission timeout of both ends. [default: measured]
    #[arg(long, value_name = "SECONDS", value_parser = values::timeout)]
    pub(super) timeout: Option<u8>,
    /// Request no options, for servers that support none.
    #[arg(long, conflicts_with_all = ["blksize", "windowsize", "timeout"])]
    pub(super) no_options: bool,
    /// Translate line endings, for text between different systems.
    #[arg(long)]
    pub(super) netascii: bool,
    /// Print only errors.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// Arguments of `load`.
#[derive(Debug, Args)]
// What is below zero is refused by who knows what is expected instead.
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    allow_negative_numbers = true
)]
pub(super) struct Load {
    #[command(subcommand)]
    pub(super) command: Option<LoadCommand>,
    /// File to request, and names of more files on the same server. NAME=3 is requested three times as
    /// often as the others; {number} in a name is replaced by the transfer's number.
    #[arg(value_name = "tftp://HOST[:PORT]/NAME", required = true)]
    pub(super) targets: Vec<OsString>,
    /// TOML file with several groups of clients that run at the same time. Its keys are the long
    /// options; settings of a group are under [[group]], which also has name and files. The URL then
    /// names only the server.
    #[arg(long, value_name = "FILE.toml", conflicts_with = "LoadGroup")]
    pub(super) scenario: Option<PathBuf>,
    /// Test conformance to the RFCs instead, like "bootstorm check".
    #[arg(
        long,
        conflicts_with_all = [
            "LoadGroup", "scenario", "ramp", "threads", "seed", "no_gro", "server_pid", "json", "hgrm", "html"
        ]
    )]
    pub(super) check: bool,
    #[command(flatten)]
    pub(super) group: LoadGroup,
    #[command(flatten)]
    pub(super) run: LoadRun,
}

#[derive(Debug, Subcommand)]
pub(super) enum LoadCommand {
    /// Put the same load on several servers in turn, and compare them.
    ///
    /// The plan says which servers to start and which workloads to run. Each round runs every workload
    /// against every server, and a table is printed after each round.
    Compare(Compare),
    /// Write a file of any size with the pattern that --verify pattern checks.
    Pattern(Pattern),
}

/// Arguments of `load pattern`.
#[derive(Debug, Args)]
pub(super) struct Pattern {
    /// Size of the file, in octets.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) size: u64,
    /// File to write.
    pub(super) file: PathBuf,
}

/// What clients do, and how: on the command line, and in a group of a scenario.
#[derive(Debug, Clone, Args)]
pub(super) struct LoadGroup {
    /// Number of clients; with --ramp, of its first step. A server tells clients apart by address and
    /// port: on loopback (127.0.0.0/8, Linux) each has its own address, elsewhere each takes a
    /// descriptor (ulimit -n).
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "1",
        value_parser = values::number::<u32, 1, 1_000_000>
    )]
    pub(super) clients: u32,
    /// Start no more transfers after this many.
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(super) transfers: Option<u64>,
    /// Start no more transfers after this time.
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub(super) duration: Option<Duration>,
    /// New clients per second, at random times, regardless of how the server responds; latency counts
    /// from the time each was scheduled to start.
    #[arg(
        long,
        value_name = "R",
        value_parser = values::rate,
        conflicts_with_all = ["clients", "within"]
    )]
    pub(super) rate: Option<f64>,
    /// Start clients at even intervals instead of random times.
    #[arg(long, requires = "rate")]
    pub(super) even: bool,
    /// Start every client once, spread over this time.
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = values::seconds,
        conflicts_with_all = ["transfers", "duration"]
    )]
    pub(super) within: Option<Duration>,
    /// How long a client pauses before its next transfer.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = values::seconds)]
    pub(super) think: Duration,
    /// Zipf-distributed popularity: the Nth file is requested 1/N^S times as often as the first.
    #[arg(long, value_name = "S", value_parser = values::exponent)]
    pub(super) zipf: Option<f64>,
    /// Write this file to the server instead of reading; pattern is generated data of --size octets,
    /// which --verify pattern checks.
    #[arg(long, value_name = "FILE|pattern", conflicts_with = "verify")]
    pub(super) write: Option<PathBuf>,
    /// Octets written by --write pattern. [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size, requires = "write")]
    pub(super) size: Option<u64>,
    /// Compare every octet with this file, with the file of the same name in this directory, or with
    /// the pattern of "load pattern".
    #[arg(long, value_name = "FILE|DIR|pattern")]
    pub(super) verify: Option<PathBuf>,
    /// Imitate the requests and timeouts of these clients: ipxe, edk2, shim, uboot, uboot-flash, grub,
    /// pxelinux, rpi, curl, atftp, busybox, or plain, which knows no options. ipxe=5,edk2=3 runs five
    /// of one for every three of the other. Other options override the profile.
    #[arg(long, value_name = "CLIENT", value_parser = values::profiles)]
    pub(super) profile: Option<Profiles>,
    /// Block size in octets. [default: 1428]
    #[arg(long, value_name = "N", value_parser = values::blksize)]
    pub(super) blksize: Option<u16>,
    /// Window size in blocks; 1 requests no window. [default: 16]
    #[arg(long, value_name = "N", value_parser = values::windowsize)]
    pub(super) windowsize: Option<u16>,
    /// Retransmission timeout of both ends. [default: measured]
    #[arg(long, value_name = "SECONDS", value_parser = values::timeout)]
    pub(super) timeout: Option<u8>,
    /// Request no options.
    #[arg(long, conflicts_with_all = ["blksize", "windowsize", "timeout"])]
    pub(super) no_options: bool,
    /// A transfer fails after this long without progress. [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds_above_zero)]
    pub(super) patience: Option<Duration>,
    /// Probability that the clients lose a DATA or ACK packet, in either direction.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) loss: f64,
    /// Probability that a DATA or ACK packet arrives twice, in either direction.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) duplicate: f64,
    /// Probability that a DATA or ACK packet is delayed by 2 ms, so that later ones overtake it.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) reorder: f64,
    /// Delay of every packet, in each direction; 2..10 picks a random delay for each.
    #[arg(long, value_name = "MS[..MS]", default_value = "0", value_parser = values::delay)]
    pub(super) delay: Delay,
    /// How long clients wait before they acknowledge.
    #[arg(long, value_name = "MS", value_parser = values::milliseconds)]
    pub(super) slow: Option<Duration>,
    /// Pause every BLOCKS blocks for MS milliseconds, as a client writing to flash does.
    #[arg(long, value_name = "BLOCKS:MS", value_parser = values::flash)]
    pub(super) flash: Option<Flash>,
    /// Probability that a client silently vanishes during its transfer, at a random position in the
    /// file; after the first block if the file's length is unknown.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) abandon: f64,
}

/// How the whole run goes: on the command line, and at the top of a scenario.
#[derive(Debug, Clone, Args)]
pub(super) struct LoadRun {
    /// Multiply the load by FACTOR step by step until a bound is exceeded, then try loads in between,
    /// and report the highest load that held, to within 10 %. The first step has --clients or --rate,
    /// and each lasts --duration, or 5 s. [default: 1.5]
    #[arg(
        long,
        value_name = "FACTOR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1.5",
        value_parser = values::factor
    )]
    pub(super) ramp: Option<f64>,
    /// Bound on the 99th percentile of the time to the first block of a read, or to the end of a write.
    /// [default: 1000]
    #[arg(long, value_name = "MS", value_parser = values::milliseconds, requires = "ramp")]
    pub(super) bound_p99: Option<Duration>,
    /// Largest share of transfers that may fail. [default: 1%]
    #[arg(long, value_name = "P", value_parser = values::probability, requires = "ramp")]
    pub(super) bound_failures: Option<f64>,
    /// Most clients, or new clients per second, of any step. [default: 1000000]
    #[arg(long, value_name = "N", value_parser = values::rate, requires = "ramp")]
    pub(super) ramp_to: Option<f64>,
    /// Number of threads that run clients. [default: 1]
    #[arg(
        long,
        value_name = "N",
        value_parser = values::number::<u16, 1, 256>
    )]
    pub(super) threads: Option<u16>,
    /// Random seed; the same seed repeats the run. [default: 1]
    #[arg(long, value_name = "N", value_parser = values::whole)]
    pub(super) seed: Option<u64>,
    /// Receive datagrams one by one, so that loopback costs the server as much as a real network would.
    #[arg(long)]
    pub(super) no_gro: bool,
    /// Process ID of the server on this machine, to report its resource usage.
    #[arg(long, value_name = "PID", value_parser = values::number::<u32, 1, U32_MAX>)]
    pub(super) server_pid: Option<u32>,
    /// Also write the report as JSON. Here and below, - is standard output, without the table.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Also write the times of whole transfers in HdrHistogram's percentile format.
    #[arg(long, value_name = "FILE", conflicts_with = "ramp")]
    pub(super) hgrm: Option<PathBuf>,
    /// Also write a page with plots, for any browser.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Show no progress.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// Arguments of `load compare`.
#[derive(Debug, Args)]
pub(super) struct Compare {
    /// TOML file with the servers and the workloads.
    #[arg(value_name = "PLAN.toml")]
    pub(super) plan: PathBuf,
    /// Number of rounds. [default: what the plan says]
    #[arg(long, value_name = "N", value_parser = values::number::<u32, 1, 1_000>)]
    pub(super) rounds: Option<u32>,
    /// Run only servers whose names contain one of these texts.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    pub(super) only: Vec<String>,
    /// Run only workloads whose names contain one of these texts.
    #[arg(long, value_name = "TEXT")]
    pub(super) works: Vec<String>,
    /// Also write every number of every run as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Also write the tables as Markdown.
    #[arg(long, value_name = "FILE")]
    pub(super) markdown: Option<PathBuf>,
    /// Do not report each run.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// tftp://HOST[:PORT]/NAME, or HOST[:PORT] followed by NAME.
    #[arg(value_name = "URL|HOST")]
    pub(super) server: OsString,
    /// Name of the file on HOST.
    pub(super) name: Option<OsString>,
    /// Also test writes, in this folder on the server ("" is its root). The written files stay there,
    /// under names that begin with bootstorm-check.
    #[arg(long, value_name = "FOLDER")]
    pub(super) write: Option<String>,
    /// Print only deviations and the summary.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// Arguments of `simulate`.
#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// Random seed; the same seed repeats the run.
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::whole)]
    pub(super) seed: u64,
    /// Probability that a datagram is lost.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) loss: f64,
    /// Probability that later datagrams overtake one.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) reorder: f64,
    /// Probability that a datagram arrives twice.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) duplicate: f64,
    /// Largest random delay of a datagram, added to 0.1 ms.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = values::milliseconds)]
    pub(super) jitter: Duration,
    /// Window size in blocks.
    #[arg(long, value_name = "N", default_value = "8", value_parser = values::windowsize)]
    pub(super) windowsize: u16,
    /// Block size in octets.
    #[arg(long, value_name = "N", default_value = "1428", value_parser = values::blksize)]
    pub(super) blksize: u16,
    /// Number of clients, all at once.
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = values::number::<u32, 1, 20_000>
    )]
    pub(super) clients: u32,
    /// Size of the file, in octets.
    #[arg(long, value_name = "SIZE", default_value = "1MB", value_parser = values::size)]
    pub(super) size: u64,
    /// Clients upload the file instead of downloading it.
    #[arg(long)]
    pub(super) write: bool,
    /// Print every datagram.
    #[arg(long)]
    pub(super) trace: bool,
    /// Simulate complete worlds instead: this many clients of many kinds, under network conditions and
    /// failures chosen by the seed. Each world is checked against every promise.
    #[arg(
        long,
        value_name = "N",
        value_parser = values::number::<u32, 1, 20_000>,
        conflicts_with_all = [
            "loss", "reorder", "duplicate", "jitter", "windowsize", "blksize", "clients", "size", "write", "trace",
        ]
    )]
    pub(super) fleet: Option<u32>,
    /// Run one world per seed from A up to B, excluding B.
    #[arg(
        long,
        value_name = "A..B",
        value_parser = values::seeds,
        requires = "fleet",
        conflicts_with = "seed"
    )]
    pub(super) seeds: Option<Range<u64>>,
    /// Worlds to run in parallel. [default: one per processor]
    #[arg(
        long,
        value_name = "N",
        value_parser = values::number::<u16, 1, 1_024>,
        requires = "fleet"
    )]
    pub(super) jobs: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The columns that the snapshots of help are wrapped at.
    const COLUMNS: usize = 100;

    /// The help of a subcommand, which may be one of another: `load compare`.
    fn help(subcommand: &str) -> String {
        let mut command = Arguments::command().term_width(COLUMNS);
        command.build();
        let mut command = &mut command;
        for name in subcommand.split(' ') {
            command = command.find_subcommand_mut(name).expect("a subcommand");
        }
        command.render_long_help().to_string()
    }

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_reads_well() {
        let whole = Arguments::command()
            .term_width(COLUMNS)
            .render_long_help()
            .to_string();
        insta::assert_snapshot!("help", whole);
        for subcommand in [
            "demo",
            "serve",
            "get",
            "put",
            "load",
            "load compare",
            "check",
            "simulate",
            "top",
        ] {
            let name = subcommand.replace(' ', "_");
            insta::assert_snapshot!(format!("help_{name}"), help(subcommand));
        }
    }

    #[test]
    fn the_short_letters_of_tftpd_hpa_are_kept_free() {
        let command = Arguments::command();
        let used: Vec<char> = command
            .get_subcommands()
            .flat_map(clap::Command::get_arguments)
            .chain(command.get_arguments())
            .filter_map(clap::Arg::get_short)
            .collect();
        let free = "L46acsuptTmrBR";
        assert!(
            used.iter().all(|&letter| !free.contains(letter)),
            "{used:?}"
        );
    }
}
