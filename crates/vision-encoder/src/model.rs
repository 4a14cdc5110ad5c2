use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use checkpoint::{Checkpoint, Weights};
use nn::{AnyEngine, Engine, Linear, WeightedRow, on_engine};
use omni_core::{Dtype, Encoded, Error, ModalityEncoder, Place, Result, SpanLayout};

use crate::block::VisionBlock;
use crate::config::VisionConfig;
use crate::merger::Merger;
use crate::pos_embed::PosEmbed;
use crate::rotary2d::rotation_tables;
use crate::{PixelPatches, VisionProbe};

/// Patches per batch through the blocks, unless one frame has more: flat memory for long videos.
const PATCHES_PER_BATCH: usize = 4096;

/// Patch embedding with positions, blocks with attention inside frames, and mergers to the thinker's width.
#[derive(Module, Debug)]
pub struct VisionEncoder {
    patch_embed: Linear,
    pos_embed: PosEmbed,
    blocks: Vec<VisionBlock>,
    merger: Merger,
    merger_list: Vec<Merger>,
    #[module(skip)]
    config: VisionConfig,
    #[module(skip)]
    engine: AnyEngine,
}

/// One frame of an item.
#[derive(Clone, Copy)]
struct Frame {
    item: usize,
    step: usize,
    size: [usize; 2],
}

impl Frame {
    fn patches(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// The patches of this frame.
    fn of(&self, items: &[PixelPatches]) -> Tensor<2> {
        let count = self.patches();
        items[self.item].patches.clone().narrow(0, self.step * count, count)
    }
}

/// Rows of one batch: merged `[T, D]`, and each deepstack feature `[T, D]`.
type Rows = (Tensor<2>, Vec<Tensor<2>>);

impl VisionEncoder {
    /// Loads the encoder alone, computed in `dtype`.
    ///
    /// # Errors
    /// The errors of [`Checkpoint::check`] for the vision encoder's tensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &Place, dtype: Dtype) -> Result<Self> {
        let config: VisionConfig = checkpoint.config().section()?;
        let in_scope = |name: &str| name.starts_with("thinker.visual.");
        checkpoint.load(place, dtype, in_scope, |weights| Self::load(weights, &config))
    }

    /// Reads `thinker.visual.*`; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &VisionConfig) -> Result<Self> {
        Self::load_parts(&weights.at("thinker.visual"), config)
    }

    /// Reads the encoder's tensors.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
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
            engine: AnyEngine::of(weights),
        })
    }

    /// Patches that are merged to one row, along each side.
    pub fn merge_size(&self) -> usize {
        self.config.spatial_merge_size
    }

    /// Encodes as [`ModalityEncoder::encode`] does, showing every block to `probe`.
    ///
    /// # Errors
    /// The errors of [`ModalityEncoder::encode`].
    pub fn encode_with(&self, items: &[PixelPatches], probe: &mut dyn VisionProbe) -> Result<Encoded> {
        self.encode_batches(items, probe, &|| false)
    }

    /// Encodes as [`ModalityEncoder::encode`] does, and asks `stopped` before every block of a few frames whether to go on.
    ///
    /// # Errors
    /// The errors of [`ModalityEncoder::encode`]; [`Error::Cancelled`] when `stopped` says so.
    pub fn encode_until(&self, items: &[PixelPatches], stopped: &(dyn Fn() -> bool + Sync)) -> Result<Encoded> {
        self.encode_batches(items, &mut (), stopped)
    }

    fn encode_batches(
        &self,
        items: &[PixelPatches],
        probe: &mut dyn VisionProbe,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Encoded> {
        self.check(items)?;
        let (mut merged, mut deepstack) = (Vec::new(), vec![Vec::new(); self.merger_list.len()]);
        for batch in batches(items) {
            let (rows, features) = on_engine!(self.engine, |e| self.batch(e, items, &batch, &mut *probe, stopped))?;
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
        let refuse = |reason: String| Err(Error::media("picture", reason));
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

    /// Encodes a batch of frames, from patches to finished rows.
    fn batch<E: Engine>(
        &self,
        e: &E,
        items: &[PixelPatches],
        batch: &[Frame],
        probe: &mut dyn VisionProbe,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Rows> {
        let lengths: Vec<usize> = batch.iter().map(Frame::patches).collect();
        let patches: Vec<Tensor<2>> = batch.iter().map(|frame| frame.of(items)).collect();
        let mut x = e.rows(&patches.iter().collect::<Vec<_>>());
        let [x] = e.linear(&mut x, [&self.patch_embed]); // [P, D]
        let [cos, sin] = self.rotation_tables(batch);
        if probe.is_active() {
            self.show_inputs(e, &x, batch, [&cos, &sin], probe);
        }
        let count = lengths.iter().sum();
        let rotation = e.rotation([cos, sin], count);
        let mut x = e.add_weighted(x, &self.pos_embed.table, &self.corners(batch));
        let mut features = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            // A large picture takes seconds in each.
            if stopped() {
                return Err(Error::Cancelled);
            }
            x = block.forward(e, x, &rotation, &lengths);
            if probe.is_active() {
                probe.block(index, &e.tensor(&x, 0..count));
            }
            // Features are in the order of the layers; a layer's place in the config decides which merger makes its feature.
            if let Some(at) = self.config.deepstack_visual_indexes.iter().position(|tapped| *tapped == index) {
                let copy = e.select(&x, &(0..count).collect::<Vec<_>>());
                features.push(finished(e, self.merger_list[at].forward(e, copy)));
            }
        }
        Ok((finished(e, self.merger.forward(e, x)), features))
    }

    /// Shows patches, positions and rotation of a batch.
    fn show_inputs<E: Engine>(
        &self,
        e: &E,
        x: &E::Rows,
        batch: &[Frame],
        tables: [&[f32]; 2],
        probe: &mut dyn VisionProbe,
    ) {
        let lengths: Vec<usize> = batch.iter().map(Frame::patches).collect();
        let (count, width) = (lengths.iter().sum::<usize>(), self.config.hidden_size);
        let device = e.tensor(x, 0..1).device();
        let zero = e.rows(&[&Tensor::zeros([count, width], &device)]);
        let positions = e.add_weighted(zero, &self.pos_embed.table, &self.corners(batch));
        probe.embedded(&e.tensor(x, 0..count), &e.tensor(&positions, 0..count), &lengths);
        let [cos, sin] = tables.map(|half| {
            let turns = half.chunks_exact(self.head_dim() / 2);
            let values: Vec<f32> = turns.flat_map(|half| [half, half].concat()).collect();
            Tensor::<3>::from_data(TensorData::new(values, [count, 1, self.head_dim()]), &device)
        });
        probe.rotary(&cos, &sin);
    }

    /// The rows of the position table around each patch of a batch, with their weights.
    fn corners(&self, batch: &[Frame]) -> Vec<[WeightedRow; 4]> {
        let runs = batch.chunk_by(|a, b| a.size == b.size);
        runs.flat_map(|run| self.pos_embed.corners(run[0].size, self.config.spatial_merge_size).repeat(run.len()))
            .collect()
    }

    /// Cosines and sines `[P, Dh / 2]` of the rotation of the frames of a batch.
    fn rotation_tables(&self, batch: &[Frame]) -> [Vec<f32>; 2] {
        let [mut all_cos, mut all_sin] = [Vec::new(), Vec::new()];
        for run in batch.chunk_by(|a, b| a.size == b.size) {
            let [cos, sin] = rotation_tables(run[0].size, self.config.spatial_merge_size, self.head_dim());
            all_cos.extend(cos.repeat(run.len()));
            all_sin.extend(sin.repeat(run.len()));
        }
        [all_cos, all_sin]
    }

    fn head_dim(&self) -> usize {
        self.config.hidden_size / self.config.num_heads
    }
}

/// All rows as a tensor, for another crate.
fn finished<E: Engine>(e: &E, x: E::Rows) -> Tensor<2> {
    let rows = e.shape(&x)[0];
    e.tensor(&x, 0..rows)
}

/// Loads the patch embedding. A convolution whose kernel is its stride is a linear layer over each patch:
/// `[D, colours, frames, side, side]` flattened.
fn patch_embed(weights: &Weights, config: &VisionConfig) -> Result<Linear> {
    let (width, side) = (config.hidden_size, config.patch_size);
    Linear::load(weights, [width, config.in_channels, config.temporal_patch_size, side, side], true)
}

/// Splits the frames of all items into batches of a bounded number of patches.
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
