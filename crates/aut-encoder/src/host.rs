//! The encoder on the CPU: the same computation as on tensors, in memory that is used again from layer to layer and from call to
//! call, since fresh memory costs as much time as filling it.

use std::cell::RefCell;

use burn::tensor::{Device, Tensor, TensorData};
use nn::{EncoderMemory, Then, with_numbers};

use crate::conv_stem::StemMemory;
use crate::model::CHUNKS_PER_BATCH;
use crate::windows::Window;
use crate::{AutEncoder, AutProbe};

#[derive(Default)]
struct Memory {
    /// Rows `[N, D]`.
    x: Vec<f32>,
    y: Vec<f32>,
    stem: StemMemory,
    layer: EncoderMemory,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl AutEncoder {
    /// Some windows from log-mel frames to finished rows `[N, output D]`; `lengths` are those of the windows.
    pub(crate) fn batch_on_host(
        &self,
        items: &[Tensor<2>],
        batch: &[Window],
        lengths: &[usize],
        padded: usize,
        probe: &mut dyn AutProbe,
    ) -> Tensor<2> {
        // Taken out of its cell: while this thread waits for the others it may begin another batch.
        let mut memory = MEMORY.take();
        let device = items[0].device();
        if !self.rows_on_host(items, batch, padded, &mut memory, probe) {
            memory.x.clear();
            with_numbers(&self.rows(items, batch, padded, probe), |rows| memory.x.extend_from_slice(rows));
        }
        let Memory { x, y, layer: layer_memory, .. } = &mut memory;
        let width = self.proj1.input();
        let rows = x.len() / width;
        let shown = |x: &[f32]| shown(x, width, &device);
        if probe.looks() {
            probe.input(&shown(x), lengths);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            layer.on_host(x, lengths, layer_memory);
            if probe.looks() {
                probe.layer(index, &shown(x));
            }
        }
        y.resize(x.len(), 0.0);
        self.ln_post.host_rows(x, y);
        if probe.looks() {
            probe.norm(&shown(y));
        }
        self.proj1.host_rows(y, Then::Gelu, x);
        let mut output = vec![0.0; rows * self.proj2.output()];
        self.proj2.host_rows(x, Then::Keep, &mut output);
        MEMORY.set(memory);
        Tensor::from_data(TensorData::new(output, [rows, self.proj2.output()]), &device)
    }

    /// As [`AutEncoder::rows`], into `memory.x`; `false` if the convolutions are not prepared for it.
    fn rows_on_host(
        &self,
        items: &[Tensor<2>],
        batch: &[Window],
        padded: usize,
        memory: &mut Memory,
        probe: &mut dyn AutProbe,
    ) -> bool {
        let Memory { x, stem, .. } = memory;
        x.clear();
        let chunks: Vec<_> = batch.iter().flat_map(|w| w.chunks.iter().map(|range| (w.item, range.clone()))).collect();
        with_numbers(&self.positions, |positions| {
            for some in chunks.chunks(CHUNKS_PER_BATCH) {
                let frames: Vec<_> =
                    some.iter().map(|(item, range)| items[*item].clone().narrow(0, range.start, range.len())).collect();
                let Some(time) = self.stem.on_host(&frames, padded, stem, probe) else { return false };
                let of_chunk = stem.rows.len() / some.len();
                for (rows, (_, range)) in stem.rows.chunks_exact(of_chunk).zip(some) {
                    let kept = self.tokens(range.len()) * of_chunk / time;
                    x.extend(rows[..kept].iter().zip(positions).map(|(x, position)| x + position));
                }
            }
            true
        })
    }
}

fn shown(x: &[f32], width: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(x.to_vec(), [x.len() / width, width]), device)
}
