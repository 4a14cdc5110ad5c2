use checkpoint::{ConfigFault, ConfigSection};
use nn::{AttentionSpec, DecoderSpec, FeedForwardSpec, RopeKeys, VariantKeys, validate_heads};
use serde::Deserialize;
use tm_rope::RopeConfig;

/// `code_predictor_config`, of a small dense decoder.
#[derive(Debug, Clone, Deserialize)]
pub struct CodePredictorConfig {
    /// Codes per codebook.
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
    /// Inner width of a layer's MLP.
    pub intermediate_size: usize,
    /// `eps` of RMSNorm, added to the mean square.
    pub rms_norm_eps: f64,
    /// Codebooks `Q`, the first included.
    pub num_code_groups: usize,
    #[serde(flatten)]
    rope: RopeKeys,
    #[serde(flatten)]
    variant: VariantKeys,
}

impl ConfigSection for CodePredictorConfig {
    const SECTION: &'static str = "talker_config.code_predictor_config";

    fn validate(&self) -> Result<(), ConfigFault> {
        let at = Self::SECTION;
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
        ];
        ConfigFault::unless_sizes(at, &sizes)?;
        ConfigFault::unless_eps(at, "rms_norm_eps", self.rms_norm_eps)?;
        let counts = [
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_code_groups", self.num_code_groups),
        ];
        ConfigFault::unless_counts(at, &counts)?;
        ConfigFault::unless(self.num_code_groups >= 2, at, || {
            format!("num_code_groups is {}, expected at least 2", self.num_code_groups)
        })?;
        validate_heads(self.num_attention_heads, self.num_key_value_heads, at)?;
        self.variant.validate("silu", at)?;
        self.rope.validate(self.head_dim, at)
    }
}

impl CodePredictorConfig {
    /// Base of the RoPE frequencies.
    pub fn rope_theta(&self) -> f64 {
        self.rope.theta()
    }
}

/// The predictor's decoder sizes: dense layers, plain RoPE; a frame never holds more than its `Q` codes.
pub fn predictor_spec(config: &CodePredictorConfig) -> DecoderSpec {
    DecoderSpec {
        attention: AttentionSpec {
            width: config.hidden_size,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            head_norm: Some(config.rms_norm_eps),
            window: None,
        },
        feed_forward: vec![FeedForwardSpec::Dense(config.intermediate_size); config.num_hidden_layers],
        norm_eps: config.rms_norm_eps,
        rope: RopeConfig::plain(config.head_dim, config.rope_theta()),
        max_positions: config.num_code_groups,
    }
}
