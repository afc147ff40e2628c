//! The page of a run: plots over time, latencies, and all counters.

use std::collections::BTreeMap;

use super::super::super::plan::Pace;
use super::super::super::timeline::{Point, Timeline};
use super::super::super::{Failure, Quantile, Tally, Waits, Work};
use super::super::plot::{
    COLOURS, Plot, Reading, Scale, Series, Shape, digits, duration, octets, time,
};
use super::super::text::LATENESS;
use super::super::words::{counted, grouped};
use super::super::{QUANTILES, Report, SIGNS, told};
use super::{Page, Table, sentence, ticks, times, whole_ticks};
use crate::shard::Expected;
use crate::time::Duration;
use crate::wire::Escaped;

/// The maximum number of intervals drawn: more would be noise, and too narrow to point at.
const INTERVALS_MAX: usize = 120;
/// Points per decade of a percentile line: smooth on any screen.
const POINTS_PER_DECADE: u32 = 24;
/// Points of the latency distribution for each halving of what is left up to 100 %.
const POINTS_PER_HALVING: u32 = 20;
/// The minimum length of a line, so that it is visible.
const DECADES_MIN: f64 = 0.01;
/// Beyond one in ten million, a percentile reflects single transfers.
const DECADES_MAX: f64 = 7.0;
/// If the ratio of the longest time to the shortest reaches this, a linear axis would hide the short
/// ones.
const SPREAD_MAX: f64 = 50.0;
/// The maximum number of files listed; the rest are only counted.
const FILES_MAX: usize = 20;

/// The page of a run.
pub(super) fn page(report: &Report) -> Page {
    let timeline = report.tally.timeline.in_at_most(INTERVALS_MAX);
    let intervals = Intervals::new(&timeline, report.elapsed);
    let mut details = report.rows();
    details.extend(files(report));
    Page {
        title: title(report),
        is_good: report.is_good() && !report.interrupted,
        verdict: verdict(report),
        numbers: numbers(report),
        warnings: report.warnings(),
        plots: vec![
            throughput(report, &intervals),
            active(&intervals),
            failures(report, &intervals),
            percentiles(report),
            distribution(&report.tally.transfer),
        ],
        tables: vec![latencies(report, "Latencies".to_owned())],
        details,
    }
}

fn verdict(report: &Report) -> String {
    let tally = &report.tally;
    match (report.is_good(), tally.left) {
        (true, _) if report.interrupted => format!(
            "Interrupted when {} of {} had completed",
            grouped(tally.complete),
            counted(tally.begun, "transfer")
        ),
        (true, 0) => {
            let transfers = counted(tally.complete, "transfer");
            let compared = if is_compared(report) {
                ", every octet compared"
            } else {
                ""
            };
            match tally.complete {
                0 => "Nothing was transferred".to_owned(),
                1 => format!("The one transfer completed{compared}"),
                _ => format!("All {transfers} completed{compared}"),
            }
        }
        (true, left) => format!(
            "None of {} failed; {} left on purpose",
            counted(tally.begun, "transfer"),
            match left {
                1 => "1 was".to_owned(),
                left => format!("{} were", grouped(left)),
            }
        ),
        (false, _) => format!(
            "{} of {} failed",
            grouped(tally.failed()),
            counted(tally.begun, "transfer")
        ),
    }
}

/// The headline numbers, each with a caption.
fn numbers(report: &Report) -> Vec<(String, String)> {
    let tally = &report.tally;
    let mut numbers = vec![
        (
            grouped(tally.complete),
            format!(
                "of {} complete, {} a second",
                counted(tally.begun, "transfer"),
                digits(report.rate(tally.complete))
            ),
        ),
        (
            duration(report.elapsed),
            "from the first request to the last octet".to_owned(),
        ),
        (
            format!("{}/s", octets(report.rate(tally.octets))),
            format!("{} in all", octets(tally.octets as f64)),
        ),
    ];
    numbers.extend(usual(tally));
    if let Some(per_gigabyte) = report.server_seconds_per_gigabyte() {
        numbers.push((
            time(per_gigabyte),
            "is the server's processor time for each gigabyte".to_owned(),
        ));
    }
    numbers
}

/// The 99th percentile of transfer times, failed ones included, or only the median if that is unknown.
fn usual(tally: &Tally) -> Option<(String, String)> {
    let [half, most] = [0.5, 0.99].map(|part| tally.transfer.quantile(part));
    let half_took = told(half, duration);
    match most {
        Some(Quantile::Exactly(most)) => Some((
            duration(most),
            format!("is what 99 of 100 transfers took at most; half took {half_took}"),
        )),
        Some(Quantile::AtLeast(least)) => Some((
            format!("≥{}", duration(least)),
            format!(
                "is what 99 of 100 transfers took at least: {} interrupted; half took {half_took}",
                match tally.transfer.cut() {
                    1 => "1 was".to_owned(),
                    cut => format!("{} were", grouped(cut)),
                }
            ),
        )),
        None => half.map(|_| {
            let failed = grouped(tally.failed());
            let all = grouped(tally.transfer.all());
            let what = format!("is what half of the transfers took; {failed} of {all} failed");
            (half_took, what)
        }),
    }
}

/// All latencies.
pub(super) fn latencies(report: &Report, title: String) -> Table {
    let mut heads = [String::new(), "count".to_owned(), "in vain".to_owned()].to_vec();
    heads.extend(QUANTILES.map(|(name, _)| name.to_owned()));
    let row = |(name, waits): (&str, &Waits)| {
        let came = waits.came().count();
        let mut row = vec![name.to_owned(), grouped(came), grouped(waits.all() - came)];
        row.extend(QUANTILES.map(|(_, part)| told(waits.quantile(part), duration)));
        row
    };
    Table {
        title,
        note: report.has_gaps().then(|| sentence(SIGNS)),
        heads,
        rows: report.latencies().into_iter().map(row).collect(),
    }
}

/// What was done, as a headline.
pub(super) fn title(report: &Report) -> String {
    let [group] = report.load.groups.as_slice() else {
        return format!("{} groups of clients", report.load.groups.len());
    };
    let files = match group.work {
        Work::Read => "reads",
        Work::Write(_) => "writes",
    };
    match group.pace {
        Pace::Closed { clients, .. } => {
            format!(
                "{}, {files} without a pause",
                counted(clients.into(), "client")
            )
        }
        Pace::Open { per_second, .. } => format!("{} new {files} a second", digits(per_second)),
        Pace::Storm { clients, within } => format!(
            "A storm of {} within {}",
            counted(clients.into(), "client"),
            duration(within)
        ),
    }
}

/// Whether contents were verified.
fn is_compared(report: &Report) -> bool {
    let compared =
        |expected: &Expected| matches!(expected, Expected::Octets(_) | Expected::Pattern);
    report.load.groups.iter().all(|group| {
        matches!(group.work, Work::Read) && group.files.iter().all(|file| compared(&file.expected))
    })
}

/// The files, with what is known about them.
pub(super) fn files(report: &Report) -> Vec<(String, String)> {
    let groups = report.load.groups.iter();
    let all: Vec<_> = groups
        .flat_map(|group| group.files.iter().map(move |file| (group, file)))
        .collect();
    let mut rows: Vec<_> = all
        .iter()
        .take(FILES_MAX)
        .map(|(group, file)| {
            let mut text = Escaped(&file.name).to_string();
            if let Some(len) = file.expected.len() {
                text.push_str(&format!(", {}", octets(len as f64)));
            }
            if group.files.len() > 1 {
                text.push_str(&format!(", weight {}", file.weight));
            }
            if matches!(*file.expected, Expected::Anything) && matches!(group.work, Work::Read) {
                text.push_str(", not compared");
            }
            ("file".to_owned(), text)
        })
        .collect();
    if all.len() > FILES_MAX {
        rows.push((
            "file".to_owned(),
            format!("and {} more", all.len() - FILES_MAX),
        ));
    }
    rows
}

/// The timeline as drawn.
struct Intervals<'a> {
    /// The end of the axis, in seconds.
    end: f64,
    parts: Vec<Interval<'a>>,
}

struct Interval<'a> {
    /// In seconds.
    from: f64,
    to: f64,
    point: &'a Point,
}

impl<'a> Intervals<'a> {
    fn new(timeline: &'a Timeline, elapsed: Duration) -> Self {
        let width = timeline.interval().as_secs_f64();
        let end = elapsed.as_secs_f64().max(1e-6);
        let parts = timeline.points().iter().enumerate().map(|(index, point)| {
            let from = index as f64 * width;
            Interval {
                from,
                to: (from + width).min(end),
                point,
            }
        });
        // Nothing after the end of the last transfer is shown.
        let parts = parts.filter(|part| part.from < end).collect();
        Self { end, parts }
    }

    fn place(&self, seconds: f64) -> f64 {
        Scale::Linear(self.end).place(seconds)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let ticks = Scale::Linear(self.end).ticks();
        ticks
            .into_iter()
            .map(|seconds| (self.place(seconds), time(seconds)))
            .collect()
    }

    /// A line through the middle of each interval, from one end of the axis to the other.
    fn line(&self, scale: Scale, value: impl Fn(&Interval<'_>) -> f64) -> Vec<(f64, f64)> {
        let middle = |part: &Interval<'_>| {
            (
                self.place((part.from + part.to) / 2.0),
                scale.place(value(part)),
            )
        };
        let mut line: Vec<_> = self.parts.iter().map(middle).collect();
        if let Some((&first, &last)) = line.first().zip(line.last()) {
            line.insert(0, (0.0, first.1));
            line.push((1.0, last.1));
        }
        line
    }

    fn readings(
        &self,
        values: impl Fn(&Interval<'_>) -> Vec<(String, Option<(usize, f64)>)>,
    ) -> Vec<Reading> {
        let reading = |part: &Interval<'_>| Reading {
            from: self.place(part.from),
            to: self.place(part.to),
            title: format!("{} to {}", time(part.from), time(part.to)),
            values: values(part),
        };
        self.parts.iter().map(reading).collect()
    }
}

impl Interval<'_> {
    /// Octets per second, in both directions together: one of them is negligible.
    fn rate(&self) -> f64 {
        (self.point.received + self.point.sent) as f64 / (self.to - self.from).max(1e-6)
    }
}

fn throughput(report: &Report, intervals: &Intervals<'_>) -> Plot {
    let max = intervals
        .parts
        .iter()
        .map(Interval::rate)
        .fold(0.0, f64::max);
    let (unit, name) = match max {
        _ if max < 1e6 => (1e3, "kB/s"),
        _ if max < 1e9 => (1e6, "MB/s"),
        _ => (1e9, "GB/s"),
    };
    let scale = Scale::linear_to(max / unit);
    let groups = &report.load.groups;
    let reads = |read: bool| {
        groups
            .iter()
            .any(|group| matches!(group.work, Work::Read) == read)
    };
    let way = match (reads(true), reads(false)) {
        (true, true) => "came from and went to",
        (false, true) => "went to",
        _ => "came from",
    };
    Plot {
        id: "throughput",
        title: "Throughput",
        about: format!("Octets of files that {way} the server, repeats included."),
        unit: name.to_owned(),
        unit_x: TIME,
        ticks_x: intervals.ticks(),
        ticks_y: ticks(scale),
        series: vec![Series {
            name: name.to_owned(),
            colour: 0,
            shape: Shape::Area(intervals.line(scale, |part| part.rate() / unit)),
        }],
        readings: intervals.readings(|part| {
            let Point {
                begun,
                complete,
                active,
                ..
            } = part.point;
            let failed = part.point.failed();
            let mut values = vec![
                (
                    format!("{}/s", octets(part.rate())),
                    Some((0, scale.place(part.rate() / unit))),
                ),
                (format!("{} began", grouped(*begun)), None),
                (format!("{} completed", grouped(*complete)), None),
                (format!("{} under way", grouped(*active)), None),
            ];
            if failed > 0 {
                values.push((format!("{} failed", grouped(failed)), None));
            }
            values
        }),
        empty: None,
    }
}

/// The label of the time axis.
const TIME: &str = "time since the beginning";

fn active(intervals: &Intervals<'_>) -> Plot {
    let max = intervals.parts.iter().map(|part| part.point.active).max();
    let scale = Scale::linear_to(max.unwrap_or_default() as f64);
    // The value is known at the end of each interval.
    let mut line = vec![(0.0, 0.0)];
    line.extend(intervals.parts.iter().map(|part| {
        (
            intervals.place(part.to),
            scale.place(part.point.active as f64),
        )
    }));
    Plot {
        id: "active",
        title: "Clients under way",
        about: "Transfers that have begun and not ended yet.".to_owned(),
        unit: "clients".to_owned(),
        unit_x: TIME,
        ticks_x: intervals.ticks(),
        ticks_y: whole_ticks(scale),
        series: vec![Series {
            name: "under way".to_owned(),
            colour: 2,
            shape: Shape::Area(line),
        }],
        readings: intervals.readings(|part| {
            let Point {
                begun,
                complete,
                active,
                ..
            } = part.point;
            vec![
                (
                    format!("{} under way", grouped(*active)),
                    Some((2, scale.place(*active as f64))),
                ),
                (format!("{} began", grouped(*begun)), None),
                (format!("{} completed", grouped(*complete)), None),
            ]
        }),
        empty: None,
    }
}

fn failures(report: &Report, intervals: &Intervals<'_>) -> Plot {
    let totals = &report.tally.failures;
    let none = totals.is_empty();
    let max = intervals.parts.iter().map(|part| part.point.failed()).max();
    let scale = Scale::linear_to(max.unwrap_or_default() as f64);
    let mut bars: BTreeMap<&Failure, Vec<[f64; 4]>> = BTreeMap::new();
    for part in &intervals.parts {
        let mut bottom = 0;
        for (failure, count) in &part.point.failures {
            let [from, to] = [part.from, part.to].map(|seconds| intervals.place(seconds));
            let [low, high] = [bottom, bottom + count].map(|count| scale.place(count as f64));
            bars.entry(failure).or_default().push([from, to, low, high]);
            bottom += count;
        }
    }
    let colour = |failure: &Failure| {
        let number = totals.keys().position(|other| other == failure);
        (1 + number.unwrap_or_default()) % COLOURS
    };
    let mut series: Vec<_> = bars
        .into_iter()
        .map(|(failure, bars)| Series {
            name: failure.to_string(),
            colour: colour(failure),
            shape: Shape::Bars(bars),
        })
        .collect();
    if none {
        series.push(Series {
            name: "none".to_owned(),
            colour: 2,
            shape: Shape::Line(vec![(0.0, 0.0), (1.0, 0.0)]),
        });
    }
    let about = match totals.len() {
        0 => "No transfer failed.".to_owned(),
        _ => format!(
            "Of {} transfers, {} failed.",
            grouped(report.tally.begun),
            grouped(report.tally.failed())
        ),
    };
    Plot {
        id: "failures",
        title: "Failures",
        about,
        unit: "transfers".to_owned(),
        unit_x: TIME,
        ticks_x: intervals.ticks(),
        ticks_y: if none {
            vec![(0.0, "0".to_owned())]
        } else {
            whole_ticks(scale)
        },
        series,
        readings: intervals.readings(|part| {
            let failures = part.point.failures.iter();
            let mut values: Vec<_> = failures
                .map(|(failure, count)| {
                    (
                        format!("{} {failure}", grouped(*count)),
                        Some((colour(failure), 0.0)),
                    )
                })
                .collect();
            if values.is_empty() {
                values.push(("none".to_owned(), None));
            }
            values
        }),
        empty: none.then_some("None"),
    }
}

fn percentiles(report: &Report) -> Plot {
    let latencies: Vec<_> = report
        .latencies()
        .into_iter()
        .filter(|(name, _)| *name != LATENESS)
        // Each keeps its colour, whichever others are present.
        .zip([4, 0, 1, 3, 2])
        .filter(|((_, waits), _)| waits.came().count() > 0)
        .map(|((name, waits), colour)| Percentiles {
            name,
            colour,
            waits,
        })
        .collect();
    let decades = latencies
        .iter()
        .map(Percentiles::decades)
        .fold(1.0, f64::max);
    let across = Scale::Linear(decades);
    let seconds =
        |part: f64| move |line: &Percentiles<'_>| line.waits.came().quantile(part).as_secs_f64();
    let min = latencies
        .iter()
        .map(seconds(0.0))
        .fold(f64::INFINITY, f64::min);
    let max = latencies.iter().map(seconds(1.0)).fold(0.0, f64::max);
    let scale = if latencies.is_empty() {
        Scale::Log(1e-3, 1.0)
    } else {
        Scale::log_around(min, max)
    };
    let steps = (decades * f64::from(POINTS_PER_DECADE)).ceil() as u32;
    let step = |number: u32| decades * f64::from(number) / f64::from(steps);
    let series = latencies.iter().map(|line| {
        let own = line.decades();
        let mut points: Vec<_> = (0..=steps)
            .map(step)
            .filter(|at| *at < own)
            .map(|at| (across.place(at), scale.place(line.seconds(at))))
            .collect();
        points.push((across.place(own), scale.place(line.seconds(own))));
        Series {
            name: line.name.to_owned(),
            colour: line.colour,
            shape: Shape::Line(points),
        }
    });
    let series = series.collect();
    let readings = (0..steps).map(|number| {
        let at = step(number) + decades / f64::from(steps) / 2.0;
        let values = latencies
            .iter()
            .filter(|line| at <= line.decades())
            .map(|line| {
                let seconds = line.seconds(at);
                (
                    format!("{} {}", time(seconds), line.name),
                    Some((line.colour, scale.place(seconds))),
                )
            });
        Reading {
            from: across.place(step(number)),
            to: across.place(step(number + 1)),
            title: format!("{} of 100 took at most", percent(at)),
            values: values.collect(),
        }
    });
    let readings = readings.collect();
    let nines = [
        "0", "90", "99", "99.9", "99.99", "99.999", "99.9999", "99.99999",
    ];
    let nines = nines.into_iter().enumerate();
    let mut ticks_x: Vec<_> = nines.map(|(decade, text)| (decade as f64, text)).collect();
    // The tick for 50 replaces the one for 0: there is no room for both.
    ticks_x[0] = (2_f64.log10(), "50");
    ticks_x.retain(|(decade, _)| *decade <= decades);
    Plot {
        id: "percentiles",
        title: "Percentiles",
        about: "How long all but the slowest took: the further to the right, the rarer. \
                Each line ends where its numbers do, or at those that failed or were interrupted."
            .to_owned(),
        unit: "time, logarithmic".to_owned(),
        unit_x: "% of all that took no longer",
        ticks_x: ticks_x
            .into_iter()
            .map(|(decade, name)| (across.place(decade), name.to_owned()))
            .collect(),
        ticks_y: times(scale),
        series,
        readings,
        empty: latencies.is_empty().then_some("Nothing was measured"),
    }
}

/// A percentile line.
struct Percentiles<'a> {
    name: &'static str,
    colour: usize,
    waits: &'a Waits,
}

impl Percentiles<'_> {
    /// How many nines its data can resolve: limited by the number of all waits, and by those that were in
    /// vain.
    fn decades(&self) -> f64 {
        let all = self.waits.all();
        let in_vain = all - self.waits.came().count();
        (all as f64 / in_vain.max(1) as f64)
            .log10()
            .clamp(DECADES_MIN, DECADES_MAX)
    }

    /// The time that all but one in `10^at` did not exceed.
    fn seconds(&self, at: f64) -> f64 {
        let part = if at >= self.decades() {
            1.0
        } else {
            1.0 - 10_f64.powf(-at)
        };
        let longest = || self.waits.came().quantile(1.0);
        let time = self.waits.exact_quantile(part);
        time.unwrap_or_else(longest).as_secs_f64()
    }
}

/// The percentage for this many nines, with enough digits to distinguish it from its neighbours.
fn percent(nines: f64) -> String {
    let places = (nines.floor() as usize).max(1);
    format!("{:.places$}", 100.0 * (1.0 - 10_f64.powf(-nines)))
}

fn distribution(waits: &Waits) -> Plot {
    let latency = waits.came();
    let [min, max] = [0.0, 1.0].map(|part| latency.quantile(part).as_secs_f64());
    let scale = if max > min * SPREAD_MAX {
        Scale::log_around(min, max)
    } else {
        Scale::linear_to(max)
    };
    let (all, complete) = (waits.all(), latency.count());
    let mut points = vec![(scale.place(min), 0.0)];
    if complete > 0 {
        let steps = latency.percentiles(POINTS_PER_HALVING);
        points.extend(steps.map(|(value, _, count)| {
            (scale.place(value.as_secs_f64()), count as f64 / all as f64)
        }));
        points.push((1.0, waits.part_that_came()));
    }
    let readings = (0..INTERVALS_MAX).filter(|_| complete > 0).map(|number| {
        let [from, to] = [number, number + 1].map(|number| number as f64 / INTERVALS_MAX as f64);
        let seconds = scale.value((from + to) / 2.0);
        let count = latency.count_up_to(Duration::from_secs_f64(seconds));
        let part = count as f64 / all as f64;
        Reading {
            from,
            to,
            title: format!("within {}", time(seconds)),
            values: vec![(
                format!("{:.1} %, {} transfers", part * 100.0, grouped(count)),
                Some((0, part)),
            )],
        }
    });
    Plot {
        id: "distribution",
        title: "Times of whole transfers",
        about: "The part of all transfers that were complete within a time.".to_owned(),
        unit: "of all".to_owned(),
        unit_x: match scale {
            Scale::Linear(_) => "time of a transfer",
            Scale::Log(..) => "time of a transfer, logarithmic",
        },
        ticks_x: times(scale),
        ticks_y: [0, 25, 50, 75, 100]
            .map(|part| (f64::from(part) / 100.0, format!("{part} %")))
            .to_vec(),
        series: vec![Series {
            name: "complete".to_owned(),
            colour: 0,
            shape: Shape::Area(points),
        }],
        readings: readings.collect(),
        empty: (complete == 0).then_some("No transfer completed"),
    }
}
