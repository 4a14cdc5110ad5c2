use burn::module::Module;
use burn::tensor::{Device, Tensor};
use checkpoint::{Checkpoint, Component, OmniConfig, VisionConfig, Weights};
use nn::Linear;
use omni_core::{Dtype, Encoded, Error, ModalityEncoder, Result, SpanLayout};

use crate::block::VisionBlock;
use crate::merger::Merger;
use crate::pos_embed::PosEmbed;
use crate::rotary2d::{Rotary2d, turns};
use crate::{PixelPatches, VisionProbe};

/// Patches that go through the blocks together, unless one frame has more: flat memory for long videos.
const PATCHES_PER_BATCH: usize = 4096;

/// Patch embedding with positions, blocks with attention inside frames, and mergers to the thinker's width.
#[derive(Module, Debug)]
pub struct VisionEncoder {
    pub(crate) patch_embed: Linear,
    pub(crate) pos_embed: PosEmbed,
    pub(crate) blocks: Vec<VisionBlock>,
    pub(crate) merger: Merger,
    pub(crate) merger_list: Vec<Merger>,
    #[module(skip)]
    pub(crate) config: VisionConfig,
}

/// One frame of an item.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    item: usize,
    step: usize,
    pub(crate) size: [usize; 2],
}

impl Frame {
    pub(crate) fn patches(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Its patches.
    pub(crate) fn of(&self, items: &[PixelPatches]) -> Tensor<2> {
        let count = self.patches();
        items[self.item].patches.clone().narrow(0, self.step * count, count)
    }
}

/// Rows of one batch: merged `[T, D]`, and each deepstack feature `[T, D]`.
pub(crate) type Rows = (Tensor<2>, Vec<Tensor<2>>);

impl VisionEncoder {
    /// Loads the encoder alone, in f32.
    ///
    /// # Errors
    /// As [`Checkpoint::check`] for the vision encoder's tensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        checkpoint.check(&[Component::VisionEncoder])?;
        Self::load(&Weights::new(checkpoint, device, Dtype::F32), checkpoint.config())
    }

    /// Reads `thinker.visual.*`; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &OmniConfig) -> Result<Self> {
        Self::load_parts(&weights.at("thinker.visual"), &config.thinker.vision)
    }

    /// Reads the encoder's tensors.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load_parts(weights: &Weights, config: &VisionConfig) -> Result<Self> {
        let block = |index| VisionBlock::load(&weights.at("blocks").at(index), config);
        let deepstack = |index| Merger::load(&weights.at("merger_list").at(index), config, true);
        Ok(Self {
            patch_embed: patch_embed(&weights.at("patch_embed.proj"), config)?,
            pos_embed: PosEmbed::load(&weights.at("pos_embed"), config)?,
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            merger: Merger::load(&weights.at("merger"), config, false)?,
            merger_list: (0..config.deepstack_visual_indexes.len()).map(deepstack).collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// As [`ModalityEncoder::encode`], with a look at every block.
    ///
    /// # Errors
    /// As [`ModalityEncoder::encode`].
    pub fn encode_with(&self, items: &[PixelPatches], probe: &mut dyn VisionProbe) -> Result<Encoded> {
        self.check(items)?;
        let (mut merged, mut deepstack) = (Vec::new(), vec![Vec::new(); self.merger_list.len()]);
        for batch in batches(items) {
            let (rows, features) = self.batch(items, &batch, probe);
            merged.push(rows);
            deepstack.iter_mut().zip(features).for_each(|(all, feature)| all.push(feature));
        }
        let merge = self.config.spatial_merge_size;
        let span = |item: &PixelPatches| {
            let [t, h, w] = item.grid;
            SpanLayout::Grid { t, h: h / merge, w: w / merge, seconds_per_step: item.seconds_per_step }
        };
        Ok(Encoded {
            embeds: Tensor::cat(merged, 0),
            spans: items.iter().map(span).collect(),
            deepstack: deepstack.into_iter().map(|feature| Tensor::cat(feature, 0)).collect(),
        })
    }

    fn check(&self, items: &[PixelPatches]) -> Result<()> {
        let refuse = |reason: String| Err(Error::Media { part: "picture".into(), reason });
        if items.is_empty() {
            return refuse("there are no items to encode".into());
        }
        let (width, merge) = (self.patch_embed.input(), self.config.spatial_merge_size);
        for (index, PixelPatches { patches, grid, .. }) in items.iter().enumerate() {
            let ([rows, found], index) = (patches.dims(), index + 1);
            let whole = grid[1].is_multiple_of(merge) && grid[2].is_multiple_of(merge);
            if rows == 0 || !whole || rows != grid.iter().product::<usize>() || found != width {
                return refuse(format!(
                    "item {index} has {rows} patches of {found} values on a grid of {grid:?}, expected {width} values and \
                     rows and columns that are multiples of {merge}"
                ));
            }
        }
        Ok(())
    }

    /// Some frames from patches to finished rows.
    fn batch(&self, items: &[PixelPatches], batch: &[Frame], probe: &mut dyn VisionProbe) -> Rows {
        let lengths: Vec<usize> = batch.iter().map(Frame::patches).collect();
        if self.patch_embed.is_on_host() {
            return self.batch_on_host(items, batch, &lengths, probe);
        }
        let patches = batch.iter().map(|frame| frame.of(items));
        let x = self.patch_embed.rows(Tensor::cat(patches.collect(), 0)); // [P, D]
        let (positions, rotary) = (self.positions(batch), self.rotary(batch, &x.device()));
        probe.embedded(&x, &positions, &lengths);
        probe.rotary(&rotary.cos, &rotary.sin);
        let mut x = x + positions;
        let mut features = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, &rotary, &lengths);
            probe.block(index, &x);
            if let Some(at) = self.config.deepstack_visual_indexes.iter().position(|tapped| *tapped == index) {
                features.push((at, self.merger_list[at].forward(x.clone())));
            }
        }
        features.sort_by_key(|(at, _)| *at);
        (self.merger.forward(x), features.into_iter().map(|(_, feature)| feature).collect())
    }

    /// Position embeddings `[P, D]` of the frames of a batch; neighbours of one size share the work.
    pub(crate) fn positions(&self, batch: &[Frame]) -> Tensor<2> {
        let runs = batch.chunk_by(|a, b| a.size == b.size).map(|run| {
            let positions = self.pos_embed.forward(run[0].size, self.config.spatial_merge_size);
            positions.repeat_dim(0, run.len())
        });
        Tensor::cat(runs.collect(), 0)
    }

    /// Cosines and sines `[P, Dh / 2]` of the rotation of the frames of a batch.
    pub(crate) fn turns(&self, batch: &[Frame]) -> [Vec<f32>; 2] {
        let [mut all_cos, mut all_sin] = [Vec::new(), Vec::new()];
        for run in batch.chunk_by(|a, b| a.size == b.size) {
            let [cos, sin] = turns(run[0].size, self.config.spatial_merge_size, self.head_dim());
            all_cos.extend(cos.repeat(run.len()));
            all_sin.extend(sin.repeat(run.len()));
        }
        [all_cos, all_sin]
    }

    fn rotary(&self, batch: &[Frame], device: &Device) -> Rotary2d {
        let [cos, sin] = self.turns(batch);
        Rotary2d::new([&cos, &sin], self.head_dim(), device)
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.config.hidden_size / self.config.num_heads
    }
}

/// A convolution whose kernel is its stride is a linear layer over each patch: `[D, colours, frames, side, side]` flattened.
fn patch_embed(weights: &Weights, config: &VisionConfig) -> Result<Linear> {
    let (width, side) = (config.hidden_size, config.patch_size);
    Linear::load(weights, [width, config.in_channels, config.temporal_patch_size, side, side], true)
}

/// Frames of all items, a bounded number of patches at a time.
fn batches(items: &[PixelPatches]) -> Vec<Vec<Frame>> {
    let frames = items.iter().enumerate().flat_map(|(item, PixelPatches { grid: [t, h, w], .. })| {
        (0..*t).map(move |step| Frame { item, step, size: [*h, *w] })
    });
    let mut batches: Vec<Vec<Frame>> = Vec::new();
    let mut patches = usize::MAX;
    for frame in frames {
        patches = patches.saturating_add(frame.patches());
        if patches > PATCHES_PER_BATCH {
            batches.push(Vec::new());
            patches = frame.patches();
        }
        batches.last_mut().expect("the first frame opened a batch").push(frame);
    }
    batches
}

impl ModalityEncoder for VisionEncoder {
    /// Patches of each item, in the encoder's number type.
    type Features = Vec<PixelPatches>;

    fn encode(&self, items: Vec<PixelPatches>) -> Result<Encoded> {
        self.encode_with(&items, &mut ())
    }
}
