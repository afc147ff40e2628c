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
    /// See a boot storm on this machine, with nothing to prepare.
    ///
    /// A server of its own with an image of its own, on loopback; a crowd of clients that boot from it
    /// all at once, and compare every octet; a table, and a page with plots. Nothing else is left behind.
    Demo(Demo),
    /// The server of the demo.
    #[command(hide = true)]
    DemoServer(DemoServer),
    /// What cleans up after a comparison that is killed.
    #[command(hide = true)]
    CompareGuard(CompareGuard),
    /// Serve the files of a directory.
    ///
    /// Every flag can also be set by an environment variable, several values of one separated by
    /// spaces; one without a value by 1, true, yes or on, and not by 0, false, no or off. --config names a file
    /// that sets them as well. Flags win over variables, and variables over the file.
    Serve(Box<Serve>),
    /// Get a file from a server.
    ///
    /// Write bootstorm get tftp://HOST/NAME, or bootstorm get HOST NAME. The file appears once it is
    /// whole, under the last part of its name unless -o says otherwise.
    Get(Get),
    /// Put a file on a server.
    ///
    /// Write bootstorm put FILE tftp://HOST/NAME, or bootstorm put FILE HOST NAME. Without a name, or
    /// with one that ends in a slash, the file's own is taken.
    Put(Put),
    /// Put load on a server, of any make, and measure it.
    ///
    /// Thousands of clients in one process, each with an address of its own on loopback. By default each
    /// of them gets the file once; --transfers or --duration keep them busy, --rate has new ones come
    /// whatever the server does, --within has all come once, in a storm.
    Load(Box<Load>),
    /// Examine how a server, of any make, keeps to the standards.
    ///
    /// Write bootstorm check tftp://HOST/NAME, where NAME is a file that may be read; one of 600 KB or more
    /// with ends of lines in it lets every case be tried. Each case is a few packets, and what differs is
    /// shown with them. The exit code is 0 if every rule holds that must.
    Check(Check),
    /// Run server and clients in a simulated network.
    ///
    /// Time is virtual, and the same seed makes the same run again.
    Simulate(Simulate),
    /// Watch a running server: traffic, latencies, and who is being served.
    ///
    /// The server must have been started with --admin. What is printed is drawn anew on a terminal, and
    /// written one below the other elsewhere.
    Top(Top),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogArguments {
    /// Log more; twice for every packet.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// How log lines are written.
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
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What `demo` is told.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How many clients.
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "1000",
        value_parser = values::number::<u32, 1, 50_000>
    )]
    pub(super) clients: u32,
    /// Octets of the image.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = values::memory)]
    pub(super) size: usize,
    /// The time in which they all power on.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = values::seconds)]
    pub(super) within: Duration,
    /// Where to write the page with plots. [default: bootstorm-demo.html, here or else where temporary
    /// files go]
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Show nothing while it runs.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// What the server of the demo is told.
#[derive(Debug, Args)]
pub(super) struct DemoServer {
    /// Octets of the image.
    pub(super) size: usize,
    /// Threads that serve.
    pub(super) workers: usize,
}

/// What the guard of a comparison is told.
#[derive(Debug, Args)]
pub(super) struct CompareGuard {
    /// The process that compares.
    pub(super) comparer: u32,
}

/// What `serve` is told.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The directory whose files are served. It is opened once: what takes its name later is served
    /// after a restart.
    #[arg(
        env = "BOOTSTORM_ROOT",
        hide_env_values = true,
        default_value = "/srv/tftp"
    )]
    pub(super) root: PathBuf,
    /// A TOML file that says what flags say, under the same names without the dashes in front; flags and
    /// environment variables win over it.
    #[arg(
        long,
        env = "BOOTSTORM_CONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(super) config: Option<PathBuf>,
    /// Address to take requests at, repeatable. Port 0 picks one; ":6969" is that port of every
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
    /// What moves the datagrams.
    #[arg(
        long,
        env = "BOOTSTORM_ENGINE",
        hide_env_values = true,
        value_name = "ENGINE",
        default_value = "auto"
    )]
    pub(super) engine: EngineChoice,
    /// Send every datagram by a call of its own (for network cards that cut bursts wrongly).
    #[arg(long, env = "BOOTSTORM_NO_GSO", hide_env_values = true, value_parser = values::switch)]
    pub(super) no_gso: bool,
    /// Threads that serve. [default: one for each core]
    #[arg(
        long,
        env = "BOOTSTORM_WORKERS",
        hide_env_values = true,
        value_name = "N",
        value_parser = values::number::<u16, 1, 1024>
    )]
    pub(super) workers: Option<u16>,
    /// Keep each worker on one core; there must be a core for each (Linux only).
    #[arg(long, env = "BOOTSTORM_PIN", hide_env_values = true, value_parser = values::switch)]
    pub(super) pin: bool,
    /// Answer every transfer from the port that was asked (for NAT and Kubernetes).
    #[arg(long, env = "BOOTSTORM_SINGLE_PORT", hide_env_values = true, value_parser = values::switch)]
    pub(super) single_port: bool,
    /// Ports that transfers are answered from, both included; each worker and address takes one.
    #[arg(
        long,
        env = "BOOTSTORM_PORT_RANGE",
        hide_env_values = true,
        value_name = "A:B",
        value_parser = values::port_range
    )]
    pub(super) port_range: Option<(u16, u16)>,
    /// Largest block size; mtu is what reaches a client without IP fragments.
    #[arg(
        long,
        env = "BOOTSTORM_MAX_BLKSIZE",
        hide_env_values = true,
        value_name = "N|mtu",
        default_value = "mtu",
        value_parser = values::blksize_max
    )]
    pub(super) max_blksize: BlksizeMax,
    /// Most blocks under way towards one client.
    #[arg(
        long,
        env = "BOOTSTORM_MAX_WINDOWSIZE",
        hide_env_values = true,
        value_name = "N",
        default_value = "64",
        value_parser = values::windowsize
    )]
    pub(super) max_windowsize: u16,
    /// Most transfers at a time.
    #[arg(
        long,
        env = "BOOTSTORM_MAX_TRANSFERS",
        hide_env_values = true,
        value_name = "N",
        default_value = "65536",
        value_parser = values::number::<u32, 1, U32_MAX>
    )]
    pub(super) max_transfers: u32,
    /// Most octets of an upload. [default: what the disk holds]
    #[arg(
        long,
        env = "BOOTSTORM_MAX_UPLOAD",
        hide_env_values = true,
        value_name = "SIZE",
        value_parser = values::size
    )]
    pub(super) max_upload: Option<u64>,
    /// A transfer that has not moved for this long is over.
    #[arg(
        long,
        env = "BOOTSTORM_IDLE_TIMEOUT",
        hide_env_values = true,
        value_name = "SECONDS",
        default_value = "30",
        value_parser = values::seconds_above_zero
    )]
    pub(super) idle_timeout: Duration,
    /// How long running transfers may go on after SIGTERM.
    #[arg(
        long,
        env = "BOOTSTORM_DRAIN_TIMEOUT",
        hide_env_values = true,
        value_name = "SECONDS",
        default_value = "60",
        value_parser = values::seconds
    )]
    pub(super) drain_timeout: Duration,
    /// Answer operators over HTTP here, without authentication: /metrics /healthz /readyz /transfers.
    /// ":9100" is every address.
    #[arg(
        long,
        env = "BOOTSTORM_ADMIN",
        hide_env_values = true,
        value_name = "ADDR:PORT",
        value_parser = values::address
    )]
    pub(super) admin: Option<Listen>,
    /// Repeat only once to a client that has not proved that it is there.
    #[arg(long, env = "BOOTSTORM_STRICT", hide_env_values = true, value_parser = values::switch)]
    pub(super) strict: bool,
    /// Look for a name that is not found without regard to case.
    #[arg(long, env = "BOOTSTORM_CASE_INSENSITIVE", hide_env_values = true, value_parser = values::switch)]
    pub(super) case_insensitive: bool,
    /// Least time before a block is repeated to a client without a window.
    #[arg(
        long,
        env = "BOOTSTORM_RETRANSMIT_FLOOR",
        hide_env_values = true,
        value_name = "MS",
        default_value = "1000",
        value_parser = values::milliseconds
    )]
    pub(super) retransmit_floor: Duration,
    /// Settings for the clients of a subnet, repeatable; the longest prefix counts. Any of
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
    /// Memory for the packets that transfers of the same file share [default: a quarter of what there is].
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
    /// New files, and new contents for old ones.
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
    /// The best that this system has.
    Auto,
    /// Readiness and plain system calls, on every Unix.
    Mio,
    /// Linux's io_uring; an error where it is missing or forbidden.
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

/// What `top` is told.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// The address that serve --admin was given; :9100 is that port of this host.
    #[arg(value_name = "ADDR:PORT", value_parser = values::admin)]
    pub(super) server: String,
    /// Time from one look to the next.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = values::seconds_above_zero)]
    pub(super) interval: Duration,
    /// Print once, for what happens in one such time.
    #[arg(long)]
    pub(super) once: bool,
}

/// What `get` is told.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// tftp://HOST[:PORT]/NAME, or HOST[:PORT] with NAME beside it.
    #[arg(value_name = "URL|HOST")]
    pub(super) server: OsString,
    /// The file's name at HOST.
    pub(super) name: Option<OsString>,
    /// File to write; - is standard output, which gets the octets as they come.
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    #[command(flatten)]
    pub(super) terms: Terms,
}

/// What `put` is told.
#[derive(Debug, Args)]
pub(super) struct Put {
    /// The file to send.
    pub(super) file: PathBuf,
    /// tftp://HOST[:PORT]/NAME, or HOST[:PORT] with NAME beside it.
    #[arg(value_name = "URL|HOST")]
    pub(super) server: OsString,
    /// The file's name at HOST.
    pub(super) name: Option<OsString>,
    #[command(flatten)]
    pub(super) terms: Terms,
}

/// What `get` and `put` have in common.
#[derive(Debug, Args)]
pub(super) struct Terms {
    /// Octets in a block. [default: what fits the way to the server]
    #[arg(long, value_name = "N", value_parser = values::blksize)]
    pub(super) blksize: Option<u16>,
    /// Blocks under way without an acknowledgement. [default: up to 64]
    #[arg(long, value_name = "N", value_parser = values::windowsize)]
    pub(super) windowsize: Option<u16>,
    /// Seconds after which either end repeats what was lost. [default: measured]
    #[arg(long, value_name = "SECONDS", value_parser = values::timeout)]
    pub(super) timeout: Option<u8>,
    /// Ask for no options at all, for servers that cannot take any.
    #[arg(long, conflicts_with_all = ["blksize", "windowsize", "timeout"])]
    pub(super) no_options: bool,
    /// Translate ends of lines, as in text between different systems.
    #[arg(long)]
    pub(super) netascii: bool,
    /// Print nothing but errors.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// What `load` is told.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Load {
    #[command(subcommand)]
    pub(super) command: Option<LoadCommand>,
    /// The file to ask for, and names of more at the same server. NAME=3 is asked for three times as
    /// often as another; {number} in a name stands for the transfer's number.
    #[arg(value_name = "tftp://HOST[:PORT]/NAME", required = true)]
    pub(super) targets: Vec<OsString>,
    /// Several groups of clients at the same time, as this TOML file has them. Its keys are the long
    /// options; what belongs to a group stands under [[group]], with name and files besides. The URL
    /// then names the server alone.
    #[arg(long, value_name = "FILE.toml", conflicts_with = "LoadGroup")]
    pub(super) scenario: Option<PathBuf>,
    #[command(flatten)]
    pub(super) group: LoadGroup,
    #[command(flatten)]
    pub(super) run: LoadRun,
}

#[derive(Debug, Subcommand)]
pub(super) enum LoadCommand {
    /// Put the same load on several servers by turns, and compare them.
    ///
    /// The plan says which servers to start and what to do to them. Each round runs every server on every
    /// work, and a table is printed after each.
    Compare(Compare),
    /// Write a file of the pattern that --verify pattern knows, of any length.
    Pattern(Pattern),
}

/// What `load pattern` is told.
#[derive(Debug, Args)]
pub(super) struct Pattern {
    /// Octets of the file.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) size: u64,
    /// The file to write.
    pub(super) file: PathBuf,
}

/// What clients do, and how: on the command line, and in a group of a scenario.
#[derive(Debug, Clone, Args)]
pub(super) struct LoadGroup {
    /// How many clients; the first step of --ramp.
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "1",
        value_parser = values::number::<u32, 1, 1_000_000>
    )]
    pub(super) clients: u32,
    /// Begin no more after so many transfers.
    #[arg(long, value_name = "N", value_parser = values::number::<u64, 1, { u64::MAX }>)]
    pub(super) transfers: Option<u64>,
    /// Begin no more after this time.
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub(super) duration: Option<Duration>,
    /// New clients a second, at random times, whatever the server does; latencies count from the time
    /// that each was meant to begin.
    #[arg(
        long,
        value_name = "R",
        value_parser = values::rate,
        conflicts_with_all = ["clients", "within"]
    )]
    pub(super) rate: Option<f64>,
    /// Clients come at --rate like the ticks of a clock instead.
    #[arg(long, requires = "rate")]
    pub(super) even: bool,
    /// All clients once, spread over this time.
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = values::seconds,
        conflicts_with_all = ["transfers", "duration"]
    )]
    pub(super) within: Option<Duration>,
    /// How long a client pauses before it begins anew.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = values::seconds)]
    pub(super) think: Duration,
    /// The files are asked for the less the later they stand: the second 1/2^S times as often as the first,
    /// the third 1/3^S times.
    #[arg(long, value_name = "S", value_parser = values::exponent)]
    pub(super) zipf: Option<f64>,
    /// Write this file to the server instead of reading; pattern is the one of --size that --verify
    /// pattern knows.
    #[arg(long, value_name = "FILE|pattern", conflicts_with = "verify")]
    pub(super) write: Option<PathBuf>,
    /// Octets that --write pattern writes. [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size, requires = "write")]
    pub(super) size: Option<u64>,
    /// Compare every octet with this file, with the file of the same name in this directory, or with the
    /// pattern of "load pattern".
    #[arg(long, value_name = "FILE|DIR|pattern")]
    pub(super) verify: Option<PathBuf>,
    /// Clients ask and wait as these do: ipxe, edk2, shim, uboot, uboot-flash, grub, pxelinux, rpi, curl,
    /// atftp, or plain, which knows no options. ipxe=5,edk2=3 has five of the one for three of the other.
    /// Other options change what they say.
    #[arg(long, value_name = "CLIENT", value_parser = values::profiles)]
    pub(super) profile: Option<Profiles>,
    /// Octets in a block. [default: 1428]
    #[arg(long, value_name = "N", value_parser = values::blksize)]
    pub(super) blksize: Option<u16>,
    /// Blocks under way without an acknowledgement; 1 asks for no window. [default: 16]
    #[arg(long, value_name = "N", value_parser = values::windowsize)]
    pub(super) windowsize: Option<u16>,
    /// Seconds after which either end repeats what was lost. [default: measured]
    #[arg(long, value_name = "SECONDS", value_parser = values::timeout)]
    pub(super) timeout: Option<u8>,
    /// Ask for no options at all.
    #[arg(long, conflicts_with_all = ["blksize", "windowsize", "timeout"])]
    pub(super) no_options: bool,
    /// A transfer that has not moved for this long has failed. [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub(super) patience: Option<Duration>,
    /// Probability that the clients lose a DATA or ACK packet, on either way.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) loss: f64,
    /// Probability that a DATA or ACK packet arrives twice, on either way.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) duplicate: f64,
    /// Probability that a DATA or ACK packet is held back for 2 ms, so that later ones overtake it.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) reorder: f64,
    /// How long every packet takes on its way, on either way; 2..10 draws a time for each.
    #[arg(long, value_name = "MS[..MS]", default_value = "0", value_parser = values::delay)]
    pub(super) delay: Delay,
    /// How long clients take before they acknowledge.
    #[arg(long, value_name = "MS", value_parser = values::milliseconds)]
    pub(super) slow: Option<Duration>,
    /// Clients stand still so long after every so many blocks, as if they wrote them to flash.
    #[arg(long, value_name = "BLOCKS:MS", value_parser = values::flash)]
    pub(super) flash: Option<Flash>,
    /// Probability that a client vanishes amid its transfer.
    #[arg(long, value_name = "P", default_value = "0", value_parser = values::probability)]
    pub(super) abandon: f64,
}

/// How the whole run goes: on the command line, and at the top of a scenario.
#[derive(Debug, Clone, Args)]
pub(super) struct LoadRun {
    /// Raise the load step by step, FACTOR times each, until a bound is passed, then try loads in between;
    /// the highest load that held is named, to 10 %. The first step has --clients or --rate, and each lasts
    /// --duration, or 5 s. [default: 1.5]
    #[arg(
        long,
        value_name = "FACTOR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1.5",
        value_parser = values::factor
    )]
    pub(super) ramp: Option<f64>,
    /// What 99 of 100 reads may take up to their first block, and writes up to their end. [default: 1000]
    #[arg(long, value_name = "MS", value_parser = values::milliseconds, requires = "ramp")]
    pub(super) bound_p99: Option<Duration>,
    /// The part of the transfers that may fail. [default: 1%]
    #[arg(long, value_name = "P", value_parser = values::probability, requires = "ramp")]
    pub(super) bound_failures: Option<f64>,
    /// Most clients, or new ones a second, of any step. [default: 1000000]
    #[arg(long, value_name = "N", value_parser = values::rate, requires = "ramp")]
    pub(super) ramp_to: Option<f64>,
    /// Threads that drive clients. [default: 1]
    #[arg(
        long,
        value_name = "N",
        value_parser = values::number::<u16, 1, 256>
    )]
    pub(super) threads: Option<u16>,
    /// What random choices come from. [default: 1]
    #[arg(long, value_name = "N", value_parser = values::whole)]
    pub(super) seed: Option<u64>,
    /// Take datagrams one by one: loopback then costs the server what a real network would.
    #[arg(long)]
    pub(super) no_gro: bool,
    /// The server's process on this machine, whose use of it is reported.
    #[arg(long, value_name = "PID", value_parser = values::number::<u32, 1, U32_MAX>)]
    pub(super) server_pid: Option<u32>,
    /// Write the report as JSON too. Here as below, - is standard output, without the table.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write the times of whole transfers in HdrHistogram's percentile format too.
    #[arg(long, value_name = "FILE", conflicts_with = "ramp")]
    pub(super) hgrm: Option<PathBuf>,
    /// Write a page with plots too, which any browser shows.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Show nothing while it runs.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// What `load compare` is told.
#[derive(Debug, Args)]
pub(super) struct Compare {
    /// The servers and the works, as TOML.
    #[arg(value_name = "PLAN.toml")]
    pub(super) plan: PathBuf,
    /// How often everything is measured. [default: what the plan says]
    #[arg(long, value_name = "N", value_parser = values::number::<u32, 1, 1_000>)]
    pub(super) rounds: Option<u32>,
    /// Servers whose names hold one of these texts alone.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    pub(super) only: Vec<String>,
    /// Works whose names hold one of these texts alone.
    #[arg(long, value_name = "TEXT")]
    pub(super) works: Vec<String>,
    /// Write every number of every run as JSON too.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write the tables in Markdown too.
    #[arg(long, value_name = "FILE")]
    pub(super) markdown: Option<PathBuf>,
    /// Do not tell of each run.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// What `check` is told.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// tftp://HOST[:PORT]/NAME, or HOST[:PORT] with NAME beside it.
    #[arg(value_name = "URL|HOST")]
    pub(super) server: OsString,
    /// The file's name at HOST.
    pub(super) name: Option<OsString>,
    /// Try writes too, in this folder of the server's ("" is the one above all). What is written stays
    /// there, under names that begin with bootstorm-check.
    #[arg(long, value_name = "FOLDER")]
    pub(super) write: Option<String>,
    /// Tell only what differs, and the summary.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// What `simulate` is told.
#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// Makes the run what it is.
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
    /// Most delay of a datagram beyond 0.1 ms.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = values::milliseconds)]
    pub(super) jitter: Duration,
    /// Blocks under way without an acknowledgement.
    #[arg(long, value_name = "N", default_value = "8", value_parser = values::windowsize)]
    pub(super) windowsize: u16,
    /// Octets in a block.
    #[arg(long, value_name = "N", default_value = "1428", value_parser = values::blksize)]
    pub(super) blksize: u16,
    /// How many clients, all at once.
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = values::number::<u32, 1, 20_000>
    )]
    pub(super) clients: u32,
    /// Octets of the file.
    #[arg(long, value_name = "SIZE", default_value = "1MB", value_parser = values::size)]
    pub(super) size: u64,
    /// Clients put the file instead of getting it.
    #[arg(long)]
    pub(super) write: bool,
    /// Print every datagram.
    #[arg(long)]
    pub(super) trace: bool,
    /// Play whole worlds instead: so many clients of many makes, in weather and mishaps that the seed
    /// chooses, and hold each against everything that is promised.
    #[arg(
        long,
        value_name = "N",
        value_parser = values::number::<u32, 1, 20_000>,
        conflicts_with_all = [
            "loss", "reorder", "duplicate", "jitter", "windowsize", "blksize", "clients", "size", "write", "trace",
        ]
    )]
    pub(super) fleet: Option<u32>,
    /// A world for each of these seeds, the last one excluded.
    #[arg(
        long,
        value_name = "A..B",
        value_parser = values::seeds,
        requires = "fleet",
        conflicts_with = "seed"
    )]
    pub(super) seeds: Option<Range<u64>>,
    /// Worlds at a time; as many as there are processors, if it is not given.
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
