//! Random values for a vocoder that is trained from the beginning.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;
use code2wav::Code2WavConfig;

use crate::Result;
use crate::fan_in::fan_in;
use crate::loss::constants;
use crate::random::normal;

/// Scales of residual branches.
const BRANCH: f32 = 0.1;

/// Values of all tensors of the vocoder, flattened by name; the same seed gives the same.
pub(super) fn values(checkpoint: &Checkpoint, seed: u64, device: &Device) -> Result<BTreeMap<String, Tensor<1>>> {
    let config: Code2WavConfig = checkpoint.config().section()?;
    // Behind the first convolution and the blocks stand an activation and the last convolution.
    let last = format!("code2wav.decoder.{}.", config.upsample_rates.len() + 2);
    let device = device.clone().without_autodiff();
    let tensors = checkpoint.tensors().iter().filter(|(name, _)| name.starts_with("code2wav."));
    let drawn = tensors.map(|(name, tensor)| {
        let count = tensor.shape.iter().product();
        let values = match kind(name, &tensor.shape) {
            Kind::Constant(value) => vec![value; count],
            Kind::Normal(fan) => {
                let part = if name.starts_with(&last) { 0.1 } else { branch_end(name) };
                normal(seed, name, count, part * (fan.max(1) as f64).powf(-0.5))
            }
        };
        (name.clone(), constants(values, &device))
    });
    Ok(drawn.collect())
}

enum Kind {
    Constant(f32),
    /// Normal with the variance of one by the number of inputs of an output.
    Normal(usize),
}

fn kind(name: &str, shape: &[usize]) -> Kind {
    let ends = |suffix: &str| name.ends_with(suffix);
    match fan_in(name, shape) {
        _ if ends("layer_scale.scale") || ends(".gamma") => Kind::Constant(BRANCH),
        // Logarithms.
        _ if ends(".alpha") || ends(".beta") || ends(".bias") => Kind::Constant(0.0),
        Some(inputs) => Kind::Normal(inputs),
        // The code embedding: its rows are means of as many values as it is wide.
        None if shape.len() > 1 => Kind::Normal(shape[1]),
        // Norms.
        None => Kind::Constant(1.0),
    }
}

/// Part of its usual size that the last convolution of a residual unit has.
fn branch_end(name: &str) -> f64 {
    if name.ends_with("conv2.conv.weight") { 0.3 } else { 1.0 }
}
