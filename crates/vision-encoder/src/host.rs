//! The encoder on the CPU: the same computation as on tensors, in memory that is used again from block to block and from call to
//! call, since fresh memory costs as much time as filling it.

use std::cell::RefCell;

use burn::tensor::{Device, Tensor, TensorData};
use nn::{EncoderMemory, Then, with_numbers};

use crate::model::{Frame, Rows};
use crate::rotary2d::Rotary2d;
use crate::{PixelPatches, VisionEncoder, VisionProbe};

#[derive(Default)]
struct Memory {
    /// Patches `[P, D]`.
    x: Vec<f32>,
    merger: [Vec<f32>; 2],
    block: EncoderMemory,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl VisionEncoder {
    /// Some frames from patches to finished rows; `lengths` are their patches.
    pub(crate) fn batch_on_host(
        &self,
        items: &[PixelPatches],
        batch: &[Frame],
        lengths: &[usize],
        probe: &mut dyn VisionProbe,
    ) -> Rows {
        // Taken out of its cell: while this thread waits for the others it may begin another batch.
        let mut memory = MEMORY.take();
        let Memory { x, merger, block: block_memory } = &mut memory;
        let device = items[0].patches.device();
        let width = self.patch_embed.output();
        x.resize(lengths.iter().sum::<usize>() * width, 0.0);
        let mut frames = &mut x[..];
        for (frame, patches) in batch.iter().zip(lengths) {
            let (rows, rest) = frames.split_at_mut(patches * width);
            with_numbers(&frame.of(items), |patches| self.patch_embed.host_rows(patches, Then::Keep, rows));
            frames = rest;
        }
        let [cos, sin] = self.turns(batch);
        let rotation = [cos.as_slice(), sin.as_slice()];
        if probe.looks() {
            probe.embedded(&tensor(x.clone(), width, &device), &self.positions(batch), lengths);
            let Rotary2d { cos, sin } = Rotary2d::new(rotation, self.head_dim(), &device);
            probe.rotary(&cos, &sin);
        }
        let mut frames = &mut x[..];
        for (frame, patches) in batch.iter().zip(lengths) {
            let (rows, rest) = frames.split_at_mut(patches * width);
            self.pos_embed.add_to(frame.size, self.config.spatial_merge_size, rows);
            frames = rest;
        }
        let output = self.config.out_hidden_size;
        let mut features = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            block.on_host(x, rotation, lengths, block_memory);
            if probe.looks() {
                probe.block(index, &tensor(x.clone(), width, &device));
            }
            if let Some(at) = self.config.deepstack_visual_indexes.iter().position(|tapped| *tapped == index) {
                features.push((at, tensor(self.merger_list[at].on_host(x, merger), output, &device)));
            }
        }
        features.sort_by_key(|(at, _)| *at);
        let merged = tensor(self.merger.on_host(x, merger), output, &device);
        MEMORY.set(memory);
        (merged, features.into_iter().map(|(_, feature)| feature).collect())
    }
}

fn tensor(values: Vec<f32>, width: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / width;
    Tensor::from_data(TensorData::new(values, [rows, width]), device)
}
