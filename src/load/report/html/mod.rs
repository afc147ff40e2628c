//! Self-contained HTML reports: headline numbers, plots, and tables of all results.

mod climb;
mod run;

use std::fmt;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::ramp::Climb;
use super::Report;
use super::plot::{Plot, Scale, Text, digits, time};
use super::words::grouped;

/// The page's content security policy: it may load nothing but its own inline style. It has no script.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE: &str = include_str!("page.css");

/// What a page shows in addition to the report.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// The command line of the run.
    pub command: String,
    /// The time of the run.
    pub made: Option<SystemTime>,
    /// Other facts about either end: the name and value of each.
    pub facts: Vec<(&'static str, String)>,
}

/// Writes the page of a run.
///
/// # Errors
/// If `output` fails.
pub fn write(report: &Report, head: &Head, output: impl io::Write) -> io::Result<()> {
    run::page(report).write(head, output)
}

/// Writes the page of a ramp.
///
/// # Errors
/// If `output` fails.
pub fn write_climb(climb: &Climb, head: &Head, output: impl io::Write) -> io::Result<()> {
    climb::page(climb).write(head, output)
}

/// What every page contains.
struct Page {
    title: String,
    /// Whether the verdict is good.
    is_good: bool,
    verdict: String,
    /// The headline numbers, each with a caption.
    numbers: Vec<(String, String)>,
    warnings: Vec<String>,
    plots: Vec<Plot>,
    tables: Vec<Table>,
    /// The name and value of each fact.
    details: Vec<(String, String)>,
}

/// A table of numbers; each row starts with its name.
struct Table {
    title: String,
    /// What the reader must know to understand it.
    note: Option<String>,
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Page {
    fn write(mut self, head: &Head, mut output: impl io::Write) -> io::Result<()> {
        let facts = head.facts.iter();
        let facts = facts.map(|(name, fact)| ((*name).to_owned(), fact.clone()));
        self.details.extend(facts);
        let version = env!("CARGO_PKG_VERSION");
        let maker = ("made by".to_owned(), format!("bootstorm {version}"));
        self.details.push(maker);
        let made = head.made.map(|made| ("made at".to_owned(), date(made)));
        self.details.extend(made);
        let document = Document {
            page: &self,
            command: &head.command,
        };
        write!(output, "{document}")?;
        output.flush()
    }
}

struct Document<'a> {
    page: &'a Page,
    command: &'a str,
}

impl fmt::Display for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let page = self.page;
        let title = Text(&page.title);
        write!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
             <title>{title} – bootstorm</title><style>{STYLE}</style></head>\n<body><main>\n",
        )?;
        let (class, mark) = if page.is_good {
            ("good", '✓')
        } else {
            ("bad", '✗')
        };
        write!(
            f,
            "<header><p class=\"brand\">bootstorm</p><h1>{title}</h1>\
             <p class=\"verdict {class}\"><span aria-hidden=\"true\">{mark}</span> {}</p>",
            Text(&page.verdict)
        )?;
        if !self.command.is_empty() {
            let command = Text(self.command);
            write!(f, "<p class=\"command\"><code>{command}</code></p>")?;
        }
        f.write_str("</header>\n<section class=\"numbers\">")?;
        for (number, words) in &page.numbers {
            let (number, words) = (Text(number), Text(words));
            write!(f, "<div><b>{number}</b><span>{words}</span></div>")?;
        }
        f.write_str("</section>\n")?;
        for warning in &page.warnings {
            writeln!(
                f,
                "<p class=\"warning\"><strong>Warning.</strong> {}</p>",
                Text(&sentence(warning))
            )?;
        }
        f.write_str("<section class=\"plots\">\n")?;
        for plot in &page.plots {
            writeln!(f, "{plot}")?;
        }
        f.write_str("</section>\n")?;
        page.tables
            .iter()
            .try_for_each(|table| write!(f, "{table}"))?;
        f.write_str("<section><h2>Everything else</h2><table class=\"details\">")?;
        for (name, value) in &page.details {
            let (name, value) = (Text(name), Text(value));
            write!(f, "<tr><th>{name}</th><td>{value}</td></tr>")?;
        }
        f.write_str("</table></section>\n</main></body></html>\n")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<section><h2>{}</h2><div class=\"scroll\"><table class=\"numbered\"><thead><tr>",
            Text(&self.title)
        )?;
        for head in &self.heads {
            write!(f, "<th>{}</th>", Text(head))?;
        }
        f.write_str("</tr></thead><tbody>")?;
        for row in &self.rows {
            f.write_str("<tr>")?;
            for (place, cell) in row.iter().enumerate() {
                let tag = if place == 0 { "th" } else { "td" };
                write!(f, "<{tag}>{}</{tag}>", Text(cell))?;
            }
            f.write_str("</tr>")?;
        }
        f.write_str("</tbody></table></div>")?;
        if let Some(note) = &self.note {
            write!(f, "<p class=\"note\">{}</p>", Text(note))?;
        }
        f.write_str("</section>\n")
    }
}

/// The ticks of an axis of plain numbers.
fn ticks(scale: Scale) -> Vec<(f64, String)> {
    scale
        .ticks()
        .into_iter()
        .map(|value| (scale.place(value), number(value)))
        .collect()
}

/// The ticks of an axis of integers.
fn whole_ticks(scale: Scale) -> Vec<(f64, String)> {
    let whole = scale
        .ticks()
        .into_iter()
        .filter(|value| value.fract() == 0.0);
    whole
        .map(|value| (scale.place(value), number(value)))
        .collect()
}

/// A plain number, with at least three digits.
fn number(value: f64) -> String {
    if value >= 1000.0 {
        grouped(value as u64)
    } else {
        digits(value)
    }
}

/// The ticks of an axis of times.
fn times(scale: Scale) -> Vec<(f64, String)> {
    scale
        .ticks()
        .into_iter()
        .map(|value| (scale.place(value), time(value)))
        .collect()
}

/// The text with a capital letter and a full stop.
fn sentence(words: &str) -> String {
    uppercased(words) + "."
}

/// The text with a capital letter.
fn uppercased(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).collect()
}

/// A date and time (UTC) in the proleptic Gregorian calendar.
fn date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (mut days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for len in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    format!(
        "{year}-{month:02}-{:02} {:02}:{:02} UTC",
        days + 1,
        minutes / 60,
        minutes % 60
    )
}
