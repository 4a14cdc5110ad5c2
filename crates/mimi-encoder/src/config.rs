use checkpoint::{ConfigFault, ConfigSection};
use nn::{RopeKeys, VariantKeys, validate_heads};
use serde::Deserialize;

/// `config.json` of a Mimi checkpoint, as far as the encoder reads it.
#[derive(Debug, Clone, Deserialize)]
pub struct MimiConfig {
    model_type: String,
    /// Samples per second.
    pub sampling_rate: usize,
    /// Channels of sound; only 1 is known.
    #[serde(default = "one")]
    pub audio_channels: usize,
    /// Width of transformer and latents.
    pub hidden_size: usize,
    /// Channels after the first convolution; doubled by each downsampling.
    pub num_filters: usize,
    /// Residual units before each downsampling.
    pub num_residual_layers: usize,
    /// Factors of the decoder's upsampling; the encoder downsamples by them in reverse order.
    pub upsampling_ratios: Vec<usize>,
    /// Kernel of the first convolution.
    pub kernel_size: usize,
    /// Kernel of the last convolution before the transformer.
    pub last_kernel_size: usize,
    /// Kernel of a residual unit's first convolution.
    pub residual_kernel_size: usize,
    /// Factor by which the dilation grows from one residual unit to the next.
    pub dilation_growth_rate: usize,
    /// Channels of a residual unit divided by those inside it.
    pub compress: usize,
    #[serde(default = "yes")]
    use_causal_conv: bool,
    #[serde(default)]
    pad_mode: PadMode,
    /// Whether the residual connection of a unit has a convolution of its own.
    #[serde(default)]
    pub use_conv_shortcut: bool,
    /// Codes per codebook.
    pub codebook_size: usize,
    /// Width of a codebook's vectors.
    pub codebook_dim: usize,
    /// Width that latents are projected to before they are quantised; only `codebook_dim` is known.
    pub vector_quantization_hidden_dimension: usize,
    /// Codebooks `Q`.
    pub num_quantizers: usize,
    /// Number of codebooks, the first ones, of the semantic quantiser.
    #[serde(default = "one")]
    pub num_semantic_quantizers: usize,
    /// Layers of the transformer.
    pub num_hidden_layers: usize,
    /// Inner width of a layer's MLP.
    pub intermediate_size: usize,
    /// Query heads `H`.
    pub num_attention_heads: usize,
    /// Key/value heads `K`.
    pub num_key_value_heads: usize,
    head_dim: Option<usize>,
    /// `eps` of LayerNorm, added to the variance.
    pub norm_eps: f64,
    /// Number of steps that a step of the transformer attends to, itself included.
    pub sliding_window: usize,
    frame_rate: Option<f64>,
    /// The name under which transformers 5 saves `frame_rate`.
    _frame_rate: Option<f64>,
    #[serde(flatten)]
    rope: RopeKeys,
    #[serde(flatten)]
    variant: VariantKeys,
}

/// What stands before the first and after the last input of a convolution of the SEANet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PadMode {
    /// Zeros.
    #[default]
    Constant,
    /// The first and the last input.
    Replicate,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

/// Where faults of the file as a whole are said to be.
const AT: &str = ".";
/// Most samples of one codec frame; the released model takes 1,920.
const MOST_SAMPLES_PER_FRAME: usize = 1 << 20;
/// Greatest dilation and stride.
const MOST_STEPS: usize = 1 << 12;

impl ConfigSection for MimiConfig {
    const SECTION: &'static str = "";

    fn validate(&self) -> Result<(), ConfigFault> {
        self.validate_kind()?;
        self.validate_sizes()?;
        self.validate_convolutions()?;
        self.validate_transformer()?;
        self.validate_quantizer()?;
        self.validate_rates()
    }
}

impl MimiConfig {
    fn validate_kind(&self) -> Result<(), ConfigFault> {
        let kind = &self.model_type;
        ConfigFault::unless(kind == "mimi", AT, || format!("model_type is `{kind}`, expected `mimi`"))?;
        ConfigFault::unless(self.use_causal_conv, AT, || "use_causal_conv is false, only true is known".into())?;
        ConfigFault::unless(self.audio_channels == 1, AT, || {
            format!("audio_channels is {}, only 1 is known", self.audio_channels)
        })
    }

    fn validate_sizes(&self) -> Result<(), ConfigFault> {
        let sizes = [
            ("sampling_rate", self.sampling_rate),
            ("hidden_size", self.hidden_size),
            ("num_filters", self.num_filters),
            ("intermediate_size", self.intermediate_size),
            ("codebook_size", self.codebook_size),
            ("codebook_dim", self.codebook_dim),
            ("sliding_window", self.sliding_window),
        ];
        ConfigFault::unless_sizes(AT, &sizes)?;
        let counts = [
            ("kernel_size", self.kernel_size),
            ("last_kernel_size", self.last_kernel_size),
            ("residual_kernel_size", self.residual_kernel_size),
            ("dilation_growth_rate", self.dilation_growth_rate),
            ("compress", self.compress),
            ("num_quantizers", self.num_quantizers),
            ("num_attention_heads", self.num_attention_heads),
            // An encoder without residual units, or without transformer layers, is one.
            ("num_residual_layers", self.num_residual_layers.max(1)),
            ("num_hidden_layers", self.num_hidden_layers.max(1)),
        ];
        ConfigFault::unless_counts(AT, &counts)
    }

    fn validate_convolutions(&self) -> Result<(), ConfigFault> {
        let last = self.num_residual_layers.saturating_sub(1) as u32;
        let dilation = self.dilation_growth_rate.checked_pow(last);
        ConfigFault::unless(dilation.is_some_and(|dilation| dilation <= MOST_STEPS), AT, || {
            format!("dilation_growth_rate and num_residual_layers make a dilation above {MOST_STEPS}")
        })?;
        ConfigFault::unless(self.num_filters >= self.compress, AT, || {
            format!("num_filters {} cannot be divided by compress {}", self.num_filters, self.compress)
        })?;
        let doublings = u32::try_from(self.upsampling_ratios.len()).unwrap_or(u32::MAX);
        let widest = 2usize.checked_pow(doublings).and_then(|factor| factor.checked_mul(self.num_filters));
        ConfigFault::unless(widest.is_some_and(|widest| widest <= 1 << 24), AT, || {
            format!("num_filters {} cannot be doubled {doublings} times", self.num_filters)
        })
    }

    fn validate_transformer(&self) -> Result<(), ConfigFault> {
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        ConfigFault::unless(width.is_multiple_of(heads), AT, || {
            format!("hidden_size {width} cannot be split into {heads} heads")
        })?;
        validate_heads(heads, self.num_key_value_heads, AT)?;
        ConfigFault::unless_eps(AT, "norm_eps", self.norm_eps)?;
        self.variant.validate("gelu", AT)?;
        self.rope.validate(self.head_dim(), AT)
    }

    fn validate_quantizer(&self) -> Result<(), ConfigFault> {
        let (all, semantic) = (self.num_quantizers, self.num_semantic_quantizers);
        ConfigFault::unless((1..all).contains(&semantic), AT, || {
            format!("num_semantic_quantizers is {semantic}, expected at least 1 and fewer than num_quantizers, {all}")
        })?;
        let (found, expected) = (self.vector_quantization_hidden_dimension, self.codebook_dim);
        ConfigFault::unless(found == expected, AT, || {
            format!("vector_quantization_hidden_dimension is {found}, only codebook_dim, {expected}, is known")
        })
    }

    fn validate_rates(&self) -> Result<(), ConfigFault> {
        let ratios = &self.upsampling_ratios;
        ConfigFault::unless(!ratios.is_empty() && !ratios.contains(&0), AT, || {
            format!("upsampling_ratios are {ratios:?}, expected one or more, each at least 1")
        })?;
        let hop = ratios.iter().try_fold(1, |hop: usize, ratio| hop.checked_mul(*ratio));
        ConfigFault::unless(hop.is_some_and(|hop| hop <= MOST_SAMPLES_PER_FRAME), AT, || {
            format!("upsampling_ratios multiply to more than {MOST_SAMPLES_PER_FRAME}")
        })?;
        // The reference fails without a last downsampling.
        let (stride, rate) = (self.downsampling(), self.frame_rate());
        ConfigFault::unless((2..=MOST_STEPS).contains(&stride), AT, || {
            let steps = self.steps_per_second();
            format!("frame_rate is {rate}, expected more than 0 and at most half of {steps} steps per second")
        })
    }

    /// Samples per step of the transformer.
    fn hop(&self) -> usize {
        self.upsampling_ratios.iter().product()
    }

    /// Steps of the transformer per second, rounded up as in the reference.
    fn steps_per_second(&self) -> usize {
        self.sampling_rate.div_ceil(self.hop())
    }

    /// Steps of the transformer per codec frame.
    pub(crate) fn downsampling(&self) -> usize {
        match self.frame_rate.or(self._frame_rate) {
            Some(rate) => (self.steps_per_second() as f64 / rate) as usize,
            None => 2,
        }
    }

    /// Codec frames per second.
    pub fn frame_rate(&self) -> f64 {
        let computed = || self.sampling_rate as f64 / self.samples_per_frame() as f64;
        self.frame_rate.or(self._frame_rate).unwrap_or_else(computed)
    }

    /// Samples per codec frame.
    pub fn samples_per_frame(&self) -> usize {
        self.hop() * self.downsampling()
    }

    /// Width of a head `Dh`.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Base of the RoPE frequencies.
    pub fn rope_theta(&self) -> f64 {
        self.rope.theta()
    }

    pub(crate) fn pad_mode(&self) -> PadMode {
        self.pad_mode
    }
}
