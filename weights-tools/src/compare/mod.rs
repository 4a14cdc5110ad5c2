//! Runs two checkpoints of one model on the same inputs and reports how far their outputs lie apart, part by part.
//!
//! Every part is fed the reference's own intermediate results, so that the error of one part does not enter the next.

mod difference;
mod inputs;
mod outputs;
mod side;
mod speech;

use std::path::PathBuf;

use omni_core::{Dtype, Error, Result};
use qwen3_omni::{Component, Device};
use serde::Serialize;

pub use difference::Difference;
use inputs::Inputs;
pub use inputs::Prompts;
use side::Side;

/// What to compare, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkpoint that counts as right.
    pub reference: PathBuf,
    /// The other one: the same model, quantised or in another number type.
    pub other: PathBuf,
    /// Inputs for both.
    pub prompts: Prompts,
    /// Where both run.
    pub device: Device,
    /// The number type the other one is computed in; the reference is computed in f32.
    pub dtype: Dtype,
}

/// Result of a comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Directory of the reference.
    pub reference: PathBuf,
    /// Directory of the other checkpoint.
    pub other: PathBuf,
    /// Outputs, in the order of the pipeline.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// The smallest cosine similarity of all outputs; not a number if one of them is not.
    pub fn least_cosine(&self) -> f64 {
        let cosines = self.differences.iter().map(|difference| difference.cosine);
        // `f64::min` passes over what is not a number.
        cosines.fold(f64::INFINITY, |least, cosine| if cosine.is_nan() || cosine < least { cosine } else { least })
    }
}

/// Compares every part that both checkpoints have, loading one part of one checkpoint at a time.
///
/// # Errors
/// If a directory cannot be opened, the two are not the same model, an input cannot be read, or the device fails.
pub fn compare(options: &Options) -> Result<Comparison> {
    let open = |directory, dtype| Side::open(directory, &options.device, dtype);
    let sides = [open(&options.reference, Dtype::F32)?, open(&options.other, options.dtype)?];
    check_same_model(&sides, options)?;
    let inputs = Inputs::read(&options.prompts, &sides[0], &options.device)?;
    let mut differences = outputs::encoders(&sides, &inputs)?;
    let (answers, thinker) = outputs::thinker(&sides, &inputs)?;
    differences.push(thinker);
    if sides[0].config().top.enable_audio_output {
        differences.extend(speech::compare(&sides, &answers)?);
    }
    let (reference, other) = (options.reference.clone(), options.other.clone());
    Ok(Comparison { reference, other, differences })
}

/// Checks that both have the tensors of one config; how they are packed may differ.
fn check_same_model([reference, other]: &[Side; 2], options: &Options) -> Result<()> {
    if reference.checkpoint.manifest() != other.checkpoint.manifest() {
        let [a, b] = [&options.reference, &options.other].map(|path| path.display());
        return Err(Error::Request(format!("{a} and {b} are not the same model: their configs ask for other tensors")));
    }
    let parts: Vec<_> = Component::ALL.into_iter().filter(|part| reference.config().has(*part)).collect();
    reference.checkpoint.check(&parts)?;
    Ok(other.checkpoint.check(&parts)?)
}
