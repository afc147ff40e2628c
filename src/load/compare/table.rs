//! The results as tables, one per workload, for a terminal or for a page in Markdown.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::results::Spread;
use super::{Measurement, Outcome, Results};

/// The format of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A terminal.
    Text,
    /// A page in Markdown.
    Markdown,
}

/// The columns.
const HEADINGS: [&str; 9] = [
    "server",
    "MB/s",
    "ratio",
    "CPU s/GB",
    "ratio",
    "transfers/s",
    "p99 s",
    "complete",
    "agreed",
];

/// The placeholder for a missing number.
const NOTHING: &str = "–";

type Cells = [String; HEADINGS.len()];

impl Results {
    /// The tables, with the notes needed to read them.
    #[must_use]
    pub fn tables(&self, form: Form) -> String {
        let mut text = String::new();
        // Writing into a String never fails.
        let _ = self.write(&mut text, form);
        text
    }

    fn write(&self, text: &mut String, form: Form) -> fmt::Result {
        writeln!(
            text,
            "Medians of {}, with the least and the most; ratios are to {} within each round, and CPU is the server's.",
            self.medians_of(),
            self.contenders[self.baseline]
        )?;
        let mut starred = false;
        for (workload, name) in self.workloads.iter().enumerate() {
            let mut notes = Vec::new();
            let rows: Vec<Cells> = (0..self.contenders.len())
                .filter(|&contender| self.missing[contender].is_none())
                .map(|contender| self.row(workload, contender, &mut notes))
                .collect();
            starred |= rows.iter().any(|row| row[1].ends_with('*'));
            match form {
                Form::Text => text_table(text, name, &rows, &notes)?,
                Form::Markdown => markdown_table(text, name, &rows, &notes)?,
            }
        }
        if starred {
            writeln!(
                text,
                "\n{} The generator could not keep up: the server may be faster than it looks.",
                if form == Form::Markdown { "\\*" } else { "*" }
            )?;
        }
        let runs = || {
            let outcomes = self.outcomes.iter().flatten().flatten();
            outcomes.filter_map(Outcome::measurement)
        };
        let starved = runs().filter(|run| run.was_starved).count();
        if starved > 0 {
            let all = runs().count();
            writeln!(
                text,
                "\nWARNING: in {starved} of {all} runs other programs took processors away from the generator, and likely from the servers too."
            )?;
        }
        let skipped = self.contenders.iter().zip(&self.missing);
        for (name, why) in skipped.filter_map(|(name, why)| Some((name, why.as_ref()?))) {
            writeln!(text, "\nSKIPPED: {name}: {why}")?;
        }
        Ok(())
    }

    /// The number of rounds behind the numbers. An interrupted round counts for the servers measured in
    /// it.
    fn medians_of(&self) -> String {
        let rounds = |count: usize| match count {
            1 => "1 round".to_owned(),
            count => format!("{count} rounds"),
        };
        let (least, most) = self.runs();
        if least == most {
            rounds(most)
        } else {
            format!("{least} to {most} rounds, for it was interrupted")
        }
    }

    /// A server's row; what does not fit becomes a note.
    fn row(&self, workload: usize, contender: usize, notes: &mut Vec<String>) -> Cells {
        let spread = |number: fn(&Measurement) -> Option<f64>, digits| {
            cell(self.spread(workload, contender, number), digits)
        };
        let ratio = |number: fn(&Measurement) -> Option<f64>| {
            let ratio = self.ratio(workload, contender, number);
            ratio.map_or_else(|| NOTHING.to_owned(), |ratio| format!("{ratio:.2}"))
        };
        let name = &self.contenders[contender];
        self.note(workload, contender, notes);
        let busy = self
            .measured(workload, contender)
            .any(|run| run.was_bottleneck);
        let star = if busy { "*" } else { "" };
        [
            name.clone(),
            spread(|run| Some(run.octets_per_second / 1e6), 1) + star,
            ratio(|run| Some(run.octets_per_second)),
            spread(|run| run.processor_seconds_per_gigabyte, 2),
            ratio(|run| run.processor_seconds_per_gigabyte),
            spread(|run| Some(run.transfers_per_second), 0),
            self.p99(workload, contender),
            self.complete(workload, contender),
            self.agreed(workload, contender),
        ]
    }

    /// The 99th percentile of transfer times. Empty unless 99 of 100 completed in every round: otherwise
    /// the best rounds would stand for all of them.
    fn p99(&self, workload: usize, contender: usize) -> String {
        let p99 = |run: &Measurement| run.transfer_seconds_p99;
        if self
            .measured(workload, contender)
            .any(|run| p99(run).is_none())
        {
            return NOTHING.to_owned();
        }
        cell(self.spread(workload, contender, p99), 3)
    }

    /// The number of transfers completed in the worst round.
    fn complete(&self, workload: usize, contender: usize) -> String {
        if let Some(why) = self.untried[workload][contender] {
            return why.to_owned();
        }
        let part = |run: &&Measurement| (run.complete as f64 / run.wanted.max(1) as f64).to_bits();
        let runs = || self.measured(workload, contender);
        let Some(worst) = runs().filter(|run| !run.is_whole()).min_by_key(part) else {
            let is_tried = !self.outcomes[workload][contender].is_empty();
            return match runs().next() {
                Some(_) => "all".to_owned(),
                None if is_tried => "failed".to_owned(),
                None => "not measured".to_owned(),
            };
        };
        format!(
            "{} of {} in {:.1} s",
            worst.complete, worst.wanted, worst.seconds
        )
    }

    /// The negotiated terms, and the requested ones if they differ.
    fn agreed(&self, workload: usize, contender: usize) -> String {
        let mut agreed: Vec<(u16, u16)> = Vec::new();
        for terms in self
            .measured(workload, contender)
            .flat_map(|run| &run.terms)
        {
            if !agreed.contains(terms) {
                agreed.push(*terms);
            }
        }
        let pair = |&(blksize, windowsize): &(u16, u16)| format!("{blksize}/{windowsize}");
        let asked = self.asked[workload];
        match agreed.as_slice() {
            [] => NOTHING.to_owned(),
            [one] if *one == asked => pair(one),
            several => {
                let told: Vec<_> = several.iter().map(pair).collect();
                format!("{} (asked {})", told.join(", "), pair(&asked))
            }
        }
    }

    /// Adds a note of what went wrong with a server.
    fn note(&self, workload: usize, contender: usize, notes: &mut Vec<String>) {
        let name = &self.contenders[contender];
        let mut told: BTreeMap<&str, usize> = BTreeMap::new();
        for outcome in &self.outcomes[workload][contender] {
            if let Outcome::Failed(why) = outcome {
                *told.entry(why).or_default() += 1;
            }
        }
        for (why, count) in told {
            notes.push(format!("{name}: {why} ({})", times(count)));
        }
        let died = self.measured(workload, contender).filter(|run| run.died);
        match died.count() {
            0 => {}
            count => notes.push(format!(
                "{name}: it ended under the load ({})",
                times(count)
            )),
        }
        for run in self.measured(workload, contender) {
            if let Some(stored) = run.stored.filter(|&stored| stored < run.complete) {
                let complete = run.complete;
                notes.push(format!(
                    "{name}: of {complete} uploads that it acknowledged, {stored} could be read there as they were sent"
                ));
            }
        }
        let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
        for (why, count) in self
            .measured(workload, contender)
            .flat_map(|run| &run.failures)
        {
            *failures.entry(why).or_default() += count;
        }
        if !failures.is_empty() {
            let told: Vec<_> = failures
                .iter()
                .map(|(why, count)| format!("{count} {why}"))
                .collect();
            notes.push(format!(
                "{name}: of all rounds' transfers, {}",
                told.join(", ")
            ));
        }
    }
}

fn times(count: usize) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

fn cell(spread: Option<Spread>, digits: usize) -> String {
    let Some(spread) = spread else {
        return NOTHING.to_owned();
    };
    let Spread {
        least,
        median,
        most,
    } = spread;
    if least == most {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}

fn text_table(text: &mut String, name: &str, rows: &[Cells], notes: &[String]) -> fmt::Result {
    writeln!(text, "\n{name}")?;
    let headings = HEADINGS.map(str::to_owned);
    let lines: Vec<&Cells> = [&headings].into_iter().chain(rows).collect();
    let width = |column: usize| {
        let widths = lines.iter().map(|line| line[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                // Text is left-aligned, numbers are right-aligned.
                0 | 7 | 8 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        writeln!(text, "  {}", cells.join("  ").trim_end())?;
    }
    notes.iter().try_for_each(|note| writeln!(text, "  {note}"))
}

fn markdown_table(text: &mut String, name: &str, rows: &[Cells], notes: &[String]) -> fmt::Result {
    writeln!(text, "\n**{}**\n", escaped(name))?;
    writeln!(text, "| {} |", HEADINGS.join(" | "))?;
    writeln!(text, "|{}", "---|".repeat(HEADINGS.len()))?;
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| escaped(cell)).collect();
        writeln!(text, "| {} |", cells.join(" | "))?;
    }
    if !notes.is_empty() {
        writeln!(text)?;
    }
    notes
        .iter()
        .try_for_each(|note| writeln!(text, "- {}", escaped(note)))
}

/// Escapes the characters that have a meaning in a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*")
}
