use burn::module::Module;
use checkpoint::Weights;
use omni_core::Result;

use crate::config::MimiConfig;
use crate::conv::{CausalConv, ConvSpec, Numbering};
use crate::engine::MimiEngine;
use crate::history::Stream;

/// Samples to rows of the transformer: a convolution, stages that each downsample and double the channels, a convolution.
#[derive(Module, Debug)]
pub(crate) struct SeaNet {
    entrance: CausalConv,
    stages: Vec<Stage>,
    exit: CausalConv,
}

/// Residual units, ELU, and a convolution with a kernel of twice its stride.
#[derive(Module, Debug)]
struct Stage {
    units: Vec<ResidualUnit>,
    downsample: CausalConv,
}

/// `shortcut(x) + conv2(elu(conv1(elu(x))))`.
#[derive(Module, Debug)]
struct ResidualUnit {
    conv1: CausalConv,
    conv2: CausalConv,
    shortcut: Option<CausalConv>,
}

impl SeaNet {
    /// Reads `layers.{i}`, whose numbers count activations too.
    pub(crate) fn load(weights: &Weights, config: &MimiConfig, numbering: &Numbering) -> Result<Self> {
        let layer = |index: usize| weights.at(format!("layers.{index}"));
        let (pad, mut channels, mut next) = (config.pad_mode(), config.num_filters, 1);
        let entrance = ConvSpec::new(1, channels, config.kernel_size, pad);
        let entrance = CausalConv::load(&layer(0), entrance, numbering)?;
        let mut stages = Vec::new();
        for ratio in config.upsampling_ratios.iter().rev() {
            let unit = |index| ResidualUnit::load(&layer(next + index), config, (channels, index), numbering);
            let units = (0..config.num_residual_layers).map(unit).collect::<Result<Vec<_>>>()?;
            next += units.len() + 2;
            let spec = ConvSpec { stride: *ratio, ..ConvSpec::new(channels, 2 * channels, 2 * ratio, pad) };
            stages.push(Stage { units, downsample: CausalConv::load(&layer(next - 1), spec, numbering)? });
            channels *= 2;
        }
        let exit = ConvSpec::new(channels, config.hidden_size, config.last_kernel_size, pad);
        Ok(Self { entrance, stages, exit: CausalConv::load(&layer(next + 1), exit, numbering)? })
    }

    /// Convolves the next samples `[N, 1]` of the streams to rows `[T, D]`, of which each stream is told its number.
    pub(crate) fn forward<E: MimiEngine>(&self, e: &E, x: Option<E::Rows>, streams: &mut [Stream]) -> Option<E::Rows> {
        let mut x = e.conv(x, &self.entrance, streams);
        for stage in &self.stages {
            x = stage.forward(e, x, streams);
        }
        e.conv(x.map(|x| e.elu(&x)), &self.exit, streams)
    }
}

impl Stage {
    fn forward<E: MimiEngine>(&self, e: &E, mut x: Option<E::Rows>, streams: &mut [Stream]) -> Option<E::Rows> {
        for unit in &self.units {
            x = x.and_then(|x| unit.forward(e, x, streams));
        }
        e.conv(x.map(|x| e.elu(&x)), &self.downsample, streams)
    }
}

impl ResidualUnit {
    fn load(
        weights: &Weights,
        config: &MimiConfig,
        (channels, index): (usize, usize),
        numbering: &Numbering,
    ) -> Result<Self> {
        let (pad, inner) = (config.pad_mode(), channels / config.compress);
        let dilation = config.dilation_growth_rate.pow(index as u32);
        let conv1 = ConvSpec { dilation, ..ConvSpec::new(channels, inner, config.residual_kernel_size, pad) };
        let load = |name: &str, spec| CausalConv::load(&weights.at(name), spec, numbering);
        let shortcut = || load("shortcut", ConvSpec::new(channels, channels, 1, pad));
        Ok(Self {
            conv1: load("block.1", conv1)?,
            conv2: load("block.3", ConvSpec::new(inner, channels, 1, pad))?,
            shortcut: config.use_conv_shortcut.then(shortcut).transpose()?,
        })
    }

    /// `[T, C]` → `[T, C]`.
    fn forward<E: MimiEngine>(&self, e: &E, x: E::Rows, streams: &mut [Stream]) -> Option<E::Rows> {
        let inner = e.conv(Some(e.elu(&x)), &self.conv1, streams)?; // [T, C / compress]
        let y = e.conv(Some(e.elu(&inner)), &self.conv2, streams)?;
        let x = match &self.shortcut {
            Some(shortcut) => e.conv(Some(x), shortcut, streams)?,
            None => x,
        };
        Some(e.add(x, &y))
    }
}
