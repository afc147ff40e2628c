//! Plots as HTML: SVG shapes that stretch with the page, text beside them that stays legible, and
//! readouts under the pointer; no script.

use std::fmt::{self, Write};

use crate::time::Duration;

/// The size of the coordinate system on both axes: fine enough for any screen, short to write.
const UNITS: f64 = 1000.0;

/// The scale of an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// Linear, from 0 to this.
    Linear(f64),
    /// Logarithmic, from the first to the second.
    Log(f64, f64),
}

impl Scale {
    /// The position of a value, from 0, the beginning, to 1, the end.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear(end) => value / end,
            Self::Log(begin, end) => (value / begin).ln() / (end / begin).ln(),
        };
        // Values beyond the axis, and NaN, are placed at its ends.
        if place > 0.0 { place.min(1.0) } else { 0.0 }
    }

    /// The value at a position: the inverse of [`Scale::place`].
    pub(super) fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear(end) => place * end,
            Self::Log(begin, end) => begin * (end / begin).powf(place),
        }
    }

    /// A linear scale that ends at a round number and includes `max`.
    pub(super) fn linear_to(max: f64) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let step = step(max, TICKS);
        Self::Linear((max / step - 1e-9).ceil() * step)
    }

    /// A logarithmic scale between round numbers that includes `min` and `max`.
    pub(super) fn log_around(min: f64, max: f64) -> Self {
        let min = if min > 0.0 { min } else { 1.0 };
        let begin = round_numbers(min).rev().find(|&round| round <= min);
        let begin = begin.unwrap_or(min);
        let end = round_numbers(max).find(|&round| round >= max && round > begin);
        Self::Log(begin, end.unwrap_or(begin * 10.0))
    }

    /// Round values along the axis.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear(end) => {
                let step = step(end, TICKS);
                let count = (end / step + 1e-9) as usize;
                (0..=count).map(|number| number as f64 * step).collect()
            }
            Self::Log(begin, end) => {
                let digits: &[f64] = match (end / begin).log10() {
                    decades if decades <= 1.5 => &[1.0, 2.0, 3.0, 5.0, 7.0],
                    decades if decades <= 2.5 => &[1.0, 2.0, 5.0],
                    _ => &[1.0],
                };
                // Slightly beyond the ends, to allow for rounding errors.
                let (begin, end) = (begin * (1.0 - 1e-9), end * (1.0 + 1e-9));
                let decades = begin.log10().floor() as i32..=end.log10().ceil() as i32;
                decades
                    .flat_map(|decade| digits.iter().map(move |digit| digit * decimal(decade)))
                    .filter(|value| (begin..=end).contains(value))
                    .collect()
            }
        }
    }
}

/// The approximate number of ticks of an axis: their labels must not touch on a phone.
const TICKS: f64 = 5.0;

/// The distance between round numbers of which about `count` lie up to `max`.
fn step(max: f64, count: f64) -> f64 {
    let rough = max / count;
    let decade = decimal(rough.log10().floor() as i32);
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|digit| digit * decade);
    let fits = |step: &f64| *step >= rough * (1.0 - 1e-9);
    steps.into_iter().find(fits).unwrap_or(rough)
}

/// 1, 2 and 5 times the powers of ten around a value.
fn round_numbers(value: f64) -> impl DoubleEndedIterator<Item = f64> {
    let decade = value.log10().floor() as i32;
    (decade - 1..=decade + 1)
        .flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * decimal(decade)))
}

/// This power of ten, exact where possible.
fn decimal(power: i32) -> f64 {
    let whole = 10_f64.powi(power.abs());
    if power < 0 { 1.0 / whole } else { whole }
}

/// A plot.
#[derive(Debug, Clone, Default)]
pub(super) struct Plot {
    /// Identifies the plot in links and tests.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What the plot shows, in a sentence.
    pub(super) about: String,
    /// The unit of the vertical axis.
    pub(super) unit: String,
    /// The unit of the horizontal axis.
    pub(super) unit_x: &'static str,
    /// The positions of its ticks, from 0 to 1, and their labels.
    pub(super) ticks_x: Vec<(f64, String)>,
    pub(super) ticks_y: Vec<(f64, String)>,
    pub(super) series: Vec<Series>,
    pub(super) readings: Vec<Reading>,
    /// The text in an empty plot.
    pub(super) empty: Option<&'static str>,
}

/// A shape in one colour.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// The index of the colour.
    pub(super) colour: usize,
    pub(super) shape: Shape,
}

#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// A line through points, each from 0 to 1 on both axes.
    Line(Vec<(f64, f64)>),
    /// The same, filled down to the axis.
    Area(Vec<(f64, f64)>),
    /// Bars: from, to, bottom, top.
    Bars(Vec<[f64; 4]>),
    /// Separate points.
    Dots(Vec<(f64, f64)>),
}

/// The readout shown while the pointer is on a part of the horizontal axis.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) title: String,
    /// The values, each with its marker's colour and position, if it has one.
    pub(super) values: Vec<(String, Option<(usize, f64)>)>,
}

/// The number of colours for measured values.
pub(super) const COLOURS: usize = 5;
/// The colour for everything else, such as bounds.
pub(super) const FAINT: usize = COLOURS;

/// The plot as a figure.
impl fmt::Display for Plot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, title, .. } = self;
        let about = Text(&self.about);
        write!(
            f,
            "<figure id=\"{id}\"><figcaption><h2>{title}</h2><p>{about}</p>"
        )?;
        let bars = |series: &Series| matches!(series.shape, Shape::Bars(_));
        if self.series.len() > 1 || self.series.iter().any(bars) {
            f.write_str("<ul class=\"legend\">")?;
            for Series {
                name,
                colour,
                shape,
            } in &self.series
            {
                f.write_str("<li>")?;
                match shape {
                    Shape::Dots(_) => write!(f, "<s class=\"c{colour}\"></s>")?,
                    _ => write!(
                        f,
                        "<svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"line c{colour}\" d=\"M1 4H23\"/></svg>"
                    )?,
                }
                write!(f, "{}</li>", Text(name))?;
            }
            f.write_str("</ul>")?;
        }
        f.write_str("</figcaption><div class=\"plot\">")?;
        write!(f, "<div class=\"unit\">{}</div>", Text(&self.unit))?;
        f.write_str("<div class=\"axis y\">")?;
        for (place, label) in &self.ticks_y {
            let percent = Percent(*place);
            write!(f, "<span style=\"bottom:{percent}\">{}</span>", Text(label))?;
        }
        f.write_str("</div><div class=\"shapes\">")?;
        write!(
            f,
            "<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}: {about}\">"
        )?;
        self.grid(f)?;
        for series in &self.series {
            series.draw(f)?;
        }
        f.write_str("</svg>")?;
        self.dots(f)?;
        if let Some(words) = self.empty {
            write!(f, "<p class=\"empty\">{}</p>", Text(words))?;
        }
        self.readings
            .iter()
            .try_for_each(|reading| reading.tell(f))?;
        f.write_str("</div><div class=\"axis x\">")?;
        for (place, label) in &self.ticks_x {
            let percent = Percent(*place);
            write!(f, "<span style=\"left:{percent}\">{}</span>", Text(label))?;
        }
        write!(
            f,
            "</div><div class=\"unit-x\">{}</div></div></figure>",
            Text(self.unit_x)
        )
    }
}

impl Plot {
    fn grid(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<path class=\"grid\" d=\"")?;
        for (place, _) in &self.ticks_y {
            write!(f, "M0 {}H1000", Unit(1.0 - place))?;
        }
        for (place, _) in &self.ticks_x {
            write!(f, "M{} 0V1000", Unit(*place))?;
        }
        f.write_str("\"/>")
    }
}

impl Plot {
    /// Circles stay round only in an element that does not stretch.
    fn dots(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Series { colour, shape, .. } in &self.series {
            let Shape::Dots(points) = shape else {
                continue;
            };
            for (x, y) in points {
                let (left, bottom) = (Percent(*x), Percent(*y));
                write!(
                    f,
                    "<u class=\"dot c{colour}\" style=\"left:{left};bottom:{bottom}\"></u>"
                )?;
            }
        }
        Ok(())
    }
}

impl Series {
    fn draw(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colour = self.colour;
        match &self.shape {
            Shape::Line(points) => {
                write!(f, "<path class=\"line c{colour}\" d=\"{}\"/>", Line(points))
            }
            Shape::Area(points) => {
                let (first, last) = points
                    .first()
                    .zip(points.last())
                    .map_or((0.0, 0.0), |(first, last)| (first.0, last.0));
                write!(
                    f,
                    "<path class=\"area c{colour}\" d=\"{line}L{} 1000L{} 1000Z\"/><path class=\"line c{colour}\" d=\"{line}\"/>",
                    Unit(last),
                    Unit(first),
                    line = Line(points),
                )
            }
            Shape::Bars(bars) => {
                write!(f, "<path class=\"bars c{colour}\" d=\"")?;
                for [from, to, bottom, top] in bars {
                    let (bottom, top) = (Unit(1.0 - bottom), Unit(1.0 - top));
                    write!(f, "M{} {bottom}V{top}H{}V{bottom}Z", Unit(*from), Unit(*to))?;
                }
                f.write_str("\"/>")
            }
            Shape::Dots(_) => Ok(()),
        }
    }
}

impl Reading {
    fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, width) = (Percent(self.from), Percent(self.to - self.from));
        // The readout must not extend beyond the page.
        let side = if self.from + self.to > 1.0 {
            " class=\"l\""
        } else {
            ""
        };
        write!(f, "<i{side} style=\"left:{left};width:{width}\">")?;
        for (colour, place) in self.values.iter().filter_map(|(_, mark)| *mark) {
            let percent = Percent(place);
            write!(f, "<u class=\"c{colour}\" style=\"bottom:{percent}\"></u>")?;
        }
        write!(f, "<b>{}", Text(&self.title))?;
        for (value, mark) in &self.values {
            match mark {
                Some((colour, _)) => write!(f, "<br><s class=\"c{colour}\"></s>{}", Text(value))?,
                None => write!(f, "<br>{}", Text(value))?,
            }
        }
        f.write_str("</b></i>")
    }
}

/// Text in a page, with markup escaped.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // Text must not change direction or become invisible either.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}'),
            letter if letter.is_control() => f.write_char('\u{fffd}'),
            letter => f.write_char(letter),
        })
    }
}

/// A position on an axis in [`UNITS`].
struct Unit(f64);

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // To one decimal, without a trailing zero.
        write!(f, "{}", (self.0 * UNITS * 10.0).round() / 10.0)
    }
}

/// A position on an axis as a CSS percentage.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 1e4).round() / 100.0)
    }
}

struct Line<'a>(&'a [(f64, f64)]);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(number, (x, y))| {
            let command = if number == 0 { 'M' } else { 'L' };
            write!(f, "{command}{} {}", Unit(*x), Unit(1.0 - y))
        })
    }
}

/// A time in a readable unit, to three digits.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        0.0 => "0 s".to_owned(),
        _ if seconds < 1e-3 => format!("{} µs", digits(seconds * 1e6)),
        _ if seconds < 1.0 => format!("{} ms", digits(seconds * 1e3)),
        _ if seconds < 600.0 => format!("{} s", digits(seconds)),
        _ if seconds < 36_000.0 => format!("{} min", digits(seconds / 60.0)),
        _ => format!("{} h", digits(seconds / 3600.0)),
    }
}

/// The same.
pub(super) fn duration(duration: Duration) -> String {
    time(duration.as_secs_f64())
}

/// A number of octets in a readable unit, to three digits.
pub(super) fn octets(octets: f64) -> String {
    match octets {
        _ if octets < 1e3 => format!("{octets:.0} octets"),
        _ if octets < 1e6 => format!("{} kB", digits(octets / 1e3)),
        _ if octets < 1e9 => format!("{} MB", digits(octets / 1e6)),
        _ if octets < 1e12 => format!("{} GB", digits(octets / 1e9)),
        _ => format!("{} TB", digits(octets / 1e12)),
    }
}

/// A number to three digits, without trailing zeros.
pub(super) fn digits(value: f64) -> String {
    let places = match value.abs() {
        // A value that would round up to another digit gets one decimal less.
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    if places == 0 {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9 * other.abs().max(1.0)
    }

    fn assert_ticks(scale: Scale, expected: &[f64]) {
        let ticks = scale.ticks();
        let alike = ticks.len() == expected.len()
            && ticks
                .iter()
                .zip(expected)
                .all(|(one, other)| near(*one, *other));
        assert!(alike, "{scale:?}: {ticks:?}, not {expected:?}");
    }

    #[test]
    fn linear_axes_end_at_round_numbers() {
        assert_eq!(Scale::linear_to(87.0), Scale::Linear(100.0));
        assert_ticks(
            Scale::linear_to(87.0),
            &[0.0, 20.0, 40.0, 60.0, 80.0, 100.0],
        );
        assert_ticks(
            Scale::linear_to(1000.0),
            &[0.0, 200.0, 400.0, 600.0, 800.0, 1000.0],
        );
        assert_ticks(Scale::linear_to(0.3), &[0.0, 0.1, 0.2, 0.3]);
        assert_ticks(Scale::linear_to(0.0), &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        for exponent in -9..12 {
            for digit in 1..100 {
                let max = f64::from(digit) * decimal(exponent);
                let scale = Scale::linear_to(max);
                let ticks = scale.ticks();
                assert!((3..=7).contains(&ticks.len()), "{max}: {ticks:?}");
                let last = *ticks.last().expect("ticks");
                assert!(
                    last >= max * (1.0 - 1e-9) && near(scale.place(last), 1.0),
                    "{max}: {ticks:?}"
                );
            }
        }
    }

    #[test]
    fn an_axis_as_it_is_has_the_ticks_that_it_holds() {
        assert_ticks(Scale::Linear(4.2), &[0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn logarithmic_axes_have_round_ends_and_few_ticks() {
        assert_eq!(Scale::log_around(0.003, 0.7), Scale::Log(0.002, 1.0));
        assert_ticks(Scale::Log(1e-5, 1.0), &[1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]);
        assert_ticks(Scale::Log(0.1, 2.0), &[0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0]);
        for (min, max) in [
            (1e-6, 3600.0),
            (0.5, 0.5),
            (3e-4, 4e-4),
            (0.0, 1.0),
            (0.99, 1.01),
        ] {
            let scale = Scale::log_around(min, max);
            let Scale::Log(begin, end) = scale else {
                panic!("{scale:?}")
            };
            assert!(
                begin < end && begin <= if min > 0.0 { min } else { 1.0 } && max <= end,
                "{scale:?}"
            );
            let ticks = scale.ticks();
            assert!((2..=11).contains(&ticks.len()), "{scale:?}: {ticks:?}");
        }
    }

    #[test]
    fn values_lie_where_they_should() {
        assert!(near(Scale::Linear(8.0).place(2.0), 0.25));
        assert!(near(Scale::Log(1e-3, 10.0).place(0.1), 0.5));
        for scale in [Scale::Linear(8.0), Scale::Log(1.0, 10.0)] {
            assert!(near(scale.place(scale.value(0.3)), 0.3), "{scale:?}");
            for wild in [f64::NAN, -1.0, 0.0, f64::INFINITY] {
                assert!((0.0..=1.0).contains(&scale.place(wild)), "{scale:?} {wild}");
            }
        }
    }

    #[test]
    fn numbers_as_people_say_them() {
        let times = [
            0.0, 1e-6, 0.000_25, 0.0999, 0.99996, 1.0, 12.34, 90.0, 1800.0, 90_000.0,
        ];
        assert_eq!(
            times.map(time).join(", "),
            "0 s, 1 µs, 250 µs, 99.9 ms, 1000 ms, 1 s, 12.3 s, 90 s, 30 min, 25 h"
        );
        let sizes = [0.0, 999.0, 4_194_304.0, 1.5e9, 2e13];
        assert_eq!(
            sizes.map(octets).join(", "),
            "0 octets, 999 octets, 4.19 MB, 1.5 GB, 20 TB"
        );
        assert_eq!(digits(99.96), "100");
        assert_eq!(digits(0.25), "0.25");
    }

    #[test]
    fn text_is_never_markup() {
        let hostile = "<script>'\"&\u{202e}\u{0}\n</script>é";
        assert_eq!(
            Text(hostile).to_string(),
            "&lt;script&gt;&#39;&quot;&amp;\u{fffd}\u{fffd}\u{fffd}&lt;/script&gt;é"
        );
    }

    #[test]
    fn a_small_plot() {
        let plot = Plot {
            id: "small",
            title: "Small",
            about: "Nothing & little.".to_owned(),
            unit: "MB/s".to_owned(),
            unit_x: "time",
            ticks_x: vec![(0.0, "0 s".to_owned())],
            ticks_y: vec![(0.5, "1".to_owned())],
            series: vec![
                Series {
                    name: "<a>".to_owned(),
                    colour: 0,
                    shape: Shape::Area(vec![(0.0, 0.25), (1.0, 1.0)]),
                },
                Series {
                    name: "b".to_owned(),
                    colour: 1,
                    shape: Shape::Bars(vec![[0.25, 0.5, 0.0, 0.123_456]]),
                },
            ],
            readings: vec![Reading {
                from: 0.75,
                to: 1.0,
                title: "0 s".to_owned(),
                values: vec![("1 MB/s".to_owned(), Some((0, 0.5)))],
            }],
            empty: None,
        };
        insta::assert_snapshot!(plot.to_string().replace("><", ">\n<"), @r#"
        <figure id="small">
        <figcaption>
        <h2>Small</h2>
        <p>Nothing &amp; little.</p>
        <ul class="legend">
        <li>
        <svg viewBox="0 0 24 8" aria-hidden="true">
        <path class="line c0" d="M1 4H23"/>
        </svg>&lt;a&gt;</li>
        <li>
        <svg viewBox="0 0 24 8" aria-hidden="true">
        <path class="line c1" d="M1 4H23"/>
        </svg>b</li>
        </ul>
        </figcaption>
        <div class="plot">
        <div class="unit">MB/s</div>
        <div class="axis y">
        <span style="bottom:50%">1</span>
        </div>
        <div class="shapes">
        <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="Small: Nothing &amp; little.">
        <path class="grid" d="M0 500H1000M0 0V1000"/>
        <path class="area c0" d="M0 750L1000 0L1000 1000L0 1000Z"/>
        <path class="line c0" d="M0 750L1000 0"/>
        <path class="bars c1" d="M250 1000V876.5H500V1000Z"/>
        </svg>
        <i class="l" style="left:75%;width:25%">
        <u class="c0" style="bottom:50%">
        </u>
        <b>0 s<br>
        <s class="c0">
        </s>1 MB/s</b>
        </i>
        </div>
        <div class="axis x">
        <span style="left:0%">0 s</span>
        </div>
        <div class="unit-x">time</div>
        </div>
        </figure>
        "#);
    }
}
