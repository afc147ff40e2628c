//! Curves over time as an SVG, one below the other, each from zero.

use std::fmt::Write;

/// Size of one curve, and of what stands around it, in pixels.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 90.0;
const LEFT: f64 = 20.0;
const HEAD: f64 = 24.0;

/// A curve.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Seconds, and the value then.
    pub(crate) points: Vec<(f64, f64)>,
}

/// All of them as one picture.
pub(crate) fn plot(all: &[Series]) -> String {
    let (width, height) = (
        WIDTH + 2.0 * LEFT,
        (HEIGHT + HEAD) * all.len() as f64 + HEAD,
    );
    let mut page = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (place, series) in all.iter().enumerate() {
        let top = (HEIGHT + HEAD) * place as f64 + HEAD;
        // Writing to a string cannot fail.
        let _ = curve(&mut page, series, top);
    }
    page + "</svg>\n"
}

fn curve(page: &mut String, series: &Series, top: f64) -> std::fmt::Result {
    let largest = |value: fn(&(f64, f64)) -> f64| {
        series
            .points
            .iter()
            .map(value)
            .fold(f64::MIN_POSITIVE, f64::max)
    };
    let (seconds, most) = (largest(|point| point.0), largest(|point| point.1));
    let Series { name, unit, points } = series;
    writeln!(
        page,
        "<text x=\"{LEFT}\" y=\"{}\">{name}: at most {most:.1} {unit}, over {seconds:.0} s</text>",
        top - 6.0
    )?;
    writeln!(
        page,
        "<path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#999\"/>",
        bottom = top + HEIGHT,
        right = LEFT + WIDTH
    )?;
    write!(page, "<polyline fill=\"none\" stroke=\"#06c\" points=\"")?;
    for (at, value) in points {
        let (x, y) = (
            LEFT + WIDTH * at / seconds,
            top + HEIGHT * (1.0 - value / most),
        );
        write!(page, "{x:.1},{y:.1} ")?;
    }
    writeln!(page, "\"/>")
}
