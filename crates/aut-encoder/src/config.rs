use checkpoint::{ConfigFault, ConfigSection};
use nn::VariantKeys;
use omni_core::{Error, Result};
use serde::Deserialize;

/// `audio_config`, of the AuT encoder.
#[derive(Debug, Clone, Deserialize)]
pub struct AudioConfig {
    /// Width `D`.
    pub d_model: usize,
    /// Number of layers.
    pub encoder_layers: usize,
    /// Attention heads `H`.
    pub encoder_attention_heads: usize,
    /// Inner width of a layer's MLP.
    pub encoder_ffn_dim: usize,
    /// Mel bins `M`.
    pub num_mel_bins: usize,
    /// Channels of the convolution stem.
    pub downsample_hidden_size: usize,
    /// Half a chunk, in mel frames.
    #[serde(default = "fifty")]
    pub n_window: usize,
    /// Attention window at inference, in mel frames.
    pub n_window_infer: usize,
    /// Rows of the sinusoid table.
    pub max_source_positions: usize,
    /// Width of the rows handed to the thinker.
    pub output_dim: usize,
    #[serde(flatten)]
    variant: VariantKeys,
}

fn fifty() -> usize {
    50
}

impl ConfigSection for AudioConfig {
    const SECTION: &'static str = "thinker_config.audio_config";

    fn validate(&self) -> std::result::Result<(), ConfigFault> {
        let at = Self::SECTION;
        let sizes = [
            ("d_model", self.d_model),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("downsample_hidden_size", self.downsample_hidden_size),
            ("n_window_infer", self.n_window_infer),
            ("max_source_positions", self.max_source_positions),
            ("output_dim", self.output_dim),
        ];
        ConfigFault::unless_sizes(at, &sizes)?;
        let counts =
            [("encoder_layers", self.encoder_layers), ("encoder_attention_heads", self.encoder_attention_heads)];
        ConfigFault::unless_counts(at, &counts)?;
        self.variant.validate("gelu", at)?;
        let (width, heads) = (self.d_model, self.encoder_attention_heads);
        ConfigFault::unless(width.is_multiple_of(heads) && width.is_multiple_of(2), at, || {
            format!("d_model {width} cannot be split into {heads} heads and two halves")
        })?;
        // The reference counts 13 rows for a chunk of `2 * n_window` frames, so the stem must make as many of it.
        ConfigFault::unless((49..=52).contains(&self.n_window), at, || {
            format!("n_window is {}, expected 49 to 52", self.n_window)
        })?;
        ConfigFault::unless(self.num_mel_bins == 128, at, || {
            format!("num_mel_bins is {}, expected 128", self.num_mel_bins)
        })
    }
}

impl AudioConfig {
    /// Log-mel frames of one chunk: the stem's convolutions and the positions start afresh in each.
    pub fn chunk_frames(&self) -> usize {
        2 * self.n_window
    }

    /// Number of rows the encoder makes of `mel_frames` mel frames: 13 for each whole chunk, three halvings (rounding up) for the
    /// rest.
    pub fn tokens(&self, mel_frames: usize) -> usize {
        // The reference fixes 13 rows per chunk, which fits the released chunk of 100 frames.
        const PER_CHUNK: usize = 13;
        let chunk = self.chunk_frames();
        let rest = (0..3).fold(mel_frames % chunk, |n, _| n.div_ceil(2));
        rest + mel_frames / chunk * PER_CHUNK
    }
}

/// Mel frames per second.
pub const MEL_PER_SECOND: usize = 100;

/// Attention windows the model was trained with, in seconds.
const SECONDS: std::ops::RangeInclusive<usize> = 1..=8;

/// Number of chunks in an attention window of `seconds` seconds.
pub(crate) fn window_chunks(config: &AudioConfig, seconds: usize) -> Result<usize> {
    if !SECONDS.contains(&seconds) {
        let reason = format!("an attention window of {seconds} seconds: the audio encoder was trained with 1 to 8");
        return Err(Error::Request(reason));
    }
    Ok((seconds * MEL_PER_SECOND / config.chunk_frames()).max(1))
}
