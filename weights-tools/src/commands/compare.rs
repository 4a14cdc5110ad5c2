//! The command that compares two checkpoints: its options and its table.

use std::path::PathBuf;

use crate::compare::{Comparison, Options, Prompts, compare};
use clap::Args;
use omni_core::{Dtype, Result};
use qwen3_omni::Device;

use super::terminal::{Output, note, say};

/// Run two checkpoints of one model on the same inputs and report how far their outputs lie apart, part by part
#[derive(Debug, Args)]
pub struct Compare {
    /// Directory of the reference checkpoint
    reference: PathBuf,
    /// Directory of the other checkpoint: the same model, quantised or in another number type
    other: PathBuf,
    /// A text file with one question per line [default: three questions]
    #[arg(long, conflicts_with = "golden")]
    prompts: Option<PathBuf>,
    /// A sound file; may be repeated [default: a synthetic tone]
    #[arg(long, conflicts_with = "golden")]
    sound: Vec<PathBuf>,
    /// A picture file; may be repeated [default: a synthetic picture]
    #[arg(long, conflicts_with = "golden")]
    picture: Vec<PathBuf>,
    /// Take the inputs of these golden cases instead
    #[arg(long)]
    golden: Option<PathBuf>,
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// f32, bf16 or f16: the number type the other one is computed in; the reference is always computed in f32
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Fail if an output's cosine similarity is below this, or not a number
    #[arg(long, value_parser = cosine)]
    min_cosine: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Compare {
    /// Compares, and returns whether the outputs are near enough.
    ///
    /// # Errors
    /// The errors of [`compare`].
    pub fn run(self, out: &Output) -> Result<bool> {
        let texts = self.prompts.as_deref().map(Prompts::from_file).transpose()?.unwrap_or_default();
        let prompts = Prompts { texts, sounds: self.sound, pictures: self.picture, golden: self.golden };
        let Self { reference, other, device, dtype, .. } = self;
        let comparison = compare(&Options { reference, other, prompts, device, dtype })?;
        match self.json {
            true => out.json(&comparison),
            false => print(&comparison, out),
        }
        let Some(least) = self.min_cosine else { return Ok(true) };
        let far = comparison.differences.iter().filter(|difference| !difference.is_near(least));
        let far: Vec<String> = far.map(|far| format!("{} {} ({})", far.component, far.output, far.cosine)).collect();
        if !far.is_empty() {
            note(format_args!("not as near as a cosine of {least}: {}", far.join(", ")));
        }
        Ok(far.is_empty())
    }
}

fn cosine(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|value| (-1.0..=1.0).contains(value));
    parsed.ok_or_else(|| "expected a number from -1 to 1".into())
}

/// One line per output.
pub(super) fn print(comparison: &Comparison, out: &Output) {
    say!(
        out,
        "{:16} {:14} {:>10} {:>11} {:>10} {:>10} {:>10}",
        "component",
        "output",
        "values",
        "cosine",
        "max error",
        "largest",
        "same best"
    );
    for difference in &comparison.differences {
        let best = difference.same_best.map_or_else(|| "-".into(), |share| format!("{:.1} %", 100.0 * share));
        say!(
            out,
            "{:16} {:14} {:>10} {:>11.7} {:>10.2e} {:>10.2e} {best:>10}",
            difference.component,
            difference.output,
            difference.values,
            difference.cosine,
            difference.max_abs,
            difference.largest
        );
    }
}
