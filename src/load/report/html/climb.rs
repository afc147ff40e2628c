//! The page of a ramp: the results of each step against its load, and the highest load that held.

use super::super::super::Work;
use super::super::super::plan::Pace;
use super::super::super::ramp::{self, Climb, Step};
use super::super::plot::{
    FAINT, Plot, Reading, Scale, Series, Shape, digits, duration, octets, time,
};
use super::super::words::{counted, grouped};
use super::super::{NOTHING, Report, told};
use super::{Page, Table, number, run, ticks, times, uppercased};

/// The colours of steps that held, of those that did not, and of the line through them.
const COLOURS: [usize; 3] = [2, 1, 0];

/// The readout of a step extends at most this far from it, as a fraction of the axis.
const READING_HALF_MAX: f64 = 0.05;

/// The page of a ramp.
pub(super) fn page(climb: &Climb) -> Page {
    let held = climb.held();
    // Details are shown for the most significant step.
    let shown = held.or_else(|| climb.steps.last());
    let title = match held {
        Some(step) => format!("Holds up to {}", run::title(&step.report)),
        None => uppercased(&climb.verdict()),
    };
    let mut tables = vec![steps(climb)];
    let mut details = Vec::new();
    if let Some(step) = shown {
        let what = format!("Latencies of {}", step.pace);
        tables.push(run::latencies(&step.report, what));
        details = step.report.rows();
        details.extend(run::files(&step.report));
    }
    details.insert(0, ("bounds".to_owned(), bounds(climb)));
    let plots = Loads::new(climb).plots();
    Page {
        title,
        is_good: held.is_some(),
        verdict: uppercased(&climb.verdict()),
        numbers: numbers(climb),
        warnings: climb.warnings(),
        plots,
        tables,
        details,
    }
}

/// The headline numbers, each with a caption.
fn numbers(climb: &Climb) -> Vec<(String, String)> {
    let mut numbers = Vec::new();
    if let Some(Step { pace, report, .. }) = climb.held() {
        let load = ramp::level(*pace).unwrap_or_default();
        let unit = match pace {
            Pace::Open { .. } => "new clients a second",
            _ => "clients kept busy",
        };
        numbers.push((
            number(load),
            format!("{unit} is the highest load that held"),
        ));
        if let Some(p99) = ramp::first_answers(report).exact_quantile(0.99) {
            let what = format!("is what 99 of 100 {} there at most", took(report));
            numbers.push((duration(p99), what));
        }
        numbers.push((
            format!("{}/s", octets(report.rate(report.tally.octets))),
            format!(
                "{} transfers a second",
                digits(report.rate(report.tally.complete))
            ),
        ));
    }
    numbers.push((
        counted(climb.steps.len() as u64, "step"),
        format!("of {} each", duration(climb.ramp.step)),
    ));
    numbers
}

fn bounds(climb: &Climb) -> String {
    let ramp = &climb.ramp;
    let took = climb
        .steps
        .first()
        .map_or("took", |step| took(&step.report));
    format!(
        "99 of 100 {took} {} at most, and {} % failed at most; loads are told to {} %",
        duration(ramp.bound_p99),
        digits(ramp.bound_failures * 100.0),
        digits(ramp::PRECISION * 100.0)
    )
}

/// What the bound applies to, as the end of a sentence about transfers.
fn took(report: &Report) -> &'static str {
    if is_writing(report) {
        "writes took"
    } else {
        "reads waited for their first block"
    }
}

fn is_writing(report: &Report) -> bool {
    let mut groups = report.load.groups.iter();
    groups.any(|group| matches!(group.work, Work::Write(_)))
}

/// All steps, in the order in which they were tried.
fn steps(climb: &Climb) -> Table {
    let heads = [
        "step",
        "transfers",
        "failed",
        "throughput",
        "p50",
        "p99",
        "came of it",
    ];
    let row = |Step {
                   pace,
                   report,
                   broken,
               }: &Step| {
        let times = ramp::first_answers(report);
        let [p50, p99] = [0.5, 0.99].map(|part| told(times.quantile(part), duration));
        vec![
            pace.to_string(),
            grouped(report.tally.begun),
            grouped(report.tally.failed()),
            format!("{}/s", octets(report.rate(report.tally.octets))),
            p50,
            p99,
            broken.map_or_else(|| "held".to_owned(), |broken| broken.to_string()),
        ]
    };
    Table {
        title: "Steps".to_owned(),
        note: None,
        heads: heads.map(str::to_owned).to_vec(),
        rows: climb.steps.iter().map(row).collect(),
    }
}

/// The steps by their loads.
struct Loads<'a> {
    climb: &'a Climb,
    steps: Vec<(f64, &'a Step)>,
    across: Scale,
}

impl<'a> Loads<'a> {
    fn new(climb: &'a Climb) -> Self {
        let steps = climb.steps.iter();
        let mut steps: Vec<_> = steps
            .filter_map(|step| Some((ramp::level(step.pace)?, step)))
            .collect();
        steps.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let least = steps.first().map_or(1.0, |(load, _)| *load);
        let most = steps.last().map_or(1.0, |(load, _)| *load);
        Self {
            climb,
            steps,
            across: Scale::log_around(least, most),
        }
    }

    fn plots(&self) -> Vec<Plot> {
        vec![self.times(), self.failures(), self.throughput()]
    }

    fn times(&self) -> Plot {
        let p99 = |report: &Report| {
            let time = ramp::first_answers(report).exact_quantile(0.99)?;
            Some(time.as_secs_f64())
        };
        let bound = self.climb.ramp.bound_p99.as_secs_f64();
        let all = self.steps.iter().filter_map(|(_, step)| p99(&step.report));
        let all: Vec<f64> = all.chain([bound]).collect();
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let most = all.iter().copied().fold(0.0, f64::max);
        let scale = Scale::log_around(least, most);
        let writing = self.steps.iter().any(|(_, step)| is_writing(&step.report));
        let (title, about) = if writing {
            (
                "Time of a write",
                "What 99 of 100 writes took at most, from the time that each was meant to begin.",
            )
        } else {
            (
                "Time to the first block",
                "What 99 of 100 reads waited at most, from the time that each was meant to begin.",
            )
        };
        Plot {
            id: "p99",
            title,
            about: about.to_owned(),
            unit: "p99, logarithmic".to_owned(),
            ticks_y: times(scale),
            ..self.plot(p99, time, scale, Some(bound))
        }
    }

    fn failures(&self) -> Plot {
        let failed = |report: &Report| {
            let part = report.tally.failed() as f64 / report.tally.begun.max(1) as f64;
            Some(part * 100.0)
        };
        let bound = self.climb.ramp.bound_failures * 100.0;
        let all = self
            .steps
            .iter()
            .filter_map(|(_, step)| failed(&step.report));
        let scale = Scale::linear_to(all.fold(bound, f64::max));
        Plot {
            id: "failed",
            title: "Failures",
            about: "The part of the transfers that failed.".to_owned(),
            unit: "% failed".to_owned(),
            ticks_y: ticks(scale),
            ..self.plot(
                failed,
                |part| format!("{} % failed", digits(part)),
                scale,
                Some(bound),
            )
        }
    }

    fn throughput(&self) -> Plot {
        let rate = |report: &Report| Some(report.rate(report.tally.octets) / 1e6);
        let all = self.steps.iter().filter_map(|(_, step)| rate(&step.report));
        let scale = Scale::linear_to(all.fold(0.0, f64::max));
        Plot {
            id: "throughput",
            title: "Throughput",
            about: "Octets of files a second.".to_owned(),
            unit: "MB/s".to_owned(),
            ticks_y: ticks(scale),
            ..self.plot(rate, |rate| format!("{} MB/s", digits(rate)), scale, None)
        }
    }

    /// The parts that all plots of a number against the load share.
    fn plot(
        &self,
        number_of: impl Fn(&Report) -> Option<f64>,
        words: impl Fn(f64) -> String,
        scale: Scale,
        bound: Option<f64>,
    ) -> Plot {
        let points: Vec<_> = self
            .steps
            .iter()
            .filter_map(|(load, step)| {
                let place = scale.place(number_of(&step.report)?);
                Some(((self.across.place(*load), place), step.broken.is_none()))
            })
            .collect();
        let of = |held: bool| {
            let points = points.iter().filter(move |(_, it_held)| *it_held == held);
            points.map(|(point, _)| *point).collect::<Vec<_>>()
        };
        let [held, broken, line] = COLOURS;
        let mut series = vec![Series {
            name: "all steps".to_owned(),
            colour: line,
            shape: Shape::Line(points.iter().map(|(point, _)| *point).collect()),
        }];
        for (name, colour, points) in [
            ("held", held, of(true)),
            ("did not hold", broken, of(false)),
        ] {
            if !points.is_empty() {
                series.push(Series {
                    name: name.to_owned(),
                    colour,
                    shape: Shape::Dots(points),
                });
            }
        }
        series.extend(bound.map(|bound| Series {
            name: "bound".to_owned(),
            colour: FAINT,
            shape: Shape::Line(vec![(0.0, scale.place(bound)), (1.0, scale.place(bound))]),
        }));
        let ticks_x = self.across.ticks().into_iter();
        let empty = points.is_empty().then_some("Nothing was measured");
        Plot {
            unit_x: self.unit(),
            ticks_x: ticks_x
                .map(|load| (self.across.place(load), number(load)))
                .collect(),
            readings: self.readings(|report| {
                let value = number_of(report)?;
                Some((words(value), scale.place(value)))
            }),
            series,
            empty,
            ..Plot::default()
        }
    }

    fn unit(&self) -> &'static str {
        match self.steps.first().map(|(_, step)| step.pace) {
            Some(Pace::Open { .. }) => "new clients a second, logarithmic",
            _ => "clients, logarithmic",
        }
    }

    /// A readout for each step, reaching halfway to its neighbours at most.
    fn readings(&self, value: impl Fn(&Report) -> Option<(String, f64)>) -> Vec<Reading> {
        let places: Vec<f64> = self
            .steps
            .iter()
            .map(|(load, _)| self.across.place(*load))
            .collect();
        let reading = |(number, (_, step)): (usize, &(f64, &Step))| {
            let here = places[number];
            let others = places.iter().enumerate();
            let others = others.filter(|&(other, _)| other != number);
            let half = others
                .map(|(_, place)| (place - here).abs() / 2.0)
                .fold(READING_HALF_MAX, f64::min);
            let [held, broken, _] = COLOURS;
            let (colour, outcome) = match step.broken {
                None => (held, "held".to_owned()),
                Some(why) => (broken, why.to_string()),
            };
            let report = &step.report;
            let value = match value(report) {
                Some((words, place)) => (words, Some((colour, place))),
                None => (NOTHING.to_owned(), None),
            };
            Reading {
                from: here - half,
                to: here + half,
                title: step.pace.to_string(),
                values: vec![
                    value,
                    (outcome, None),
                    (counted(report.tally.begun, "transfer"), None),
                ],
            }
        };
        self.steps.iter().enumerate().map(reading).collect()
    }
}
