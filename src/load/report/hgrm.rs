//! The times of whole transfers in HdrHistogram's percentile format, which its plotters read: value in
//! milliseconds, percentile, count, 1/(1-percentile).

use std::io;

use super::Report;

/// Lines for each halving of what is left up to 100 %, as HdrHistogram's own tools write.
const LINES_PER_HALVING: u32 = 5;

/// Writes the percentiles.
///
/// # Errors
/// If `output` fails.
pub fn write(report: &Report, mut output: impl io::Write) -> io::Result<()> {
    let waits = &report.tally.transfer;
    let (latency, part_that_came) = (waits.came(), waits.part_that_came());
    writeln!(
        output,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    for (value, part, count) in latency.percentiles(LINES_PER_HALVING) {
        // As a fraction of all: if some transfers did not complete, the percentiles end before 1.
        let part = part * part_that_came;
        let millis = value.as_secs_f64() * 1e3;
        if part < 1.0 {
            let odds = 1.0 / (1.0 - part);
            writeln!(
                output,
                "{millis:>12.3} {part:>14.12} {count:>10} {odds:>14.2}"
            )?;
        } else {
            writeln!(output, "{millis:>12.3} {part:>14.12} {count:>10}")?;
        }
    }
    let (mean, deviation) = latency.mean_and_deviation();
    let [mean, deviation, max] =
        [mean, deviation, latency.quantile(1.0)].map(|value| value.as_secs_f64() * 1e3);
    writeln!(
        output,
        "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]"
    )?;
    writeln!(
        output,
        "#[Max     = {max:>12.3}, Total count    = {:>12}]",
        latency.count()
    )?;
    if waits.all() > latency.count() {
        let missing = waits.all() - latency.count();
        writeln!(
            output,
            "#[Percentiles are of {} transfers, of which {missing} did not complete.]",
            waits.all()
        )?;
    }
    output.flush()
}
