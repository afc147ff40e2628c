//! Renders two samples of a server as a screen of text: the activity between them, and the running
//! transfers.

use std::fmt::Write as _;

use super::sample::{Sample, Transfer};

/// The size of a screen in characters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The histograms shown, and their names here.
const LATENCIES: [(&str, &str); 4] = [
    ("first datagram", "tftp_first_byte_seconds"),
    ("ACK to burst", "tftp_ack_burst_seconds"),
    ("round trip", "tftp_ack_rtt_seconds"),
    ("transfer", "tftp_transfer_duration_seconds"),
];

/// Renders the screen.
pub(super) fn draw(server: &str, before: &Sample, now: &Sample, size: Size) -> String {
    let mut lines = vec![title(server, now)];
    lines.extend(traffic(before, now));
    lines.push(latencies(before, now));
    lines.push(String::new());
    lines.extend(transfers(before, now));
    // The cursor takes the last row.
    lines.truncate(size.rows.saturating_sub(1).max(1));
    lines.iter().fold(String::new(), |mut text, line| {
        let shown: String = harmless(line).take(size.columns).collect();
        let _ = writeln!(text, "{}", shown.trim_end());
        text
    })
}

/// A text from elsewhere without control characters, which would command the terminal. A bootstorm server sends
/// none, but another program may answer at its address.
pub(super) fn harmless(text: &str) -> impl Iterator<Item = char> {
    text.chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
}

fn title(server: &str, now: &Sample) -> String {
    let mut title = format!("bootstorm, admin at {server}: {}", now.engine("engine"));
    for (label, name) in [("gso", "GSO"), ("zero_copy", "zero copy")] {
        if now.engine(label) == "true" {
            let _ = write!(title, ", {name}");
        }
    }
    title
}

fn traffic(before: &Sample, now: &Sample) -> [String; 4] {
    let seconds = now
        .taken
        .duration_since(before.taken)
        .as_secs_f64()
        .max(1e-3);
    let rate = |octets: &dyn Fn(&Sample) -> f64| (octets(now) - octets(before)).max(0.0) / seconds;
    let counted = |prefix: &'static str| rate(&move |sample: &Sample| sample.sum(prefix));
    let megabytes = |direction: &'static str| rate(&move |sample| sample.octets(direction)) / 1e6;
    let blocks = counted("tftp_packets_total{type=\"data\",direction=\"sent\"}");
    let repeated = counted("tftp_retransmits_total");
    [
        format!(
            "active        {} reads, {} writes, {} of them unvalidated",
            now.sum("tftp_transfers_active{op=\"read\"}"),
            now.sum("tftp_transfers_active{op=\"write\"}"),
            now.sum("tftp_unvalidated_transfers"),
        ),
        format!(
            "a second      {:.1} MB sent, {:.1} MB received, {:.0} transfers complete, {:.0} ended otherwise",
            megabytes("sent"),
            megabytes("received"),
            counted("tftp_transfers_ended_total{outcome=\"complete\"}"),
            counted("tftp_transfers_ended_total{")
                - counted("tftp_transfers_ended_total{outcome=\"complete\"}"),
        ),
        format!(
            "trouble       {:.2} % of blocks retransmitted; a second {:.0} ERRORs, {:.0} sends waited, {:.0} refused, {:.0} datagrams dropped",
            100.0 * repeated / blocks.max(1.0),
            counted("tftp_errors_total{"),
            counted("tftp_send_full_total"),
            counted("tftp_send_errors_total{"),
            counted("tftp_receive_drops_total"),
        ),
        format!(
            "frame cache   {:.1} MB, {:.0} hits and {:.0} misses a second",
            now.sum("tftp_frame_cache_bytes") / 1e6,
            counted("tftp_frame_cache_hits_total"),
            counted("tftp_frame_cache_misses_total"),
        ),
    ]
}

fn latencies(before: &Sample, now: &Sample) -> String {
    let quantile = |name, part| {
        let bound = now.quantile(before, name, part);
        bound.map_or_else(|| "–".to_owned(), milliseconds)
    };
    let shown = LATENCIES
        .map(|(label, name)| format!("{label} {} / {}", quantile(name, 0.5), quantile(name, 0.99)));
    format!("p50/p99 ms    {}", shown.join(", "))
}

/// The upper bound of a histogram bucket in milliseconds.
fn milliseconds(seconds: f64) -> String {
    if seconds.is_infinite() {
        "more".to_owned()
    } else {
        format!("≤{}", (seconds * 1e6).round() / 1e3)
    }
}

/// The transfers that have run for the longest, with a heading.
fn transfers(before: &Sample, now: &Sample) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<26} {:<5} {:>9} {:>7} {:>9} {:>8} {:>6}  {}",
        "client", "", "terms", "done", "MB/s", "seconds", "again", "file"
    )];
    let seconds = now
        .taken
        .duration_since(before.taken)
        .as_secs_f64()
        .max(1e-3);
    let mut rows: Vec<&Transfer> = now.transfers.iter().collect();
    rows.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    lines.extend(rows.into_iter().map(|row| {
        let same = |other: &&Transfer| {
            (&other.peer, &other.file) == (&row.peer, &row.file) && other.bytes <= row.bytes
        };
        let had = before
            .transfers
            .iter()
            .find(same)
            .map_or(0, |other| other.bytes);
        let terms = match (row.blksize, row.windowsize) {
            (Some(blksize), Some(windowsize)) => format!("{blksize}/{windowsize}"),
            _ => String::new(),
        };
        let done = row
            .total
            .filter(|&total| total > 0)
            .map_or_else(String::new, |total| {
                format!("{:.0} %", 100.0 * row.bytes as f64 / total as f64)
            });
        format!(
            "{:<26} {:<5} {:>9} {:>7} {:>9.2} {:>8.1} {:>6}  {}",
            row.peer,
            row.operation,
            terms,
            done,
            (row.bytes - had) as f64 / 1e6 / seconds,
            row.seconds,
            row.retransmissions,
            row.file
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::two;
    use super::*;

    #[test]
    fn a_screen_shows_what_happened_between_two_samples() {
        let [before, now] = two();
        let size = Size {
            rows: 24,
            columns: 120,
        };
        insta::assert_snapshot!(draw("127.0.0.1:9100", &before, &now, size));
    }

    #[test]
    fn a_small_screen_is_not_left() {
        let [before, now] = two();
        let size = Size {
            rows: 4,
            columns: 20,
        };
        let text = draw("127.0.0.1:9100", &before, &now, size);
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.lines().all(|line| line.chars().count() <= 20),
            "{text}"
        );
    }

    #[test]
    fn nothing_from_the_server_commands_the_terminal() {
        let [before, mut now] = two();
        now.transfers[0].file = "a\u{1b}[2Jb\nc\u{9b}2J".to_owned();
        let size = Size {
            rows: 24,
            columns: 200,
        };
        let text = draw("127.0.0.1:9100", &before, &now, size);
        assert!(text.ends_with("  a?[2Jb?c?2J\n"), "{text}");
    }
}
