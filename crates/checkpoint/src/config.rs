//! `config.json`, in the key style of the released files and in the one transformers 5 writes.
//!
//! Keys that nothing reads are left out; missing optional keys take the reference's defaults.

use std::collections::BTreeMap;
use std::path::Path;

use omni_core::Error;
use rope_keys::Rope;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{CheckpointError, Component};

/// The last ids of the talker's vocabulary are controls, never codes. The reference has this number in its code.
pub const CONTROL_CODES: usize = 1024;

/// The whole `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct OmniConfig {
    /// Number type of the weights, as the file names it.
    #[serde(alias = "torch_dtype")]
    pub dtype: Option<String>,
    /// False for the Thinking and Captioner variants: no talker, no vocoder.
    #[serde(default = "yes")]
    pub enable_audio_output: bool,
    /// Token that names the assistant's turns.
    pub assistant_token_id: u32,
    /// Token that names the user's turns.
    pub user_token_id: u32,
    /// Token that names system turns.
    pub system_token_id: Option<u32>,
    /// Opens a turn.
    pub im_start_token_id: u32,
    /// Closes a turn; the text's end token.
    pub im_end_token_id: u32,
    /// Text side of the talker's positions that have no text.
    pub tts_pad_token_id: u32,
    /// Opens the talker's text.
    pub tts_bos_token_id: u32,
    /// Closes the talker's text.
    pub tts_eos_token_id: u32,
    /// The thinker with its encoders.
    #[serde(rename = "thinker_config")]
    pub thinker: ThinkerConfig,
    /// The talker with its code predictor.
    #[serde(rename = "talker_config")]
    pub talker: Option<TalkerConfig>,
    /// The vocoder.
    #[serde(rename = "code2wav_config")]
    pub code2wav: Option<Code2WavConfig>,
}

/// `thinker_config`.
#[derive(Debug, Clone, Deserialize)]
pub struct ThinkerConfig {
    /// Stands for one row of sound in the prompt.
    pub audio_token_id: u32,
    /// Stands for one row of a picture.
    pub image_token_id: u32,
    /// Stands for one row of a video.
    pub video_token_id: u32,
    /// Opens sound.
    pub audio_start_token_id: u32,
    /// Closes sound; only sound in video needs it, elsewhere the chat template writes it.
    pub audio_end_token_id: Option<u32>,
    /// Opens a picture or video.
    pub vision_start_token_id: u32,
    /// Positions per second of sound and video.
    #[serde(default = "thirteen")]
    pub position_id_per_seconds: f32,
    /// The audio encoder.
    #[serde(rename = "audio_config")]
    pub audio: AudioConfig,
    /// The vision encoder.
    #[serde(rename = "vision_config")]
    pub vision: VisionConfig,
    /// The language model.
    #[serde(rename = "text_config")]
    pub text: DecoderConfig,
}

/// `audio_config`: the AuT encoder.
#[derive(Debug, Clone, Deserialize)]
pub struct AudioConfig {
    /// Width.
    pub d_model: usize,
    /// Layers.
    pub encoder_layers: usize,
    /// Heads.
    pub encoder_attention_heads: usize,
    /// Width between the two linear layers of a block.
    pub encoder_ffn_dim: usize,
    /// Mel bands.
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
}

/// `vision_config`: the vision encoder.
#[derive(Debug, Clone, Deserialize)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Width.
    pub hidden_size: usize,
    /// Heads.
    pub num_heads: usize,
    /// Width between the two linear layers of a block.
    pub intermediate_size: usize,
    /// Cells of the learned position table; a square number.
    pub num_position_embeddings: usize,
    /// Blocks after which deepstack features are taken.
    pub deepstack_visual_indexes: Vec<usize>,
    /// Width of the rows handed to the thinker.
    pub out_hidden_size: usize,
    /// Colours.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames per patch.
    pub temporal_patch_size: usize,
    /// Patches per side of a merged row.
    pub spatial_merge_size: usize,
}

/// `text_config` of the thinker or the talker: a decoder with mixture-of-experts layers.
#[derive(Debug, Clone, Deserialize)]
pub struct DecoderConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width `D`.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads `H`.
    pub num_attention_heads: usize,
    /// Key/value heads `K`.
    pub num_key_value_heads: usize,
    /// Width of a head `Dh`.
    pub head_dim: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Positions the model was made for.
    pub max_position_embeddings: usize,
    /// Width of a dense layer's feed-forward part, and of the talker's projections.
    pub intermediate_size: usize,
    /// Width of one expert.
    pub moe_intermediate_size: usize,
    /// Experts `E`; see [`DecoderConfig::experts`].
    num_experts: Option<usize>,
    num_local_experts: Option<usize>,
    /// Experts per token.
    pub num_experts_per_tok: usize,
    /// Whether the chosen experts' weights are made to add up to 1; see [`DecoderConfig::normalise_top_k`].
    norm_topk_prob: Option<bool>,
    /// Every how many layers one has experts.
    #[serde(default = "one")]
    pub decoder_sparse_step: usize,
    /// Layers that are dense all the same.
    #[serde(default)]
    pub mlp_only_layers: Vec<usize>,
    /// Width of the expert every token passes through; 0 for none.
    #[serde(default)]
    pub shared_expert_intermediate_size: usize,
    #[serde(flatten)]
    rope: Rope,
}

/// `code_predictor_config`: a small dense decoder.
#[derive(Debug, Clone, Deserialize)]
pub struct CodePredictorConfig {
    /// Codes of one codebook.
    pub vocab_size: usize,
    /// Width `D`.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads `H`.
    pub num_attention_heads: usize,
    /// Key/value heads `K`.
    pub num_key_value_heads: usize,
    /// Width of a head `Dh`.
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Codebooks `Q`, the first included.
    pub num_code_groups: usize,
    #[serde(flatten)]
    rope: Rope,
}

/// `talker_config`.
#[derive(Debug, Clone, Deserialize)]
pub struct TalkerConfig {
    /// The thinker's layer whose output the talker reads at media rows.
    pub accept_hidden_layer: usize,
    /// Codebooks `Q`.
    pub num_code_groups: usize,
    /// Width of the thinker.
    pub thinker_hidden_size: usize,
    /// Codec side of the text's opening position.
    pub codec_pad_id: u32,
    /// Codec side of the first text token.
    pub codec_bos_id: u32,
    /// Ends the speech.
    pub codec_eos_token_id: u32,
    /// First control code of the codec side.
    pub codec_nothink_id: u32,
    /// Second control code of the codec side.
    pub codec_think_bos_id: u32,
    /// Third control code of the codec side.
    pub codec_think_eos_id: u32,
    /// Voices, by lower-case name.
    pub speaker_id: BTreeMap<String, u32>,
    /// The talker's decoder.
    #[serde(rename = "text_config")]
    pub text: DecoderConfig,
    /// The code predictor.
    #[serde(rename = "code_predictor_config")]
    pub code_predictor: CodePredictorConfig,
}

/// `code2wav_config`.
#[derive(Debug, Clone, Deserialize)]
pub struct Code2WavConfig {
    /// Codes of one codebook.
    pub codebook_size: usize,
    /// Codebooks `Q`.
    pub num_quantizers: usize,
    /// Width of the transformer.
    pub hidden_size: usize,
    /// Layers of the transformer.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Key/value heads.
    pub num_key_value_heads: usize,
    head_dim: Option<usize>,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Frames a frame sees, itself included.
    pub sliding_window: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Factors of the upsampling stages before the decoder.
    pub upsampling_ratios: Vec<usize>,
    /// Factors of the decoder blocks.
    pub upsample_rates: Vec<usize>,
    /// Channels at the decoder's entrance; halved by each block.
    pub decoder_dim: usize,
    #[serde(flatten)]
    rope: Rope,
}

mod rope_keys {
    use serde::Deserialize;

    /// The rotation keys in both styles.
    #[derive(Debug, Clone, Deserialize)]
    pub(super) struct Rope {
        rope_theta: Option<f64>,
        rope_scaling: Option<Parameters>,
        rope_parameters: Option<Parameters>,
    }

    #[derive(Debug, Clone, Deserialize)]
    struct Parameters {
        rope_theta: Option<f64>,
        mrope_section: Option<[usize; 3]>,
        rope_type: Option<String>,
    }

    impl Rope {
        pub(super) fn theta(&self) -> Option<f64> {
            self.rope_theta.or_else(|| self.parameters()?.rope_theta)
        }

        pub(super) fn section(&self) -> Option<[usize; 3]> {
            self.parameters()?.mrope_section
        }

        pub(super) fn kind(&self) -> Option<&str> {
            self.parameters()?.rope_type.as_deref()
        }

        fn parameters(&self) -> Option<&Parameters> {
            self.rope_parameters.as_ref().or(self.rope_scaling.as_ref())
        }
    }
}

fn yes() -> bool {
    true
}
fn thirteen() -> f32 {
    13.0
}
fn fifty() -> usize {
    50
}
fn three() -> usize {
    3
}
fn one() -> usize {
    1
}

impl OmniConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`CheckpointError::Json`] naming the key that is missing or wrong.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let config: Self = read_json(path)?;
        config.validate().map_err(|(at, reason)| CheckpointError::Json { path: path.to_owned(), at, reason })?;
        Ok(config)
    }

    /// The talker's config.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] for a checkpoint without audio output.
    pub fn talker(&self) -> omni_core::Result<&TalkerConfig> {
        self.talker.as_ref().filter(|_| self.enable_audio_output).ok_or_else(no_speech)
    }

    /// The vocoder's config.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] for a checkpoint without audio output.
    pub fn code2wav(&self) -> omni_core::Result<&Code2WavConfig> {
        self.code2wav.as_ref().filter(|_| self.enable_audio_output).ok_or_else(no_speech)
    }

    fn validate(&self) -> Result<(), (String, String)> {
        self.thinker.text.validate("thinker_config.text_config")?;
        self.thinker.validate_encoders()
    }

    /// Whether the config, read from `path`, has what these parts need.
    pub(crate) fn check_parts(&self, components: &[Component], path: &Path) -> Result<(), CheckpointError> {
        let speech = [Component::Talker, Component::CodePredictor, Component::Code2Wav];
        if !self.enable_audio_output || !speech.iter().any(|part| components.contains(part)) {
            return Ok(());
        }
        self.validate_speech().map_err(|(at, reason)| CheckpointError::Json { path: path.to_owned(), at, reason })
    }

    /// Whether the parts that speak can be loaded; a text-only load does not ask.
    fn validate_speech(&self) -> Result<(), (String, String)> {
        let needed = |key: &str| (key.to_owned(), "missing, but `enable_audio_output` is true".to_owned());
        let talker = self.talker.as_ref().ok_or_else(|| needed("talker_config"))?;
        let code2wav = self.code2wav.as_ref().ok_or_else(|| needed("code2wav_config"))?;
        talker.validate(&self.thinker.text)?;
        code2wav.validate(talker)
    }
}

fn no_speech() -> Error {
    Error::NotLoaded("this checkpoint has no talker and no vocoder (`enable_audio_output` is false): text only".into())
}

fn check(good: bool, at: &str, reason: impl FnOnce() -> String) -> Result<(), (String, String)> {
    if good { Ok(()) } else { Err((at.to_owned(), reason())) }
}

/// Sizes that must not be zero.
fn check_positive(at: &str, sizes: &[(&str, usize)]) -> Result<(), (String, String)> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => Err((at.to_owned(), format!("{name} is 0, expected at least 1"))),
        None => Ok(()),
    }
}

fn check_rope(rope: &Rope, head_dim: usize, at: &str) -> Result<(), (String, String)> {
    check(rope.theta().is_some(), at, || "missing field `rope_theta` (or `rope_parameters.rope_theta`)".into())?;
    check(head_dim.is_multiple_of(2) && head_dim > 0, at, || {
        format!("head_dim is {head_dim}, expected an even number")
    })?;
    let kind = rope.kind().unwrap_or("default");
    check(kind == "default", at, || format!("rope_type is `{kind}`, only `default` is known"))?;
    let section = rope.section().map_or(head_dim / 2, |s| s.iter().sum());
    check(section == head_dim / 2, at, || format!("mrope_section adds up to {section}, expected {}", head_dim / 2))
}

fn check_heads(heads: usize, kv_heads: usize, at: &str) -> Result<(), (String, String)> {
    check(kv_heads > 0 && heads.is_multiple_of(kv_heads), at, || {
        format!("{heads} query heads cannot be shared by {kv_heads} key/value heads")
    })
}

impl DecoderConfig {
    /// Experts `E`.
    pub fn experts(&self) -> usize {
        self.num_experts.or(self.num_local_experts).unwrap_or(0)
    }

    /// Whether the chosen experts' weights add up to 1. `default` is the reference class's own.
    pub fn normalise_top_k(&self, default: bool) -> bool {
        self.norm_topk_prob.unwrap_or(default)
    }

    /// Base of the rotation frequencies.
    pub fn rope_theta(&self) -> f64 {
        self.rope.theta().expect("checked when the config was read")
    }

    /// Frequencies per axis.
    pub fn rope_section(&self) -> Option<[usize; 3]> {
        self.rope.section()
    }

    /// Whether layer `index` has experts.
    pub fn is_sparse(&self, index: usize) -> bool {
        !self.mlp_only_layers.contains(&index)
            && self.experts() > 0
            && (index + 1).is_multiple_of(self.decoder_sparse_step.max(1))
    }

    fn validate(&self, at: &str) -> Result<(), (String, String)> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        check_positive(at, &sizes)?;
        let (experts, top_k) = (self.experts(), self.num_experts_per_tok);
        check(self.num_experts.or(self.num_local_experts).is_some(), at, || {
            "missing field `num_experts` (or `num_local_experts`)".into()
        })?;
        check(top_k > 0 && top_k <= experts, at, || {
            format!("num_experts_per_tok is {top_k}, expected 1 to {experts} (the number of experts)")
        })?;
        check_heads(self.num_attention_heads, self.num_key_value_heads, at)?;
        check_rope(&self.rope, self.head_dim, at)
    }
}

impl ThinkerConfig {
    /// Sizes of the encoders that the manifest and the positions are computed from.
    fn validate_encoders(&self) -> Result<(), (String, String)> {
        self.audio.validate("thinker_config.audio_config", self.text.hidden_size)?;
        self.vision.validate("thinker_config.vision_config", self.text.hidden_size)
    }
}

/// Encoders hand their rows to the thinker as they are.
fn check_output(at: &str, name: &str, width: usize, thinker: usize) -> Result<(), (String, String)> {
    check(width == thinker, at, || format!("{name} is {width}, expected the thinker's hidden_size {thinker}"))
}

impl VisionConfig {
    fn validate(&self, at: &str, thinker: usize) -> Result<(), (String, String)> {
        let sizes = [
            ("depth", self.depth),
            ("hidden_size", self.hidden_size),
            ("num_heads", self.num_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_position_embeddings", self.num_position_embeddings),
            ("patch_size", self.patch_size),
            ("temporal_patch_size", self.temporal_patch_size),
            ("spatial_merge_size", self.spatial_merge_size),
        ];
        check_positive(at, &sizes)?;
        check_output(at, "out_hidden_size", self.out_hidden_size, thinker)?;
        let (width, heads, cells) = (self.hidden_size, self.num_heads, self.num_position_embeddings);
        check(width.is_multiple_of(heads) && (width / heads).is_multiple_of(4), at, || {
            format!("hidden_size {width} cannot be split into {heads} heads whose width is a multiple of 4")
        })?;
        check(cells.isqrt().pow(2) == cells, at, || {
            format!("num_position_embeddings is {cells}, expected a square number")
        })?;
        check(self.in_channels == 3, at, || format!("in_channels is {}, expected 3 colours", self.in_channels))?;
        let indexes = &self.deepstack_visual_indexes;
        let good = |(i, index): (usize, &usize)| *index < self.depth && !indexes[..i].contains(index);
        check(indexes.iter().enumerate().all(good), at, || {
            format!("deepstack_visual_indexes {indexes:?}: expected different blocks below {}", self.depth)
        })
    }
}

impl AudioConfig {
    fn validate(&self, at: &str, thinker: usize) -> Result<(), (String, String)> {
        let sizes = [
            ("d_model", self.d_model),
            ("encoder_layers", self.encoder_layers),
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("downsample_hidden_size", self.downsample_hidden_size),
        ];
        check_positive(at, &sizes)?;
        check_output(at, "output_dim", self.output_dim, thinker)?;
        let (width, heads) = (self.d_model, self.encoder_attention_heads);
        check(width.is_multiple_of(heads) && width.is_multiple_of(2), at, || {
            format!("d_model {width} cannot be split into {heads} heads and two halves")
        })?;
        // A chunk of `2 * n_window` frames must give the 13 rows the reference counts for it.
        check((49..=52).contains(&self.n_window), at, || format!("n_window is {}, expected 49 to 52", self.n_window))?;
        check(self.num_mel_bins == 128, at, || format!("num_mel_bins is {}, expected 128", self.num_mel_bins))
    }

    /// Rows the encoder makes of so many mel frames: 13 for each whole chunk, three halvings (rounding up) for the rest.
    pub fn tokens(&self, mel_frames: usize) -> usize {
        // The reference fixes 13 rows per chunk, which fits the released chunk of 100 frames.
        const PER_CHUNK: usize = 13;
        let chunk = 2 * self.n_window;
        let rest = (0..3).fold(mel_frames % chunk, |n, _| n.div_ceil(2));
        rest + mel_frames / chunk * PER_CHUNK
    }
}

impl CodePredictorConfig {
    fn validate(&self, at: &str) -> Result<(), (String, String)> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
        ];
        check_positive(at, &sizes)?;
        check_heads(self.num_attention_heads, self.num_key_value_heads, at)?;
        check_rope(&self.rope, self.head_dim, at)
    }

    /// Base of the rotation frequencies.
    pub fn rope_theta(&self) -> f64 {
        self.rope.theta().expect("checked when the config was read")
    }
}

impl TalkerConfig {
    fn validate(&self, thinker: &DecoderConfig) -> Result<(), (String, String)> {
        let (at, thinker_width) = ("talker_config", thinker.hidden_size);
        self.text.validate("talker_config.text_config")?;
        let predictor = &self.code_predictor;
        predictor.validate("talker_config.code_predictor_config")?;
        check(self.accept_hidden_layer <= thinker.num_hidden_layers, at, || {
            let layers = thinker.num_hidden_layers;
            format!("accept_hidden_layer is {}, but the thinker has {layers} layers", self.accept_hidden_layer)
        })?;
        check(self.thinker_hidden_size == thinker_width, at, || {
            format!(
                "thinker_hidden_size is {}, but the thinker's hidden_size is {thinker_width}",
                self.thinker_hidden_size
            )
        })?;
        check(predictor.hidden_size == self.text.hidden_size, at, || {
            format!("the code predictor is {} wide, the talker {}", predictor.hidden_size, self.text.hidden_size)
        })?;
        check(self.num_code_groups >= 2, at, || {
            format!("num_code_groups is {}, expected at least 2", self.num_code_groups)
        })?;
        check(predictor.num_code_groups == self.num_code_groups, at, || {
            format!(
                "num_code_groups is {} here, {} in code_predictor_config",
                self.num_code_groups, predictor.num_code_groups
            )
        })?;
        check(!self.speaker_id.is_empty(), at, || "speaker_id lists no speaker".into())?;
        let controls = [
            ("codec_pad_id", self.codec_pad_id),
            ("codec_bos_id", self.codec_bos_id),
            ("codec_eos_token_id", self.codec_eos_token_id),
            ("codec_nothink_id", self.codec_nothink_id),
            ("codec_think_bos_id", self.codec_think_bos_id),
            ("codec_think_eos_id", self.codec_think_eos_id),
        ];
        let speakers = self.speaker_id.iter().map(|(name, id)| (name.as_str(), *id));
        for (name, id) in controls.into_iter().chain(speakers) {
            check((id as usize) < self.text.vocab_size, at, || {
                format!("`{name}` is {id}, but the talker's vocabulary has {} ids", self.text.vocab_size)
            })?;
        }
        Ok(())
    }
}

impl Code2WavConfig {
    /// Width of a head `Dh`.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Base of the rotation frequencies.
    pub fn rope_theta(&self) -> f64 {
        self.rope.theta().expect("checked when the config was read")
    }

    /// Samples one codec frame stands for.
    pub fn samples_per_frame(&self) -> usize {
        self.upsampling_ratios.iter().chain(&self.upsample_rates).product()
    }

    fn validate(&self, talker: &TalkerConfig) -> Result<(), (String, String)> {
        let (at, code_groups) = ("code2wav_config", talker.num_code_groups);
        let sizes = [
            ("codebook_size", self.codebook_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("decoder_dim", self.decoder_dim),
        ];
        check_positive(at, &sizes)?;
        // Every code that can be chosen must have a row in the vocoder's table.
        let first_codes = talker.text.vocab_size.saturating_sub(CONTROL_CODES);
        let largest = first_codes.max(talker.code_predictor.vocab_size);
        check(largest <= self.codebook_size, at, || {
            format!("codebook_size is {}, but the talker's side can choose {largest} codes", self.codebook_size)
        })?;
        check(self.num_quantizers == code_groups, at, || {
            format!("num_quantizers is {}, but the talker makes {code_groups} codes per frame", self.num_quantizers)
        })?;
        check_heads(self.num_attention_heads, self.num_key_value_heads, at)?;
        check_rope(&self.rope, self.head_dim(), at)?;
        check(self.sliding_window > 0, at, || "sliding_window is 0".into())?;
        // Each decoder block holds back one step of its input, so a first frame of one step would give no sound.
        check(self.upsampling_ratios.iter().product::<usize>() >= 2, at, || {
            "upsampling_ratios multiply to less than 2".into()
        })?;
        check(self.upsample_rates.iter().all(|r| *r >= 2), at, || "an upsample_rate is below 2".into())?;
        let halvings = self.upsample_rates.len() as u32;
        let divisor = 2usize.checked_pow(halvings);
        check(divisor.is_some_and(|divisor| self.decoder_dim.is_multiple_of(divisor)), at, || {
            format!("decoder_dim {} cannot be halved {halvings} times", self.decoder_dim)
        })
    }
}

/// Reads a JSON file; an error names the key.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let text = std::fs::read(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    let mut json = serde_json::Deserializer::from_slice(&text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| CheckpointError::Json {
        path: path.to_owned(),
        at: error.path().to_string(),
        reason: error.into_inner().to_string(),
    })
}
