//! Findings as text.

use std::fmt;

use super::{Facts, Finding, Level, Report, Verdict};

/// The widths of the verdict and of the rule.
const COLUMNS: [usize; 2] = [13, 19];

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [verdict_columns, rule_columns] = COLUMNS;
        let (word, more) = match &self.verdict {
            Verdict::Pass => ("pass", None),
            // A broken MUST stands out more than a broken SHOULD.
            Verdict::Differs { .. } if self.case.level == Level::Must => ("DIFFERS", None),
            Verdict::Differs { .. } => ("differs", None),
            Verdict::Unsupported(why) => ("not supported", Some(why)),
            Verdict::Untried(why) => ("not tried", Some(why)),
        };
        write!(
            f,
            "{word:<verdict_columns$}  {:<rule_columns$}  {}",
            self.case.rule, self.case.name
        )?;
        if let Some(why) = more {
            write!(f, " ({why})")?;
        }
        if let Verdict::Differs { expected, seen } = &self.verdict {
            let verb = match self.case.level {
                Level::Must => "must come",
                Level::Should => "should come",
            };
            write!(f, "\n    {verb}: {expected}\n    seen:")?;
            for line in seen {
                write!(f, "\n      {line}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.whole { "" } else { " or more" };
        let port = if self.single_port {
            "the port that was asked"
        } else {
            "a port of its own"
        };
        write!(f, "{} octets{more}, from {port}; ", self.contents.len())?;
        let options = [
            ("blksize", self.blksize.is_some()),
            ("timeout", self.timeout),
            ("tsize", self.tsize),
            ("windowsize", self.windowsize.is_some()),
        ];
        let known: Vec<_> = options
            .into_iter()
            .filter_map(|(name, known)| known.then_some(name))
            .collect();
        if known.is_empty() {
            return f.write_str("it knows no options");
        }
        write!(f, "it knows {}", known.join(", "))
    }
}

/// The summary line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |holds: fn(&Verdict) -> bool| {
            let findings = self.findings.iter();
            findings.filter(|finding| holds(&finding.verdict)).count()
        };
        write!(
            f,
            "{} cases: {} pass, {} differ in what must be, {} in what should be, {} not supported, {} not tried",
            self.findings.len(),
            count(|verdict| *verdict == Verdict::Pass),
            self.broken(Level::Must),
            self.broken(Level::Should),
            count(|verdict| matches!(verdict, Verdict::Unsupported(_))),
            count(|verdict| matches!(verdict, Verdict::Untried(_))),
        )?;
        if self.fell_silent {
            write!(f, "; then the server answered no more")?;
        }
        Ok(())
    }
}

/// A verdict as text outside of a table.
pub(super) fn in_a_sentence(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Pass => "it passes".to_owned(),
        Verdict::Differs { expected, seen } => {
            let last = seen.last().map(String::as_str).unwrap_or_default();
            format!("{expected} is expected, and this was seen: {last}")
        }
        Verdict::Unsupported(why) | Verdict::Untried(why) => why.clone(),
    }
}
