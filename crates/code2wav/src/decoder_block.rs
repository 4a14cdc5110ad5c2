use burn::module::Module;
use burn::tensor::Tensor;
use checkpoint::Weights;
use omni_core::Result;

use crate::causal_conv::{CausalConv, ConvSpec, History, TransposedConv};
use crate::host::HostBlock;
use crate::snake::Snake;

/// Snake, transposed convolution, three residual units of growing dilation.
#[derive(Module, Debug)]
pub(crate) struct DecoderBlock {
    pub(crate) act: Snake,
    transposed: TransposedConv,
    pub(crate) units: Vec<ResidualUnit>,
}

/// What a block carries between steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockState {
    pub(crate) transposed: History,
    pub(crate) units: [History; 3],
}

const DILATIONS: [usize; 3] = [1, 3, 9];

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

    /// The prepared convolutions, if all are.
    pub(crate) fn host(&self) -> Option<HostBlock<'_>> {
        let units = self.units.iter().map(|unit| Some([unit.conv1.host()?, unit.conv2.host()?]));
        Some((self.transposed.host()?, units.collect::<Option<_>>()?))
    }

    /// `[B, C, T]` → `[B, C / 2, T * rate]`, without the first `rate` of the stream.
    pub(crate) fn forward(&self, x: Tensor<3>, state: &mut BlockState) -> Tensor<3> {
        let mut x = self.transposed.forward(x, &mut state.transposed, Some(&self.act));
        for (unit, history) in self.units.iter().zip(&mut state.units) {
            x = unit.forward(x, history);
        }
        x
    }
}

/// `x + conv2(snake(conv1(snake(x))))`.
#[derive(Module, Debug)]
pub(crate) struct ResidualUnit {
    pub(crate) act1: Snake,
    conv1: CausalConv,
    pub(crate) act2: Snake,
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

    fn forward(&self, x: Tensor<3>, history: &mut History) -> Tensor<3> {
        let h = self.conv1.forward(x.clone(), history, Some(&self.act1), None);
        self.conv2.forward(h, &mut History::None, Some(&self.act2), Some(x))
    }
}
