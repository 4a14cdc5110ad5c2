//! Which tensors a config asks for: names and shapes of the whole checkpoint, without any weight.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::{
    AudioConfig, Code2WavConfig, CodePredictorConfig, DecoderConfig, OmniConfig, TalkerConfig, VisionConfig,
};

/// Tensor name → shape.
pub type Manifest = BTreeMap<String, Vec<usize>>;

/// A part of the model that can be loaded by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// `thinker.model`, `thinker.lm_head`.
    Thinker,
    /// `thinker.audio_tower`.
    AudioEncoder,
    /// `thinker.visual`.
    VisionEncoder,
    /// `talker` without the code predictor.
    Talker,
    /// `talker.code_predictor`.
    CodePredictor,
    /// `code2wav`.
    Code2Wav,
}

impl Component {
    /// All parts, in the order of the pipeline.
    pub const ALL: [Component; 6] = [
        Component::AudioEncoder,
        Component::VisionEncoder,
        Component::Thinker,
        Component::Talker,
        Component::CodePredictor,
        Component::Code2Wav,
    ];

    /// Name for users.
    pub fn name(self) -> &'static str {
        match self {
            Component::Thinker => "thinker",
            Component::AudioEncoder => "audio encoder",
            Component::VisionEncoder => "vision encoder",
            Component::Talker => "talker",
            Component::CodePredictor => "code predictor",
            Component::Code2Wav => "code2wav",
        }
    }

    /// The part a tensor belongs to, by its name's prefix.
    pub fn of(tensor: &str) -> Option<Component> {
        let prefixes = [
            ("thinker.audio_tower.", Component::AudioEncoder),
            ("thinker.visual.", Component::VisionEncoder),
            ("thinker.", Component::Thinker),
            ("talker.code_predictor.", Component::CodePredictor),
            ("talker.", Component::Talker),
            ("code2wav.", Component::Code2Wav),
        ];
        prefixes.iter().find(|(prefix, _)| tensor.starts_with(prefix)).map(|(_, component)| *component)
    }

    /// Whether a checkpoint of this config holds the part.
    pub fn is_in(self, config: &OmniConfig) -> bool {
        match self {
            Component::Talker | Component::CodePredictor | Component::Code2Wav => config.enable_audio_output,
            _ => true,
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every tensor a checkpoint of this config holds on disk.
pub fn expected(config: &OmniConfig) -> Manifest {
    let mut list = List { names: Manifest::new() };
    list.decoder("thinker.model", &config.thinker.text);
    let text = &config.thinker.text;
    list.add("thinker.model.embed_tokens.weight", [text.vocab_size, text.hidden_size]);
    list.add("thinker.lm_head.weight", [text.vocab_size, text.hidden_size]);
    list.audio_encoder(&config.thinker.audio);
    list.vision_encoder(&config.thinker.vision);
    if let Ok(talker) = config.talker() {
        list.talker(talker);
        list.code_predictor(&talker.code_predictor);
    }
    if let Ok(code2wav) = config.code2wav() {
        list.code2wav(code2wav);
    }
    list.names
}

/// Whether a tensor of this name and shape is the matrix of a linear layer: the only ones that may be packed.
pub fn is_linear(name: &str, shape: &[usize]) -> bool {
    // Embedding tables are matrices too, but rows are read from them.
    shape.len() == 2 && name.ends_with(".weight") && !name.contains("embed")
}

struct List {
    names: Manifest,
}

impl List {
    fn add<const D: usize>(&mut self, name: impl Into<String>, shape: [usize; D]) {
        self.names.insert(name.into(), shape.to_vec());
    }

    fn linear(&mut self, name: &str, output: usize, input: usize, bias: bool) {
        self.add(format!("{name}.weight"), [output, input]);
        if bias {
            self.add(format!("{name}.bias"), [output]);
        }
    }

    fn layer_norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), [width]);
        self.add(format!("{name}.bias"), [width]);
    }

    fn gated_mlp(&mut self, name: &str, width: usize, inner: usize) {
        self.linear(&format!("{name}.gate_proj"), inner, width, false);
        self.linear(&format!("{name}.up_proj"), inner, width, false);
        self.linear(&format!("{name}.down_proj"), width, inner, false);
    }

    /// `[heads, key/value heads, head width]`; `head_norms` for the RMSNorm of each head.
    fn attention(&mut self, name: &str, width: usize, [heads, kv, dh]: [usize; 3], head_norms: bool) {
        self.linear(&format!("{name}.q_proj"), heads * dh, width, false);
        self.linear(&format!("{name}.k_proj"), kv * dh, width, false);
        self.linear(&format!("{name}.v_proj"), kv * dh, width, false);
        self.linear(&format!("{name}.o_proj"), width, heads * dh, false);
        if head_norms {
            self.add(format!("{name}.q_norm.weight"), [dh]);
            self.add(format!("{name}.k_norm.weight"), [dh]);
        }
    }

    fn block_norms(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.input_layernorm.weight"), [width]);
        self.add(format!("{name}.post_attention_layernorm.weight"), [width]);
    }

    fn decoder(&mut self, name: &str, config: &DecoderConfig) {
        let width = config.hidden_size;
        let heads = [config.num_attention_heads, config.num_key_value_heads, config.head_dim];
        for index in 0..config.num_hidden_layers {
            let layer = format!("{name}.layers.{index}");
            self.attention(&format!("{layer}.self_attn"), width, heads, true);
            self.block_norms(&layer, width);
            if config.is_sparse(index) {
                self.experts(&format!("{layer}.mlp"), config);
            } else {
                self.gated_mlp(&format!("{layer}.mlp"), width, config.intermediate_size);
            }
        }
        self.add(format!("{name}.norm.weight"), [width]);
    }

    fn experts(&mut self, name: &str, config: &DecoderConfig) {
        self.linear(&format!("{name}.gate"), config.experts(), config.hidden_size, false);
        for expert in 0..config.experts() {
            self.gated_mlp(&format!("{name}.experts.{expert}"), config.hidden_size, config.moe_intermediate_size);
        }
        if config.shared_expert_intermediate_size > 0 {
            let shared = config.shared_expert_intermediate_size;
            self.gated_mlp(&format!("{name}.shared_expert"), config.hidden_size, shared);
            self.linear(&format!("{name}.shared_expert_gate"), 1, config.hidden_size, false);
        }
    }

    fn audio_encoder(&mut self, config: &AudioConfig) {
        let (root, width, channels) = ("thinker.audio_tower", config.d_model, config.downsample_hidden_size);
        for (conv, input) in [("conv2d1", 1), ("conv2d2", channels), ("conv2d3", channels)] {
            self.add(format!("{root}.{conv}.weight"), [channels, input, 3, 3]);
            self.add(format!("{root}.{conv}.bias"), [channels]);
        }
        // Three halvings of the mel bands, each rounding up.
        let bands = (0..3).fold(config.num_mel_bins, |n, _| n.div_ceil(2));
        self.linear(&format!("{root}.conv_out"), width, channels * bands, false);
        for index in 0..config.encoder_layers {
            let layer = format!("{root}.layers.{index}");
            for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.linear(&format!("{layer}.self_attn.{projection}"), width, width, true);
            }
            self.layer_norm(&format!("{layer}.self_attn_layer_norm"), width);
            self.layer_norm(&format!("{layer}.final_layer_norm"), width);
            self.linear(&format!("{layer}.fc1"), config.encoder_ffn_dim, width, true);
            self.linear(&format!("{layer}.fc2"), width, config.encoder_ffn_dim, true);
        }
        self.layer_norm(&format!("{root}.ln_post"), width);
        self.linear(&format!("{root}.proj1"), width, width, true);
        self.linear(&format!("{root}.proj2"), config.output_dim, width, true);
    }

    fn vision_encoder(&mut self, config: &VisionConfig) {
        let (root, width, patch) = ("thinker.visual", config.hidden_size, config.patch_size);
        let kernel = [width, config.in_channels, config.temporal_patch_size, patch, patch];
        self.add(format!("{root}.patch_embed.proj.weight"), kernel);
        self.add(format!("{root}.patch_embed.proj.bias"), [width]);
        self.add(format!("{root}.pos_embed.weight"), [config.num_position_embeddings, width]);
        for index in 0..config.depth {
            let block = format!("{root}.blocks.{index}");
            self.layer_norm(&format!("{block}.norm1"), width);
            self.layer_norm(&format!("{block}.norm2"), width);
            self.linear(&format!("{block}.attn.qkv"), 3 * width, width, true);
            self.linear(&format!("{block}.attn.proj"), width, width, true);
            self.linear(&format!("{block}.mlp.linear_fc1"), config.intermediate_size, width, true);
            self.linear(&format!("{block}.mlp.linear_fc2"), width, config.intermediate_size, true);
        }
        let merged = width * config.spatial_merge_size * config.spatial_merge_size;
        let deepstack = (0..config.deepstack_visual_indexes.len()).map(|i| (format!("merger_list.{i}"), merged));
        // The main merger normalises each patch, the deepstack mergers the joined patches.
        for (merger, norm) in std::iter::once(("merger".to_owned(), width)).chain(deepstack) {
            self.layer_norm(&format!("{root}.{merger}.ln_q"), norm);
            self.linear(&format!("{root}.{merger}.mlp.0"), merged, merged, true);
            self.linear(&format!("{root}.{merger}.mlp.2"), config.out_hidden_size, merged, true);
        }
    }

    fn talker(&mut self, config: &TalkerConfig) {
        let text = &config.text;
        self.decoder("talker.model", text);
        self.add("talker.model.codec_embedding.weight", [text.vocab_size, text.hidden_size]);
        self.linear("talker.codec_head", text.vocab_size, text.hidden_size, false);
        for projection in ["talker.text_projection", "talker.hidden_projection"] {
            self.linear(&format!("{projection}.linear_fc1"), text.intermediate_size, config.thinker_hidden_size, true);
            self.linear(&format!("{projection}.linear_fc2"), text.hidden_size, text.intermediate_size, true);
        }
    }

    fn code_predictor(&mut self, config: &CodePredictorConfig) {
        let (root, width) = ("talker.code_predictor", config.hidden_size);
        let heads = [config.num_attention_heads, config.num_key_value_heads, config.head_dim];
        for group in 0..config.num_code_groups - 1 {
            self.add(format!("{root}.model.codec_embedding.{group}.weight"), [config.vocab_size, width]);
            self.linear(&format!("{root}.lm_head.{group}"), config.vocab_size, width, false);
        }
        for index in 0..config.num_hidden_layers {
            let layer = format!("{root}.model.layers.{index}");
            self.attention(&format!("{layer}.self_attn"), width, heads, true);
            self.block_norms(&layer, width);
            self.gated_mlp(&format!("{layer}.mlp"), width, config.intermediate_size);
        }
        self.add(format!("{root}.model.norm.weight"), [width]);
    }

    fn code2wav(&mut self, config: &Code2WavConfig) {
        let width = config.hidden_size;
        self.add("code2wav.code_embedding.weight", [config.codebook_size * config.num_quantizers, width]);
        let heads = [config.num_attention_heads, config.num_key_value_heads, config.head_dim()];
        for index in 0..config.num_hidden_layers {
            let layer = format!("code2wav.pre_transformer.layers.{index}");
            self.attention(&format!("{layer}.self_attn"), width, heads, false);
            self.block_norms(&layer, width);
            self.gated_mlp(&format!("{layer}.mlp"), width, config.intermediate_size);
            self.add(format!("{layer}.self_attn_layer_scale.scale"), [width]);
            self.add(format!("{layer}.mlp_layer_scale.scale"), [width]);
        }
        self.add("code2wav.pre_transformer.norm.weight", [width]);
        for (stage, factor) in config.upsampling_ratios.iter().enumerate() {
            let root = format!("code2wav.upsample.{stage}");
            self.convolution(&format!("{root}.0.conv"), [width, width, *factor], width);
            self.convolution(&format!("{root}.1.dwconv.conv"), [width, 1, 7], width);
            self.layer_norm(&format!("{root}.1.norm"), width);
            self.linear(&format!("{root}.1.pwconv1"), 4 * width, width, true);
            self.linear(&format!("{root}.1.pwconv2"), width, 4 * width, true);
            self.add(format!("{root}.1.gamma"), [width]);
        }
        self.code2wav_decoder(config);
    }

    fn code2wav_decoder(&mut self, config: &Code2WavConfig) {
        let mut channels = config.decoder_dim;
        self.convolution("code2wav.decoder.0.conv", [channels, config.hidden_size, 7], channels);
        for (index, rate) in config.upsample_rates.iter().enumerate() {
            let block = format!("code2wav.decoder.{}.block", index + 1);
            self.snake(&format!("{block}.0"), channels);
            self.convolution(&format!("{block}.1.conv"), [channels, channels / 2, 2 * rate], channels / 2);
            channels /= 2;
            for unit in 2..5 {
                self.snake(&format!("{block}.{unit}.act1"), channels);
                self.snake(&format!("{block}.{unit}.act2"), channels);
                self.convolution(&format!("{block}.{unit}.conv1.conv"), [channels, channels, 7], channels);
                self.convolution(&format!("{block}.{unit}.conv2.conv"), [channels, channels, 1], channels);
            }
        }
        let last = config.upsample_rates.len() + 1;
        self.snake(&format!("code2wav.decoder.{last}"), channels);
        self.convolution(&format!("code2wav.decoder.{}.conv", last + 1), [1, channels, 7], 1);
    }

    fn convolution(&mut self, name: &str, weight: [usize; 3], bias: usize) {
        self.add(format!("{name}.weight"), weight);
        self.add(format!("{name}.bias"), [bias]);
    }

    fn snake(&mut self, name: &str, channels: usize) {
        self.add(format!("{name}.alpha"), [channels]);
        self.add(format!("{name}.beta"), [channels]);
    }
}
