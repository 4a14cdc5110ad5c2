use burn::module::Module;
use checkpoint::Weights;
use omni_core::{Error, Positions, Result, VisualRows};
use tm_rope::{Rope, RopeConfig};

use crate::moe::{MoeBlock, MoeSpec};
use crate::{Attention, AttentionSpec, DecoderConfig, Engine, GatedMlp, KvCache, Probe, RmsNorm, Run, RunLength};

/// Sizes of a decoder stack.
#[derive(Debug, Clone)]
pub struct DecoderSpec {
    /// Attention of every layer.
    pub attention: AttentionSpec,
    /// Feed-forward part of each layer; its length is the number of layers.
    pub feed_forward: Vec<FeedForwardSpec>,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f64,
    /// Rotation of queries and keys.
    pub rope: RopeConfig,
    /// Number of positions the model was made for.
    pub max_positions: usize,
}

/// Sizes of one layer's feed-forward part.
#[derive(Debug, Clone, Copy)]
pub enum FeedForwardSpec {
    /// A gated MLP of this inner width.
    Dense(usize),
    /// A mixture of experts.
    Experts(MoeSpec),
}

/// The spec of a thinker's or talker's decoder. `normalise` is the reference class's default for `norm_topk_prob`.
pub fn decoder_spec(config: &DecoderConfig, normalise: bool) -> DecoderSpec {
    let moe = MoeSpec {
        experts: config.experts(),
        top_k: config.num_experts_per_tok,
        normalise: config.normalise_top_k(normalise),
        inner: config.moe_intermediate_size,
        shared: config.shared_expert_intermediate_size,
    };
    let feed_forward = (0..config.num_hidden_layers).map(|index| match config.is_sparse(index) {
        true => FeedForwardSpec::Experts(moe),
        false => FeedForwardSpec::Dense(config.intermediate_size),
    });
    DecoderSpec {
        attention: AttentionSpec {
            width: config.hidden_size,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            head_norm: Some(config.rms_norm_eps),
            window: None,
        },
        feed_forward: feed_forward.collect(),
        norm_eps: config.rms_norm_eps,
        rope: RopeConfig { head_dim: config.head_dim, theta: config.rope_theta(), section: config.rope_section() },
        max_positions: config.max_position_embeddings,
    }
}

/// The feed-forward part of a layer.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One per layer, and `Module` has no boxes.
pub enum FeedForward {
    /// A gated MLP.
    Dense(GatedMlp),
    /// A mixture of experts.
    Experts(MoeBlock),
}

/// One pre-norm layer: attention, then feed-forward.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    self_attn: Attention,
    mlp: FeedForward,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

impl DecoderLayer {
    fn load(weights: &Weights, spec: &DecoderSpec, feed_forward: &FeedForwardSpec) -> Result<Self> {
        let width = spec.attention.width;
        let norm = |name| RmsNorm::load(&weights.at(name), width, spec.norm_eps);
        let mlp = match feed_forward {
            FeedForwardSpec::Dense(inner) => FeedForward::Dense(GatedMlp::load(&weights.at("mlp"), width, *inner)?),
            FeedForwardSpec::Experts(moe) => FeedForward::Experts(MoeBlock::load(&weights.at("mlp"), width, moe)?),
        };
        Ok(Self {
            self_attn: Attention::load(&weights.at("self_attn"), &spec.attention)?,
            mlp,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        })
    }

    fn forward<E: Engine>(
        &self,
        e: &E,
        x: E::Rows,
        (step, runs): (&E::Step, &mut [Run]),
        lengths: &[usize],
    ) -> (E::Rows, Option<E::Routing>) {
        let h = e.rms_norm(&x, &self.input_layernorm);
        let x = self.self_attn.forward(e, x, h, (step, runs), None);
        let mut h = e.rms_norm(&x, &self.post_attention_layernorm);
        match &self.mlp {
            FeedForward::Dense(mlp) => (mlp.add_to(e, x, &mut h, None), None),
            FeedForward::Experts(block) => {
                let (x, routing) = block.add_to(e, x, &mut h, lengths);
                (x, Some(routing))
            }
        }
    }
}

/// A stack of decoder layers with the final norm.
#[derive(Module, Debug)]
pub struct Decoder {
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
    max_positions: usize,
}

/// New tokens of one run.
#[derive(Debug)]
pub struct DecoderRun<'a> {
    /// The run's state.
    pub state: &'a mut DecoderState,
    /// Positions of the new tokens.
    pub positions: &'a Positions,
    /// Visual rows, whose deepstack features are added to the outputs of the first layers.
    pub visual: Option<&'a VisualRows>,
    /// Observes this run's rows.
    pub probe: Option<&'a mut dyn Probe>,
}

impl<'a> DecoderRun<'a> {
    /// New tokens of text, without a probe.
    pub fn new(state: &'a mut DecoderState, positions: &'a Positions) -> Self {
        Self { state, positions, visual: None, probe: None }
    }
}

/// KV caches of one run through a [`Decoder`].
#[derive(Debug, Clone)]
pub struct DecoderState {
    caches: Vec<KvCache>,
    tokens: usize,
}

impl DecoderState {
    /// Tokens taken so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of keys and values held.
    pub fn bytes(&self) -> usize {
        self.caches.iter().map(KvCache::bytes).sum()
    }

    /// Drops all but the first `tokens` tokens: the run goes on as if the rest had never been fed.
    ///
    /// # Panics
    /// If the run holds fewer tokens.
    pub fn truncate(&mut self, tokens: usize) {
        assert!(tokens <= self.tokens, "a run of {} tokens cut to {tokens}", self.tokens);
        self.caches.iter_mut().for_each(|cache| cache.truncate(tokens));
        self.tokens = tokens;
    }

    /// Empties the caches but keeps their memory.
    pub fn clear(&mut self) {
        self.caches.iter_mut().for_each(KvCache::clear);
        self.tokens = 0;
    }
}

impl Decoder {
    /// Reads `layers.{i}` and `norm`.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, spec: &DecoderSpec) -> Result<Self> {
        let layers = spec.feed_forward.iter().enumerate();
        let layers = layers.map(|(index, ff)| DecoderLayer::load(&weights.at(format!("layers.{index}")), spec, ff));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            norm: RmsNorm::load(&weights.at("norm"), spec.attention.width, spec.norm_eps)?,
            rope: Rope::new(&spec.rope),
            max_positions: spec.max_positions,
        })
    }

    /// Number of layers.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Most tokens one run can hold.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// A fresh state.
    pub fn start(&self) -> DecoderState {
        DecoderState { caches: vec![KvCache::default(); self.layers.len()], tokens: 0 }
    }

    /// A state of a run that ends after its first step, as in training: no keys are kept, and runs of one step are computed together.
    pub fn start_once(&self) -> DecoderState {
        DecoderState { caches: vec![KvCache::discarding(); self.layers.len()], tokens: 0 }
    }

    /// Checks that a state has room for `tokens` more tokens.
    ///
    /// # Errors
    /// [`Error::ContextLength`] if it would hold more tokens than the model was made for.
    pub fn check_room(&self, state: &DecoderState, tokens: usize) -> Result<()> {
        let total = state.tokens + tokens;
        match total > self.max_positions {
            true => Err(Error::ContextLength { tokens: total, limit: self.max_positions }),
            false => Ok(()),
        }
    }

    /// Runs the stack on the new tokens of several runs, reading each weight once for all of them; prefill and decode are the same
    /// call. Memory grows with the number of new tokens of all runs.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`, after the final norm; the runs' tokens add up to `N`.
    pub fn forward<E: Engine>(&self, e: &E, mut x: E::Rows, runs: &mut [DecoderRun]) -> E::Rows {
        let lengths: Vec<usize> = runs.iter().map(|run| run.positions.tokens()).collect();
        assert_eq!(e.shape(&x)[0], lengths.iter().sum::<usize>(), "rows of all runs");
        let step = self.step(e, runs);
        for (index, layer) in self.layers.iter().enumerate() {
            let caches = runs.iter_mut().zip(&lengths);
            let mut caches: Vec<Run> =
                caches.map(|(run, rows)| Run { cache: &mut run.state.caches[index], rows: *rows }).collect();
            let (output, routing) = layer.forward(e, x, (&step, &mut caches), &lengths);
            drop(caches);
            show(e, index, &output, routing.as_ref(), runs);
            x = add_visual(e, index, output, runs);
        }
        runs.iter_mut().zip(lengths).for_each(|(run, rows)| run.state.tokens += rows);
        e.rms_norm(&x, &self.norm)
    }

    /// Makes what all layers of a step share: rotation and masks.
    fn step<E: Engine>(&self, e: &E, runs: &[DecoderRun]) -> E::Step {
        let [mut cos, mut sin] = [Vec::new(), Vec::new()];
        for run in runs {
            let [run_cos, run_sin] = self.rope.tables(run.positions);
            cos.extend(run_cos);
            sin.extend(run_sin);
        }
        let length = |run: &DecoderRun| RunLength { queries: run.positions.tokens(), past: run.state.tokens };
        e.step([cos, sin], &runs.iter().map(length).collect::<Vec<_>>(), None)
    }
}

/// Shows each run's probe the outputs of a layer that it asks for.
fn show<E: Engine>(e: &E, index: usize, x: &E::Rows, routing: Option<&E::Routing>, runs: &mut [DecoderRun]) {
    let mut start = 0;
    for run in runs {
        let rows = start..start + run.positions.tokens();
        start = rows.end;
        let Some(probe) = &mut run.probe else { continue };
        if let Some(routing) = routing.filter(|_| probe.wants_routing()) {
            probe.routing(index, &e.routing(routing, rows.clone()));
        }
        if probe.wants_layer(index) {
            probe.layer(index, &e.tensor(x, rows));
        }
    }
}

/// Adds the deepstack features of a layer to the runs' visual rows (paper, section 2.2).
fn add_visual<E: Engine>(e: &E, index: usize, mut x: E::Rows, runs: &[DecoderRun]) -> E::Rows {
    let mut start = 0;
    for run in runs {
        if let Some((visual, features)) = run.visual.and_then(|visual| Some((visual, visual.deepstack.get(index)?))) {
            let at: Vec<usize> = visual.indices.iter().map(|row| start + row).collect();
            x = e.add_rows(x, &at, features);
        }
        start += run.positions.tokens();
    }
    x
}
