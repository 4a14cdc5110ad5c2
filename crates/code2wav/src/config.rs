use checkpoint::{ConfigFault, ConfigSection};
use nn::{RopeKeys, VariantKeys, validate_heads};
use serde::Deserialize;

/// `code2wav_config`, of the vocoder.
#[derive(Debug, Clone, Deserialize)]
pub struct Code2WavConfig {
    /// Codes per codebook.
    pub codebook_size: usize,
    /// Codebooks `Q`.
    pub num_quantizers: usize,
    /// Width of the transformer.
    pub hidden_size: usize,
    /// Layers of the transformer.
    pub num_hidden_layers: usize,
    /// Query heads `H`.
    pub num_attention_heads: usize,
    /// Key/value heads `K`.
    pub num_key_value_heads: usize,
    head_dim: Option<usize>,
    /// Inner width of a layer's MLP.
    pub intermediate_size: usize,
    /// Number of frames that a frame attends to, itself included.
    pub sliding_window: usize,
    /// `eps` of RMSNorm, added to the mean square.
    pub rms_norm_eps: f64,
    /// Factors of the upsampling stages before the decoder.
    pub upsampling_ratios: Vec<usize>,
    /// Factors of the decoder blocks.
    pub upsample_rates: Vec<usize>,
    /// Channels at the decoder's input; halved by each block.
    pub decoder_dim: usize,
    #[serde(flatten)]
    rope: RopeKeys,
    #[serde(flatten)]
    variant: VariantKeys,
}

impl ConfigSection for Code2WavConfig {
    const SECTION: &'static str = "code2wav_config";

    fn validate(&self) -> Result<(), ConfigFault> {
        let at = Self::SECTION;
        let sizes = [
            ("codebook_size", self.codebook_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("decoder_dim", self.decoder_dim),
            ("sliding_window", self.sliding_window),
        ];
        ConfigFault::unless_sizes(at, &sizes)?;
        ConfigFault::unless_eps(at, "rms_norm_eps", self.rms_norm_eps)?;
        let counts = [
            ("num_quantizers", self.num_quantizers),
            // A vocoder without transformer layers is one.
            ("num_hidden_layers", self.num_hidden_layers.max(1)),
            ("num_attention_heads", self.num_attention_heads),
        ];
        ConfigFault::unless_counts(at, &counts)?;
        validate_heads(self.num_attention_heads, self.num_key_value_heads, at)?;
        self.variant.validate("silu", at)?;
        self.rope.validate(self.head_dim(), at)?;
        let samples = product(self.upsampling_ratios.iter().chain(&self.upsample_rates));
        ConfigFault::unless(samples.is_some_and(|samples| samples <= MOST_SAMPLES_PER_FRAME), at, || {
            format!(
                "upsampling_ratios and upsample_rates multiply to more than {MOST_SAMPLES_PER_FRAME} samples per frame"
            )
        })?;
        // Each decoder block holds back one step of its input, so a first frame of one step would give no samples.
        ConfigFault::unless(product(&self.upsampling_ratios).is_some_and(|steps| steps >= 2), at, || {
            "upsampling_ratios multiply to less than 2".into()
        })?;
        ConfigFault::unless(self.upsample_rates.iter().all(|r| *r >= 2), at, || "an upsample_rate is below 2".into())?;
        let halvings = self.upsample_rates.len() as u32;
        let divisor = 2usize.checked_pow(halvings);
        ConfigFault::unless(divisor.is_some_and(|divisor| self.decoder_dim.is_multiple_of(divisor)), at, || {
            format!("decoder_dim {} cannot be halved {halvings} times", self.decoder_dim)
        })
    }
}

/// Most samples of one codec frame; the released vocoder makes 1,920.
const MOST_SAMPLES_PER_FRAME: usize = 1 << 20;

fn product<'a>(factors: impl IntoIterator<Item = &'a usize>) -> Option<usize> {
    factors.into_iter().try_fold(1, |product: usize, factor| product.checked_mul(*factor))
}

impl Code2WavConfig {
    /// Width of a head `Dh`.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Base of the RoPE frequencies.
    pub fn rope_theta(&self) -> f64 {
        self.rope.theta()
    }

    /// Number of samples per codec frame.
    pub fn samples_per_frame(&self) -> usize {
        self.upsampling_ratios.iter().chain(&self.upsample_rates).product()
    }
}
