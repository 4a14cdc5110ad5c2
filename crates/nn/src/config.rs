//! Sections of `config.json` that several models share: the decoder of thinker and talker, and the RoPE keys.

use checkpoint::ConfigFault;
use serde::Deserialize;

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
    /// `eps` of RMSNorm, added to the mean square.
    pub rms_norm_eps: f64,
    /// Number of positions the model was made for.
    pub max_position_embeddings: usize,
    /// Inner width of a dense layer's MLP, and of the talker's projections.
    pub intermediate_size: usize,
    /// Inner width of one expert.
    pub moe_intermediate_size: usize,
    /// Experts `E`; see [`DecoderConfig::experts`].
    num_experts: Option<usize>,
    num_local_experts: Option<usize>,
    /// Experts per token.
    pub num_experts_per_tok: usize,
    /// Whether the chosen experts' weights are normalised to a sum of 1; see [`DecoderConfig::normalise_top_k`].
    norm_topk_prob: Option<bool>,
    /// Distance between layers with experts: 1 if all have them.
    #[serde(default = "one")]
    pub decoder_sparse_step: usize,
    /// Layers that are dense in any case.
    #[serde(default)]
    pub mlp_only_layers: Vec<usize>,
    /// Inner width of the shared expert, which every token passes through; 0 if there is none.
    #[serde(default)]
    pub shared_expert_intermediate_size: usize,
    #[serde(flatten)]
    rope: RopeKeys,
    #[serde(flatten)]
    variant: VariantKeys,
}

/// Keys that select a variant of a layer. Only the variants of the released models are implemented.
#[derive(Debug, Clone, Deserialize)]
pub struct VariantKeys {
    hidden_act: Option<String>,
    activation_function: Option<String>,
    attention_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    scale_embedding: Option<bool>,
}

impl VariantKeys {
    /// Checks that the section asks for the activation `computed` and for no other variant; `at` names the section.
    ///
    /// # Errors
    /// [`ConfigFault`] naming the variant.
    pub fn validate(&self, computed: &str, at: &str) -> Result<(), ConfigFault> {
        let asked = [&self.hidden_act, &self.activation_function].into_iter().flatten();
        let other = asked.into_iter().find(|asked| *asked != computed);
        ConfigFault::unless(other.is_none(), at, || {
            format!("the activation function is `{}`, only `{computed}` is known", other.map_or("", String::as_str))
        })?;
        let switches = [
            ("attention_bias", self.attention_bias),
            ("use_sliding_window", self.use_sliding_window),
            ("scale_embedding", self.scale_embedding),
        ];
        match switches.into_iter().find(|(_, on)| *on == Some(true)) {
            Some((name, _)) => ConfigFault::unless(false, at, || format!("{name} is true, only false is known")),
            None => Ok(()),
        }
    }
}

/// RoPE keys, in the style of the released files or in the one transformers 5 writes.
#[derive(Debug, Clone, Deserialize)]
pub struct RopeKeys {
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    mrope_section: Option<[usize; 3]>,
    rope_type: Option<String>,
    /// The older name of `rope_type`; released files have both.
    #[serde(rename = "type")]
    older_type: Option<String>,
}

impl RopeParameters {
    /// The first RoPE type that is not `default`.
    fn variant(&self) -> Option<&str> {
        let named = [&self.rope_type, &self.older_type].into_iter().filter_map(|kind| kind.as_deref());
        named.into_iter().find(|kind| *kind != "default")
    }
}

impl RopeKeys {
    /// Base of the RoPE frequencies.
    ///
    /// # Panics
    /// If the file has none, which [`RopeKeys::validate`] refuses.
    pub fn theta(&self) -> f64 {
        self.base().expect("checked when the config was read")
    }

    /// Number of frequencies per axis `[time, height, width]`; `None` for plain RoPE.
    pub fn section(&self) -> Option<[usize; 3]> {
        self.parameters()?.mrope_section
    }

    fn base(&self) -> Option<f64> {
        self.rope_theta.or_else(|| self.parameters()?.rope_theta)
    }

    fn parameters(&self) -> Option<&RopeParameters> {
        self.rope_parameters.as_ref().or(self.rope_scaling.as_ref())
    }

    /// Checks the keys for heads of width `head_dim`; `at` names the section.
    ///
    /// # Errors
    /// [`ConfigFault`] naming what is missing or unknown.
    pub fn validate(&self, head_dim: usize, at: &str) -> Result<(), ConfigFault> {
        let base = self.base();
        ConfigFault::unless(base.is_some(), at, || {
            "missing field `rope_theta` (or `rope_parameters.rope_theta`)".into()
        })?;
        ConfigFault::unless(base.is_some_and(|base| base > 0.0 && base.is_finite()), at, || {
            format!("rope_theta is {}, expected a number above 0", base.unwrap_or_default())
        })?;
        ConfigFault::unless_sizes(at, &[("head_dim", head_dim)])?;
        ConfigFault::unless(head_dim.is_multiple_of(2), at, || {
            format!("head_dim is {head_dim}, expected an even number")
        })?;
        let both = [&self.rope_parameters, &self.rope_scaling];
        let variant = both.into_iter().flatten().find_map(RopeParameters::variant);
        ConfigFault::unless(variant.is_none(), at, || {
            format!("rope_type is `{}`, only `default` is known", variant.unwrap_or_default())
        })?;
        let section = self.section().map_or(head_dim / 2, |section| section.into_iter().fold(0, usize::saturating_add));
        ConfigFault::unless(section == head_dim / 2, at, || {
            format!("mrope_section adds up to {section}, expected {}", head_dim / 2)
        })
    }
}

/// Checks that `heads` query heads divide evenly among `kv_heads` key/value heads; `at` names the section.
///
/// # Errors
/// [`ConfigFault`] with both numbers.
pub fn validate_heads(heads: usize, kv_heads: usize, at: &str) -> Result<(), ConfigFault> {
    ConfigFault::unless(kv_heads > 0 && heads.is_multiple_of(kv_heads), at, || {
        format!("{heads} query heads cannot be shared by {kv_heads} key/value heads")
    })
}

impl DecoderConfig {
    /// Number of experts `E`; 0 without experts.
    pub fn experts(&self) -> usize {
        self.num_experts.or(self.num_local_experts).unwrap_or(0)
    }

    /// Whether the chosen experts' weights are normalised to a sum of 1; `default` is the default of the reference class.
    pub fn normalise_top_k(&self, default: bool) -> bool {
        self.norm_topk_prob.unwrap_or(default)
    }

    /// Base of the RoPE frequencies.
    pub fn rope_theta(&self) -> f64 {
        self.rope.theta()
    }

    /// Number of frequencies per axis; see [`RopeKeys::section`].
    pub fn rope_section(&self) -> Option<[usize; 3]> {
        self.rope.section()
    }

    /// Whether layer `index` has experts.
    pub fn is_sparse(&self, index: usize) -> bool {
        !self.mlp_only_layers.contains(&index)
            && self.experts() > 0
            && (index + 1).is_multiple_of(self.decoder_sparse_step.max(1))
    }

    /// Checks the sizes; `at` names the section.
    ///
    /// # Errors
    /// [`ConfigFault`] naming the first wrong value.
    pub fn validate(&self, at: &str) -> Result<(), ConfigFault> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        ConfigFault::unless_sizes(at, &sizes)?;
        ConfigFault::unless_eps(at, "rms_norm_eps", self.rms_norm_eps)?;
        let counts = [("num_hidden_layers", self.num_hidden_layers), ("num_attention_heads", self.num_attention_heads)];
        ConfigFault::unless_counts(at, &counts)?;
        let (experts, top_k) = (self.experts(), self.num_experts_per_tok);
        ConfigFault::unless(self.num_experts.or(self.num_local_experts).is_some(), at, || {
            "missing field `num_experts` (or `num_local_experts`)".into()
        })?;
        ConfigFault::unless_counts(at, &[("num_experts", experts.max(1))])?;
        if self.shared_expert_intermediate_size > 0 {
            let shared = self.shared_expert_intermediate_size;
            ConfigFault::unless_sizes(at, &[("shared_expert_intermediate_size", shared)])?;
        }
        ConfigFault::unless(top_k > 0 && top_k <= experts, at, || {
            format!("num_experts_per_tok is {top_k}, expected 1 to {experts} (the number of experts)")
        })?;
        validate_heads(self.num_attention_heads, self.num_key_value_heads, at)?;
        self.variant.validate("silu", at)?;
        self.rope.validate(self.head_dim, at)
    }
}

fn one() -> usize {
    1
}
