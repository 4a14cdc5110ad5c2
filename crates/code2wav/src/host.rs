//! The convolutional decoder on the CPU: from layer to layer in memory that is used again, since fresh memory costs as much time
//! as filling it.

use std::cell::RefCell;

use burn::tensor::{Tensor, TensorData};
use kernels::HalfConv;
use nn::with_numbers;

use crate::Code2Wav;
use crate::causal_conv::History;
use crate::decoder_block::{DecoderBlock, ResidualUnit};
use crate::stream::VocoderState;

#[derive(Default)]
struct Memory {
    x: Vec<f32>,
    y: Vec<f32>,
    inner: Vec<f32>,
    none: Vec<f32>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl Code2Wav {
    /// `[1, D, T]` → `[1, 1, N]`, if all convolutions are prepared for it.
    pub(crate) fn decoder_on_host(&self, state: &mut VocoderState, x: &Tensor<3>) -> Option<Tensor<3>> {
        if x.dims()[0] != 1 {
            return None;
        }
        let (entrance, exit) = (self.entrance.host()?, self.exit.host()?);
        let blocks: Vec<_> = self.blocks.iter().map(DecoderBlock::host).collect::<Option<_>>()?;
        let memory = &mut MEMORY.take();
        with_numbers(x, |x| entrance.run(row(&mut state.entrance), x, None, false, &mut memory.x));
        for ((block, (transposed, units)), carried) in self.blocks.iter().zip(blocks).zip(&mut state.blocks) {
            let Memory { x, y, inner, none } = memory;
            transposed.run(row(&mut carried.transposed), x, Some(block.act.host()), false, y);
            for ((unit, [conv1, conv2]), history) in block.units.iter().zip(units).zip(&mut carried.units) {
                let ResidualUnit { act1, act2, .. } = unit;
                conv1.run(row(history), y, Some(act1.host()), false, inner);
                conv2.run(none, inner, Some(act2.host()), true, y);
            }
            std::mem::swap(x, y);
        }
        let mut samples = Vec::new();
        let length = exit.run(row(&mut state.exit), &memory.x, Some(self.act.host()), false, &mut samples);
        MEMORY.set(std::mem::take(memory));
        Some(Tensor::from_data(TensorData::new(samples, [1, 1, length]), &x.device()))
    }
}

fn row(history: &mut History) -> &mut Vec<f32> {
    &mut history.host(1)[0]
}

/// A block's convolutions: the transposed one, and two of each unit.
pub(crate) type HostBlock<'a> = (&'a HalfConv, Vec<[&'a HalfConv; 2]>);
