use checkpoint::CodePredictorConfig;
use nn::{AttentionSpec, DecoderSpec, FeedForwardSpec};
use tm_rope::RopeConfig;

/// Sizes of the predictor's decoder: dense layers, plain rotation; a frame never holds more than its `Q` codes.
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
