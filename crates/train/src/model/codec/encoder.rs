use burn::module::Module;
use burn::tensor::{Device, Tensor};
use checkpoint::Weights;
use nn::{Activation, DeviceEngine, Engine, Linear};
use omni_core::{Dtype, Place, Result};

use super::config::{CodecConfig, ROWS_PER_FRAME};
use crate::loss::MEL_BINS;

/// Under this name stand the encoder's parameters.
pub(crate) const ENCODER: &str = "codec_encoder";
/// Rows that the first convolution sees.
const KERNEL: usize = 3;
/// Residual blocks, each of two linear layers.
const BLOCKS: usize = 2;

/// Encoder of the codec: a convolution over log-mel rows, one whose stride makes a row of each codec frame, and residual blocks.
#[derive(Module, Debug)]
pub struct CodecEncoder {
    conv_in: Linear,
    conv_down: Linear,
    blocks: Vec<Block>,
    out: Linear,
    #[module(skip)]
    engine: DeviceEngine,
}

/// `x + fc2(gelu(fc1(x)))`.
#[derive(Module, Debug)]
struct Block {
    fc1: Linear,
    fc2: Linear,
}

/// Names and shapes of the encoder's parameters, from the file's root.
pub(super) fn parameters(config: &CodecConfig) -> Vec<(String, Vec<usize>)> {
    let CodecConfig { width, hidden_size, .. } = *config;
    let mut layers = vec![
        ("conv_in".to_owned(), [width, KERNEL * MEL_BINS]),
        ("conv_down".to_owned(), [width, ROWS_PER_FRAME * width]),
    ];
    for block in 0..BLOCKS {
        layers.push((format!("blocks.{block}.fc1"), [2 * width, width]));
        layers.push((format!("blocks.{block}.fc2"), [width, 2 * width]));
    }
    layers.push(("out".to_owned(), [hidden_size, width]));
    let both = |(name, [output, input]): (String, [usize; 2])| {
        [(format!("{ENCODER}.{name}.weight"), vec![output, input]), (format!("{ENCODER}.{name}.bias"), vec![output])]
    };
    layers.into_iter().flat_map(both).collect()
}

impl CodecEncoder {
    /// Makes an encoder whose values are to be set.
    pub(super) fn new(config: &CodecConfig, device: &Device) -> Result<Self> {
        let place = Place::Device(device.clone());
        let weights = Weights::random(&place, Dtype::F32).at(ENCODER);
        let CodecConfig { width, hidden_size, .. } = *config;
        let linear = |name: String, output: usize, input: usize| Linear::load(&weights.at(name), [output, input], true);
        let block = |index: usize| {
            let fc1 = linear(format!("blocks.{index}.fc1"), 2 * width, width)?;
            Ok(Block { fc1, fc2: linear(format!("blocks.{index}.fc2"), width, 2 * width)? })
        };
        Ok(Self {
            conv_in: linear("conv_in".into(), width, KERNEL * MEL_BINS)?,
            conv_down: linear("conv_down".into(), width, ROWS_PER_FRAME * width)?,
            blocks: (0..BLOCKS).map(block).collect::<Result<_>>()?,
            out: linear("out".into(), hidden_size, width)?,
            engine: DeviceEngine::new(device, Dtype::F32),
        })
    }

    /// Latents of segments of one length, one below another.
    ///
    /// # Shapes
    /// Log-mel rows `[B, 4 F + 2, M]`, one before and one after the segment's own, → `[B * F, D]`.
    pub(crate) fn forward(&self, mel: Tensor<3>) -> Tensor<2> {
        let ([batch, rows, bins], e) = (mel.dims(), &self.engine);
        let rows = rows + 1 - KERNEL;
        let taps = (0..KERNEL).map(|tap| mel.clone().narrow(1, tap, rows)).collect();
        let x = Tensor::cat(taps, 2).reshape([batch * rows, KERNEL * bins]); // [B * 4 F, 3 M]
        let mut x = e.rows(&[&x]);
        let x = e.linear_act(&mut x, &self.conv_in, Activation::Gelu);
        let width = ROWS_PER_FRAME * e.shape(&x)[1];
        let mut x = e.reshape(x, width); // [B * F, 4 W]
        let mut x = e.linear_act(&mut x, &self.conv_down, Activation::Gelu);
        for Block { fc1, fc2 } in &self.blocks {
            let mut inner = e.linear_act(&mut x, fc1, Activation::Gelu);
            x = e.add_linear(x, &mut inner, fc2, None);
        }
        let [latents] = e.linear(&mut x, [&self.out]);
        latents.into_tensor()
    }
}
