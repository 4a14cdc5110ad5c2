//! The convolutional decoder on the CPU: from layer to layer in memory that is used again, since fresh memory costs as much time
//! as filling it. Several streams go through each layer beside each other.

use std::cell::RefCell;

use burn::tensor::{Int, Tensor, TensorData};
use kernels::{ConvStream, HalfConv};
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

/// The prepared convolutions of the decoder.
pub(crate) struct HostDecoder<'a> {
    entrance: &'a HalfConv,
    blocks: Vec<HostBlock<'a>>,
    exit: &'a HalfConv,
}

/// A block's convolutions: the transposed one, and two of each unit.
pub(crate) type HostBlock<'a> = (&'a HalfConv, Vec<[&'a HalfConv; 2]>);

impl Code2Wav {
    /// The prepared convolutions, if all are.
    pub(crate) fn host(&self) -> Option<HostDecoder<'_>> {
        Some(HostDecoder {
            entrance: self.entrance.host()?,
            blocks: self.blocks.iter().map(DecoderBlock::host).collect::<Option<_>>()?,
            exit: self.exit.host()?,
        })
    }

    /// As [`Code2Wav::run`], for several streams of one row each.
    pub(crate) fn run_on_host(
        &self,
        host: &HostDecoder,
        states: &mut [&mut VocoderState],
        codes: Vec<Tensor<3, Int>>,
    ) -> Vec<Tensor<2>> {
        let (x, times) = self.upsampled(states, codes, &mut ());
        let (mut samples, lengths) = self.decoder_on_host(host, states, &x, &times);
        let each = lengths.into_iter().map(|length| {
            let others = samples.split_off(length);
            let samples = std::mem::replace(&mut samples, others);
            Tensor::from_data(TensorData::new(samples, [1, length]), &x.device()).clamp(-1.0, 1.0)
        });
        each.collect()
    }

    /// Streams beside each other, so many steps of each: `[1, D, sum T]` → `[sum N]`, and the `N`.
    fn decoder_on_host(
        &self,
        host: &HostDecoder,
        states: &mut [&mut VocoderState],
        x: &Tensor<3>,
        times: &[usize],
    ) -> (Vec<f32>, Vec<usize>) {
        let memory = &mut MEMORY.take();
        let entering = &mut streams(states, times, |state| &mut state.entrance);
        let mut times = with_numbers(x, |x| host.entrance.run(entering, x, None, false, &mut memory.x));
        for (index, (block, (transposed, units))) in self.blocks.iter().zip(&host.blocks).enumerate() {
            let Memory { x, y, inner, none } = memory;
            let entering = &mut streams(states, &times, |state| &mut state.blocks[index].transposed);
            times = transposed.run(entering, x, Some(block.act.host()), false, y);
            for (unit, (ResidualUnit { act1, act2, .. }, [conv1, conv2])) in block.units.iter().zip(units).enumerate() {
                let entering = &mut streams(states, &times, |state| &mut state.blocks[index].units[unit]);
                conv1.run(entering, y, Some(act1.host()), false, inner);
                // It sees one step at a time: whose it is does not matter.
                let all = ConvStream { history: none, time: times.iter().sum() };
                conv2.run(&mut [all], inner, Some(act2.host()), true, y);
            }
            std::mem::swap(x, y);
        }
        let mut samples = Vec::new();
        let leaving = &mut streams(states, &times, |state| &mut state.exit);
        let lengths = host.exit.run(leaving, &memory.x, Some(self.act.host()), false, &mut samples);
        MEMORY.set(std::mem::take(memory));
        (samples, lengths)
    }
}

/// The streams as one convolution takes them.
fn streams<'a>(
    states: &'a mut [&mut VocoderState],
    times: &[usize],
    history: impl Fn(&mut VocoderState) -> &mut History,
) -> Vec<ConvStream<'a>> {
    let each = states.iter_mut().zip(times);
    each.map(|(state, time)| ConvStream { history: &mut history(state).host(1)[0], time: *time }).collect()
}
