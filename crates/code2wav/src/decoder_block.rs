use burn::module::Module;
use checkpoint::Weights;
use omni_core::Result;

use crate::conv::{CausalConv, ConvSpec, TransposedConv};
use crate::engine::VocoderEngine;
use crate::history::History;
use crate::snake::Snake;

/// Snake, transposed convolution, three residual units of growing dilation.
#[derive(Module, Debug)]
pub(crate) struct DecoderBlock {
    act: Snake,
    transposed: TransposedConv,
    units: Vec<ResidualUnit>,
}

/// What a block carries between steps.
#[derive(Debug, Clone)]
pub(crate) struct BlockState {
    transposed: History,
    units: [History; 3],
}

const DILATIONS: [usize; 3] = [1, 3, 9];

impl BlockState {
    /// The state before the first step, with a history like the one given for each convolution.
    pub(crate) fn new(history: &History) -> Self {
        Self { transposed: history.clone(), units: DILATIONS.map(|_| history.clone()) }
    }
}

impl DecoderBlock {
    /// `channels` at the entrance; half of them leave.
    pub(crate) fn load(weights: &Weights, channels: usize, rate: usize) -> Result<Self> {
        let half = channels / 2;
        let units = DILATIONS.iter().enumerate();
        let units = units.map(|(i, dilation)| ResidualUnit::load(&weights.at(i + 2), half, *dilation));
        Ok(Self {
            act: Snake::load(&weights.at("0"), channels)?,
            transposed: TransposedConv::load(&weights.at("1.conv"), [channels, half, 2 * rate], rate)?,
            units: units.collect::<Result<_>>()?,
        })
    }

    /// Applies the block: `[C, sum T]` → `[C / 2, sum T * rate]`, without the first `rate` of each stream.
    pub(crate) fn forward<E: VocoderEngine>(&self, e: &E, x: E::Signal, states: &mut [&mut BlockState]) -> E::Signal {
        let mut histories: Vec<_> = states.iter_mut().map(|state| &mut state.transposed).collect();
        let mut x = e.transposed_conv(&x, &self.transposed, &self.act, &mut histories);
        for (index, unit) in self.units.iter().enumerate() {
            let mut histories: Vec<_> = states.iter_mut().map(|state| &mut state.units[index]).collect();
            x = unit.forward(e, x, &mut histories);
        }
        x
    }
}

/// `x + conv2(snake(conv1(snake(x))))`.
#[derive(Module, Debug)]
struct ResidualUnit {
    act1: Snake,
    conv1: CausalConv,
    act2: Snake,
    conv2: CausalConv,
}

impl ResidualUnit {
    fn load(weights: &Weights, channels: usize, dilation: usize) -> Result<Self> {
        let dilated = ConvSpec { dilation, ..ConvSpec::new(channels, channels, 7) };
        Ok(Self {
            act1: Snake::load(&weights.at("act1"), channels)?,
            conv1: CausalConv::load(&weights.at("conv1.conv"), dilated)?,
            act2: Snake::load(&weights.at("act2"), channels)?,
            conv2: CausalConv::load(&weights.at("conv2.conv"), ConvSpec::new(channels, channels, 1))?,
        })
    }

    fn forward<E: VocoderEngine>(&self, e: &E, x: E::Signal, histories: &mut [&mut History]) -> E::Signal {
        let inner = e.conv(&x, &self.conv1, Some(&self.act1), histories);
        e.add_conv(x, &inner, &self.conv2, &self.act2)
    }
}
