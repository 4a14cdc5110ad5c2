use burn::tensor::Tensor;
use checkpoint::{ConfigFault, ConfigSection};
use nn::VariantKeys;
use serde::Deserialize;

/// `vision_config`, of the vision encoder.
#[derive(Debug, Clone, Deserialize)]
pub struct VisionConfig {
    /// Number of blocks.
    pub depth: usize,
    /// Width `D`.
    pub hidden_size: usize,
    /// Attention heads `H`.
    pub num_heads: usize,
    /// Inner width of a block's MLP.
    pub intermediate_size: usize,
    /// Rows of the learned position table; a square number.
    pub num_position_embeddings: usize,
    /// Indices of the blocks after which deepstack features are taken.
    pub deepstack_visual_indexes: Vec<usize>,
    /// Width of the rows handed to the thinker.
    pub out_hidden_size: usize,
    /// Colour channels.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames per patch.
    pub temporal_patch_size: usize,
    /// Side of the square of patches that are merged into one row.
    pub spatial_merge_size: usize,
    #[serde(flatten)]
    variant: VariantKeys,
}

fn three() -> usize {
    3
}

impl ConfigSection for VisionConfig {
    const SECTION: &'static str = "thinker_config.vision_config";

    fn validate(&self) -> Result<(), ConfigFault> {
        let at = Self::SECTION;
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_position_embeddings", self.num_position_embeddings),
            ("out_hidden_size", self.out_hidden_size),
        ];
        ConfigFault::unless_sizes(at, &sizes)?;
        let counts = [
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("patch_size", self.patch_size),
            ("temporal_patch_size", self.temporal_patch_size),
            ("spatial_merge_size", self.spatial_merge_size),
        ];
        ConfigFault::unless_counts(at, &counts)?;
        self.variant.validate("gelu_pytorch_tanh", at)?;
        let (width, heads, cells) = (self.hidden_size, self.num_heads, self.num_position_embeddings);
        ConfigFault::unless(width.is_multiple_of(heads) && (width / heads).is_multiple_of(4), at, || {
            format!("hidden_size {width} cannot be split into {heads} heads whose width is a multiple of 4")
        })?;
        ConfigFault::unless(cells.isqrt().pow(2) == cells, at, || {
            format!("num_position_embeddings is {cells}, expected a square number")
        })?;
        ConfigFault::unless(self.in_channels == 3, at, || {
            format!("in_channels is {}, expected 3 colours", self.in_channels)
        })?;
        let indexes = &self.deepstack_visual_indexes;
        let good = |(i, index): (usize, &usize)| *index < self.depth && !indexes[..i].contains(index);
        ConfigFault::unless(indexes.iter().enumerate().all(good), at, || {
            format!("deepstack_visual_indexes {indexes:?}: expected different blocks below {}", self.depth)
        })
    }
}

/// The patches of one image or video.
#[derive(Debug, Clone)]
pub struct PixelPatches {
    /// `[P, colours * frames * side * side]`, in merge-block order.
    pub patches: Tensor<2>,
    /// Number of patches along time, height and width `(t, h, w)`.
    pub grid: [usize; 3],
    /// Seconds from one time step to the next; 0 for a picture.
    pub seconds_per_step: f32,
}

/// `eps` of LayerNorm in every block and merger.
pub(crate) const EPS: f64 = 1e-6;
