use std::fmt::Write;
use std::path::Path;

use super::StepLine;
use super::files::io;
use crate::{Error, Result};

/// Width of one curve's frame.
const WIDTH: f64 = 640.0;
/// Height of one curve's frame.
const HEIGHT: f64 = 160.0;
/// Space around a frame.
const MARGIN: f64 = 60.0;

/// A curve: its name, its values by step, and whether its axis is logarithmic.
struct Curve {
    name: String,
    values: Vec<(f64, f64)>,
    logarithmic: bool,
}

/// Draws loss, learning rate, gradient norm and further values of a log as an SVG picture: points as they are, and a smoothed line.
///
/// # Errors
/// [`Error::Batch`] for an empty log, [`omni_core::Error::Io`] naming the file.
pub fn write_plot(path: &Path, lines: &[StepLine]) -> Result<()> {
    let Some(last) = lines.last() else { return Err(Error::Batch("a log without steps has no curves".into())) };
    let of = |value: &dyn Fn(&StepLine) -> Option<f64>| -> Vec<(f64, f64)> {
        lines
            .iter()
            .filter_map(|line| Some((line.step as f64, value(line).filter(|value| value.is_finite())?)))
            .collect()
    };
    let mut curves = vec![
        Curve { name: "loss".into(), values: of(&|line| Some(line.loss)), logarithmic: true },
        Curve { name: "learning rate".into(), values: of(&|line| Some(line.rate)), logarithmic: true },
        Curve { name: "gradient norm".into(), values: of(&|line| Some(line.grad_norm)), logarithmic: true },
    ];
    for name in last.parts.keys() {
        let values = of(&|line| line.parts.get(name).copied());
        curves.push(Curve { name: name.clone(), values, logarithmic: false });
    }
    let height = curves.len() as f64 * (HEIGHT + MARGIN) + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        WIDTH + 2.0 * MARGIN
    );
    for (index, curve) in curves.iter().enumerate() {
        svg.push_str(&curve.draw(MARGIN + index as f64 * (HEIGHT + MARGIN)));
    }
    svg.push_str("</svg>\n");
    std::fs::write(path, svg).map_err(io(path))
}

impl Curve {
    fn draw(&self, top: f64) -> String {
        // Values that a logarithm cannot show make the axis linear.
        let logarithmic = self.logarithmic && self.values.iter().all(|(_, value)| *value > 0.0);
        let scale = |value: f64| if logarithmic { value.log10() } else { value };
        let points: Vec<(f64, f64)> = self.values.iter().map(|(step, value)| (*step, scale(*value))).collect();
        let ([left, right], [low, high]) = (range(points.iter().map(|p| p.0)), range(points.iter().map(|p| p.1)));
        let place = |(step, value): &(f64, f64)| {
            let x = MARGIN + (step - left) / (right - left) * WIDTH;
            (x, top + HEIGHT - (value - low) / (high - low) * HEIGHT)
        };
        let unscale = |value: f64| if logarithmic { 10f64.powf(value) } else { value };
        let mut svg = format!(
            "<rect x=\"{MARGIN}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#999\"/>\n\
             <text x=\"{MARGIN}\" y=\"{}\">{}</text>\n",
            top - 6.0,
            self.name
        );
        for (y, value) in [(top + 10.0, high), (top + HEIGHT, low)] {
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{:.3e}</text>",
                MARGIN - 4.0,
                unscale(value)
            );
        }
        for point in &points {
            let (x, y) = place(point);
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1\" fill=\"#9bd\"/>");
        }
        let line: Vec<String> = smoothed(&points).iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#036\"/>", line.join(" "));
        let steps = (MARGIN + WIDTH, top + HEIGHT + 14.0);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">step {right}</text>", steps.0, steps.1);
        svg
    }
}

/// The least and the largest value, never equal.
fn range(values: impl Iterator<Item = f64> + Clone) -> [f64; 2] {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    match low < high {
        true => [low, high],
        false if low.is_finite() => [low - 0.5, low + 0.5],
        false => [0.0, 1.0],
    }
}

/// A moving average over about a thirtieth of the points.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 30.0).max(1.0);
    let mut average = points.first().map_or(0.0, |point| point.1);
    let smooth = points.iter().map(|(step, value)| {
        average = keep * average + (1.0 - keep) * value;
        (*step, average)
    });
    smooth.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_becomes_a_picture_and_an_empty_one_an_error() {
        let line = |step: usize| StepLine {
            step,
            seconds: 0.0,
            rate: 1e-3,
            loss: 5.0 / step as f64,
            grad_norm: 1.0,
            tokens: 1,
            rows: 1,
            tokens_per_second: 1.0,
            skipped: false,
            parts: [("aux".to_owned(), -1.0)].into(),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.svg");
        write_plot(&path, &(1..=50).map(line).collect::<Vec<_>>()).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert_eq!(svg.matches("<circle").count(), 200);
        assert!(!svg.contains("NaN"));
        assert!(write_plot(&path, &[]).is_err());
    }
}
