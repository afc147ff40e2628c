//! `check`: tests a server, with a line for each case as soon as it is done, and a summary.

use std::io::{self, Write as _};

use super::args::Check as Arguments;
use super::errand::{Place, place};
use super::{Trouble, say};
use crate::client::resolve;
use crate::conformance::{Level, Target, examine};

pub(super) fn run(arguments: &Arguments) -> Result<(), Trouble> {
    let Place { server, name, .. } = place(&arguments.server, arguments.name.clone())?;
    if name.is_empty() {
        return Err(Trouble::arguments(
            "the name of a file that the server lets you read is missing; give tftp://HOST/NAME",
        ));
    }
    let servers = resolve(&server.host, server.port).map_err(Trouble::work)?;
    let first = servers.first().copied();
    let target = Target {
        server: first.ok_or_else(|| Trouble::arguments("the server has no address"))?,
        file: name,
        folder: arguments.write.clone().map(String::into_bytes),
    };
    let mut output = io::stdout();
    let report = examine(&target, &mut |finding| {
        if !arguments.quiet || finding.verdict.differs() {
            // If the output is closed, the exit code still gives the result.
            let _ = writeln!(output, "{finding}");
        }
    });
    let report = report
        .map_err(|error| Trouble::Work(format!("{} cannot be examined: {error}", target.server)))?;
    say(format_args!(
        "\n{}: {}\n{report}\n",
        target.server, report.facts
    ))?;
    match report.broken(Level::Must) {
        _ if report.fell_silent => Err(Trouble::work("the server answers no more")),
        0 => Ok(()),
        1 => Err(Trouble::work("one rule does not hold that must")),
        count => Err(Trouble::Work(format!(
            "{count} rules do not hold that must"
        ))),
    }
}
