//! `load compare`: reads a plan in TOML, runs it, and prints tables after each round.

use std::env;
use std::fs;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::Arc;

use serde::Deserialize;

use super::args::{Compare as Arguments, CompareGuard};
use super::output::Output;
use super::{Trouble, end_at_once, remark, say, values};
use crate::control;
use crate::load::Weather;
use crate::load::compare::{self, Contender, Event, Form, Outcome, Plan, Results, Stop, Workload};
use crate::load::plan::{Bounds, Pace};
use crate::processors;
use crate::proto::negotiate::{BLKSIZE_MAX, BLKSIZE_MIN, Wanted};
use crate::proto::timing::Patience;
use crate::shard::Operation;
use crate::time::Duration;

/// The default number of rounds: the least whose median has a value on either side.
const ROUNDS: u32 = 3;
/// The default time limit until a server answers.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// The default time limit of a run.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a transfer may stall.
const PATIENCE: Duration = Duration::from_secs(5);
/// The minimum time before a client repeats, as in most clients.
const REPEAT_AFTER_MILLIS: u16 = 1_000;
/// More clients than this cannot have addresses of their own.
const CLIENTS_MAX: u32 = 1_000_000;
/// The largest file: it is kept in memory, for comparison with what is received.
const SIZE_MAX: u64 = 4 << 30;
/// The placeholders allowed in a command.
const PLACEHOLDERS: [&str; 5] = ["{address}", "{bootstorm}", "{plan}", "{port}", "{root}"];

pub(super) fn run(arguments: &Arguments) -> Result<(), Trouble> {
    let mut plan = read(&arguments.plan)?;
    plan.rounds = arguments.rounds.unwrap_or(plan.rounds);
    keep(&mut plan, &arguments.only, &arguments.works)?;
    let outputs = Outputs::open(arguments)?;
    let stop = Arc::new(Stop::default());
    stop_on_interrupt(&stop)?;
    let guard = Guard::start()?;
    let mut trouble = Ok(());
    let results = compare::run(&plan, &stop, &mut |event| {
        if let Err(error) = tell(&event, arguments.quiet, &outputs) {
            trouble = Err(error);
            stop.stop();
        }
    });
    drop(guard);
    let results = results.map_err(|error| Trouble::Work(format!("cannot compare: {error}")))?;
    trouble?;
    let interrupted = stop.is_stopped() && results.rounds < results.rounds_wanted;
    if interrupted {
        // The last complete round has already been shown.
        show(&results, &outputs)?;
    }
    let measured = results.outcomes.iter().flatten().flatten();
    let nothing = measured.filter_map(Outcome::measurement).next().is_none();
    let failed = results.failed_every_time();
    if interrupted {
        let (round, rounds) = (results.rounds + 1, results.rounds_wanted);
        Err(Trouble::Work(format!(
            "interrupted in round {round} of {rounds}"
        )))
    } else if nothing {
        Err(Trouble::work("nothing was measured"))
    } else if !failed.is_empty() {
        let failed = failed.join(", ");
        Err(Trouble::Work(format!("failed every time: {failed}")))
    } else {
        Ok(())
    }
}

/// A separate process that outlives this one if this one is killed. It then ends the servers and removes
/// the comparison's files. It runs as long as this process holds its standard input open.
struct Guard(Child);

impl Guard {
    fn start() -> Result<Self, Trouble> {
        let start = || {
            Command::new(env::current_exe()?)
                .args(["compare-guard", &process::id().to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                // An interrupt at the terminal is for this process, which then ends the servers itself.
                .process_group(0)
                .spawn()
        };
        let started = start();
        started
            .map(Self)
            .map_err(|error| Trouble::Work(format!("cannot start a guard: {error}")))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It finds nothing to do, and ends.
        let _ = self.0.wait();
    }
}

/// Runs as the guard of a comparison, until its standard input is closed.
pub(super) fn guard(arguments: &CompareGuard) -> Result<(), Trouble> {
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map_err(Trouble::work)?;
    compare::clean_up_after(arguments.comparer).map_err(Trouble::work)
}

/// Stops the comparison at the first signal; at the second, ends every server and then this process.
fn stop_on_interrupt(stop: &Arc<Stop>) -> Result<(), Trouble> {
    let stop = stop.clone();
    let action = move || {
        if stop.is_stopped() {
            let _ = compare::end_all();
            end_at_once();
        }
        stop.stop();
    };
    control::on_interrupt(action)
        .map_err(|error| Trouble::Work(format!("cannot catch signals: {error}")))
}

fn tell(event: &Event<'_>, quiet: bool, outputs: &Outputs) -> Result<(), Trouble> {
    match event {
        Event::Uncounted(why) => remark(format_args!(
            "WARNING: without a control group ({why}) processor time lacks that of children for which a server does not wait; root may make one"
        )),
        Event::Missing(name, why) => remark(format_args!("SKIPPED: {name}: {why}")),
        Event::Measured {
            round,
            workload,
            contender,
            outcome,
        } => {
            if !quiet {
                let outcome = brief(outcome);
                remark(format_args!(
                    "round {round}: {workload}: {contender}: {outcome}"
                ));
            }
        }
        Event::Round(results) => {
            if results.rounds < results.rounds_wanted && io::stdout().is_terminal() {
                let rounds = (results.rounds, results.rounds_wanted);
                say(format_args!("\nAfter {} of {}:\n", rounds.0, rounds.1))?;
            }
            show(results, outputs)?;
        }
    }
    Ok(())
}

/// Prints the tables and writes the files, so that users who interrupt the comparison have partial
/// results.
fn show(results: &Results, outputs: &Outputs) -> Result<(), Trouble> {
    if let Some(output) = &outputs.json {
        output.write(|output| Ok(serde_json::to_writer_pretty(output, results)?))?;
    }
    if let Some(output) = &outputs.markdown {
        output.write(|output| output.write_all(results.tables(Form::Markdown).as_bytes()))?;
    }
    say(format_args!("{}\n", results.tables(Form::Text)))
}

/// The output files, in addition to the tables.
struct Outputs {
    json: Option<Output>,
    markdown: Option<Output>,
}

impl Outputs {
    fn open(arguments: &Arguments) -> Result<Self, Trouble> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(Output::open).transpose();
        Ok(Self {
            json: open(&arguments.json)?,
            markdown: open(&arguments.markdown)?,
        })
    }
}

/// A short description of an outcome.
fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(why) => format!("FAILED: {why}"),
        Outcome::Measured(run) => {
            let rate = run.octets_per_second / 1e6;
            let (complete, wanted, seconds) = (run.complete, run.wanted, run.seconds);
            format!("{complete} of {wanted} in {seconds:.1} s, {rate:.1} MB/s")
        }
    }
}

/// A plan as written in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    rounds: Option<u32>,
    /// The name of the server that the others are compared with; by default the first.
    baseline: Option<String>,
    #[serde(default)]
    generator: WrittenGenerator,
    #[serde(default)]
    server: Vec<WrittenServer>,
    #[serde(default)]
    work: Vec<WrittenWork>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenGenerator {
    #[serde(default)]
    cores: Vec<usize>,
    threads: Option<u16>,
    #[serde(default)]
    gro: bool,
    /// Seconds.
    patience: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenServer {
    name: String,
    command: Vec<String>,
    #[serde(default)]
    environment: std::collections::BTreeMap<String, String>,
    address: Option<IpAddr>,
    port: Option<u16>,
    #[serde(default)]
    cores: Vec<usize>,
    /// Seconds.
    ready_within: Option<f64>,
    #[serde(default)]
    count: Vec<String>,
    #[serde(default = "yes")]
    uploads: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenWork {
    name: String,
    #[serde(default)]
    op: WrittenOperation,
    size: WrittenSizes,
    #[serde(default = "one")]
    clients: u32,
    transfers: Option<u64>,
    /// Seconds.
    duration: Option<f64>,
    /// Seconds.
    within: Option<f64>,
    blksize: Option<u16>,
    windowsize: Option<u16>,
    /// A probability.
    #[serde(default)]
    loss: f64,
    /// Seconds.
    limit: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenOperation {
    #[default]
    Read,
    Write,
}

const fn one() -> u32 {
    1
}

/// `"4MiB"`, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WrittenSizes {
    One(String),
    Several(Vec<String>),
}

/// Reads the plan at `path`.
fn read(path: &Path) -> Result<Plan, Trouble> {
    let text = fs::read_to_string(path)
        .map_err(|error| Trouble::Work(format!("cannot read {}: {error}", path.display())))?;
    let told = |why: String| Trouble::Arguments(format!("in {}: {why}", path.display()));
    let written: Written = toml::from_str(&text).map_err(|error| told(error.to_string()))?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    meant(written, &folder).map_err(told)
}

/// Converts a plan from a file in `folder`.
fn meant(written: Written, folder: &Path) -> Result<Plan, String> {
    let servers = written.server.into_iter();
    let contenders: Vec<_> = servers
        .map(|server| {
            let name = server.name.clone();
            contender(server, folder).map_err(|why| format!("server \"{name}\": {why}"))
        })
        .collect::<Result<_, _>>()?;
    let works = written.work.into_iter();
    let workloads: Vec<_> = works
        .map(|work| {
            let name = work.name.clone();
            workload(work).map_err(|why| format!("work \"{name}\": {why}"))
        })
        .collect::<Result<_, _>>()?;
    unique(contenders.iter().map(|contender| &contender.name), "server")?;
    unique(workloads.iter().map(|workload| &workload.name), "work")?;
    let baseline = match &written.baseline {
        None => 0,
        Some(name) => contenders
            .iter()
            .position(|contender| contender.name == *name)
            .ok_or_else(|| format!("the baseline \"{name}\" is none of the servers"))?,
    };
    let generator = written.generator;
    Ok(Plan {
        rounds: above_zero(written.rounds.unwrap_or(ROUNDS), "rounds")?,
        contenders,
        baseline,
        workloads,
        cores: cores(generator.cores)?,
        threads: above_zero(generator.threads.unwrap_or(1), "threads")?.into(),
        gro: generator.gro,
        patience: Patience {
            receiver_floor_millis: REPEAT_AFTER_MILLIS,
            idle: time(generator.patience, "patience")?.unwrap_or(PATIENCE),
            ..Patience::DEFAULT
        },
    })
}

fn contender(written: WrittenServer, folder: &Path) -> Result<Contender, String> {
    let own =
        env::current_exe().map_err(|error| format!("{{bootstorm}} cannot be told: {error}"))?;
    let (own, folder) = (own.display().to_string(), folder.display().to_string());
    let word = |word: String| {
        if let Some(unknown) = unknown_placeholder(&word) {
            let known = PLACEHOLDERS.join(", ");
            return Err(format!("{unknown} is unknown; there are {known}"));
        }
        Ok(word.replace("{bootstorm}", &own).replace("{plan}", &folder))
    };
    if written.command.is_empty() {
        return Err("the command is empty".to_owned());
    }
    if written.port == Some(0) {
        return Err("leave the port away to have a free one".to_owned());
    }
    let command: Result<_, _> = written.command.into_iter().map(word).collect();
    let environment: Result<_, _> = written
        .environment
        .into_iter()
        .map(|(name, value)| Ok::<_, String>((name, word(value)?)))
        .collect();
    Ok(Contender {
        name: written.name,
        command: command?,
        environment: environment?,
        address: written.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: written.port,
        cores: cores(written.cores)?,
        ready_within: time(written.ready_within, "ready-within")?.unwrap_or(READY_WITHIN),
        count: written.count,
        uploads: written.uploads,
    })
}

/// The first text in braces that is not a placeholder.
fn unknown_placeholder(word: &str) -> Option<&str> {
    let mut rest = word;
    while let Some(open) = rest.find('{') {
        rest = &rest[open..];
        let close = rest.find('}').map_or(rest.len(), |close| close + 1);
        if !PLACEHOLDERS.contains(&&rest[..close]) {
            return Some(&rest[..close]);
        }
        rest = &rest[close..];
    }
    None
}

fn workload(written: WrittenWork) -> Result<Workload, String> {
    let sizes = match written.size {
        WrittenSizes::One(size) => vec![size],
        WrittenSizes::Several(sizes) => sizes,
    };
    let sizes = sizes
        .iter()
        .map(|text| match values::size(text)? {
            size if size > SIZE_MAX => Err(format!("{text} is more than the 4 GiB that fit")),
            size => Ok(size),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let operation = match (written.op, sizes.as_slice()) {
        (_, []) => return Err("one size at least is expected".to_owned()),
        (WrittenOperation::Read, _) => Operation::Read,
        (WrittenOperation::Write, [_]) => Operation::Write,
        (WrittenOperation::Write, _) => {
            return Err("one size is expected for op = \"write\"".to_owned());
        }
    };
    let clients = within(written.clients, 1, CLIENTS_MAX, "clients")?;
    let duration = time(written.duration, "duration")?;
    let pace = match time_or_none(written.within, "within")? {
        Some(_) if written.transfers.is_some() || duration.is_some() => {
            return Err(
                "within has all clients come once; leave transfers and duration away".into(),
            );
        }
        Some(within) => Pace::Storm { clients, within },
        None => Pace::Closed {
            clients,
            think: Duration::ZERO,
        },
    };
    let loss = written.loss;
    if !(0.0..1.0).contains(&loss) {
        return Err("loss has to be from 0 to less than 1, as in 0.01".to_owned());
    }
    let once = written.transfers.is_none() && duration.is_none();
    let blksize = written
        .blksize
        .map(|octets| within(octets, BLKSIZE_MIN, BLKSIZE_MAX, "blksize"));
    let windowsize = written
        .windowsize
        .map(|blocks| above_zero(blocks, "windowsize"));
    Ok(Workload {
        name: written.name,
        operation,
        sizes,
        pace,
        bounds: Bounds {
            transfers: written.transfers.or_else(|| once.then_some(clients.into())),
            duration,
        },
        wanted: Wanted {
            blksize: blksize.transpose()?,
            // A window of one block is the default, so it is not requested.
            windowsize: windowsize.transpose()?.filter(|&blocks| blocks > 1),
            timeout: None,
            tsize: None,
        },
        weather: Weather {
            loss,
            ..Weather::FAIR
        },
        limit: time(written.limit, "limit")?.unwrap_or(LIMIT),
    })
}

/// Keeps the servers and workloads whose names contain one of these texts; all if there are no texts.
fn keep(plan: &mut Plan, only: &[String], works: &[String]) -> Result<(), Trouble> {
    let holds = |texts: &[String], name: &str| {
        texts.is_empty() || texts.iter().any(|text| name.contains(text.as_str()))
    };
    let baseline = plan
        .contenders
        .get(plan.baseline)
        .map(|contender| contender.name.clone());
    plan.contenders
        .retain(|contender| holds(only, &contender.name));
    plan.workloads
        .retain(|workload| holds(works, &workload.name));
    if plan.contenders.is_empty() {
        return Err(Trouble::arguments("there is no such server in the plan"));
    }
    if plan.workloads.is_empty() {
        return Err(Trouble::arguments("there is no such work in the plan"));
    }
    let stays = |contender: &Contender| Some(&contender.name) == baseline.as_ref();
    plan.baseline = plan.contenders.iter().position(stays).unwrap_or(0);
    Ok(())
}

fn unique<'a>(names: impl Iterator<Item = &'a String>, what: &str) -> Result<(), String> {
    let mut seen: Vec<&String> = Vec::new();
    for name in names {
        if seen.contains(&name) {
            return Err(format!("there are two of [[{what}]] called \"{name}\""));
        }
        seen.push(name);
    }
    if seen.is_empty() {
        return Err(format!("one [[{what}]] at least is expected"));
    }
    Ok(())
}

fn cores(wanted: Vec<usize>) -> Result<Vec<usize>, String> {
    // If the system does not list the cores, none may be chosen.
    let allowed = processors::allowed().unwrap_or_default();
    match wanted.iter().find(|core| !allowed.contains(core)) {
        None => Ok(wanted),
        Some(core) => Err(format!(
            "core {core} is none of those that this process may use, {allowed:?}; leave cores away to have all"
        )),
    }
}

fn above_zero<N: Default + PartialEq>(number: N, name: &str) -> Result<N, String> {
    if number == N::default() {
        return Err(format!("{name} has to be 1 at least"));
    }
    Ok(number)
}

fn within<N: PartialOrd + std::fmt::Display>(
    number: N,
    least: N,
    most: N,
    name: &str,
) -> Result<N, String> {
    if number < least || number > most {
        return Err(format!("{name} has to be from {least} to {most}"));
    }
    Ok(number)
}

/// A time in seconds that is not zero.
fn time(seconds: Option<f64>, name: &str) -> Result<Option<Duration>, String> {
    match time_or_none(seconds, name)? {
        Some(Duration::ZERO) => Err(format!("{name} has to be more than 0 seconds")),
        time => Ok(time),
    }
}

fn time_or_none(seconds: Option<f64>, name: &str) -> Result<Option<Duration>, String> {
    let time = |seconds: f64| values::seconds(&seconds.to_string());
    seconds
        .map(time)
        .transpose()
        .map_err(|why| format!("{name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"
        rounds = 5
        baseline = "b"
        [[server]]
        name = "a"
        command = ["{bootstorm}", "serve", "{root}", "--listen", "{address}:{port}"]
        [[server]]
        name = "b"
        command = ["{plan}/b", "{root}"]
        environment = { DEPTH = "1" }
        address = "127.0.0.2"
        port = 69
        [[work]]
        name = "w"
        size = ["1KiB", "4MiB"]
        clients = 64
        windowsize = 1
        loss = 0.25
        limit = 2.5
    "#;

    fn plan(text: &str) -> Result<Plan, String> {
        let written = toml::from_str(text).map_err(|error| error.to_string())?;
        meant(written, Path::new("folder"))
    }

    #[test]
    fn a_plan_as_written_is_a_plan_as_meant() {
        let plan = plan(PLAN).expect("a plan");
        assert_eq!((plan.rounds, plan.baseline), (5, 1));
        assert_eq!(plan.contenders[0].command[1..3], ["serve", "{root}"]);
        assert_eq!(plan.contenders[1].command, ["folder/b", "{root}"]);
        let work = &plan.workloads[0];
        assert_eq!(work.sizes, [1 << 10, 4 << 20]);
        assert_eq!(work.wanted, Wanted::default());
        assert_eq!(work.bounds.transfers, Some(64));
        assert_eq!(work.weather.loss, 0.25);
        assert_eq!(work.limit, Duration::from_millis(2500));
    }

    #[test]
    fn the_plan_that_ships_can_be_read() {
        let shipped = include_str!("../../benches/plans/peers.toml");
        // Not every machine has two cores.
        let anywhere = shipped
            .replace("cores = [0]", "")
            .replace("cores = [1]", "");
        let plan = plan(&anywhere).expect("a plan");
        assert_eq!((plan.contenders.len(), plan.workloads.len()), (7, 16));
        // All but dnsmasq accept uploads.
        let uploads = plan.contenders.iter().filter(|contender| contender.uploads);
        assert_eq!(uploads.count(), 6);
    }

    #[test]
    fn what_is_wrong_with_a_plan_is_said() {
        for (from, to, hint) in [
            ("rounds = 5", "rounds = 0", "rounds has to be 1"),
            (
                "baseline = \"b\"",
                "baseline = \"c\"",
                "none of the servers",
            ),
            ("name = \"b\"", "name = \"a\"", "two of [[server]]"),
            ("{port}", "{prot}", "{prot} is unknown; there are {address}"),
            ("\"4MiB\"", "\"4X\"", "work \"w\": a whole number"),
            ("clients = 64", "clients = 0", "clients has to be from 1"),
            ("limit = 2.5", "limit = 0", "more than 0"),
            ("limit = 2.5", "within = 1\ntransfers = 2", "within has all"),
            ("limit = 2.5", "op = \"write\"", "one size is expected"),
            ("limit = 2.5", "op = \"remove\"", "unknown variant `remove`"),
            ("limit = 2.5", "blksize = 7", "blksize has to be from 8"),
            ("loss = 0.25", "loss = 1.0", "loss has to be from 0"),
            ("port = 69", "port = 0", "free one"),
            ("port = 69", "cores = [4095]", "core 4095 is none"),
            ("port = 69", "prot = 69", "unknown field `prot`"),
        ] {
            let error = plan(&PLAN.replace(from, to)).expect_err(to);
            assert!(error.contains(hint), "{to}: {error}");
        }
        assert!(plan("").expect_err("empty").contains("[[server]]"));
    }

    #[test]
    fn parts_of_a_plan_may_be_chosen() {
        let mut part = plan(PLAN).expect("a plan");
        keep(&mut part, &["a".to_owned()], &[]).expect("a server");
        assert_eq!((part.contenders.len(), part.baseline), (1, 0));
        assert!(keep(&mut part, &["x".to_owned()], &[]).is_err());
    }
}
