use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use checkpoint::{DecoderConfig, Weights};
use kernels::KvPages;
use omni_core::{Dtype, Error, Positions, Result, VisualRows};
use tm_rope::{Rope, RopeConfig, Rotation};

use crate::host::{numbers, with_numbers};
use crate::host_decoder::{HostDecoder, HostFeedForward, HostLayer, HostRows, HostRun, Look, Visual};
use crate::moe::{MoeBlock, MoeSpec};
use crate::{Attention, AttentionSpec, GatedMlp, KvCache, Mask, MaskSpec, Probe, RmsNorm};

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
    /// Most positions the model was made for.
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

    /// The weights, if they lie in host memory.
    fn host(&self) -> Option<HostLayer> {
        let mlp = match &self.mlp {
            FeedForward::Dense(mlp) => HostFeedForward::Dense(mlp.host()?),
            FeedForward::Experts(block) => block.host()?,
        };
        Some(HostLayer {
            attention: self.self_attn.host()?,
            mlp,
            input_norm: self.input_layernorm.host(),
            post_attention_norm: self.post_attention_layernorm.host(),
        })
    }

    fn forward(
        &self,
        x: Tensor<3>,
        step: &Step,
        cache: &mut KvCache,
        mut routed: impl FnMut(&crate::moe::Routing),
    ) -> Tensor<3> {
        let h = self.input_layernorm.forward(x.clone());
        let x = x + self.self_attn.forward(h, &step.rotation, cache, &step.mask);
        let h = self.post_attention_layernorm.forward(x.clone());
        x + match &self.mlp {
            FeedForward::Dense(mlp) => mlp.forward(h),
            FeedForward::Experts(block) => {
                let (out, routing) = block.forward(h);
                routed(&routing);
                out
            }
        }
    }
}

/// What all layers of one step share.
struct Step {
    rotation: Rotation,
    mask: Mask,
}

/// A stack of decoder layers with the final norm.
#[derive(Module, Debug)]
pub struct Decoder {
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
    max_positions: usize,
    #[module(skip)]
    host: Option<HostDecoder>,
    #[module(skip)]
    pages: Vec<KvPages>,
}

/// New tokens of one run, for a step of several runs together.
pub struct DecoderRun<'a> {
    /// The run's state.
    pub state: &'a mut DecoderState,
    /// `[1, T, D]`.
    pub embeds: Tensor<3>,
    /// Positions of the `T` tokens.
    pub positions: &'a Positions,
    /// Added to the outputs of the first layers.
    pub visual: Option<&'a VisualRows>,
    /// Looks at this run's rows.
    pub probe: Option<&'a mut dyn Probe>,
}

impl<'a> DecoderRun<'a> {
    /// Of text, unseen.
    pub fn new(state: &'a mut DecoderState, embeds: Tensor<3>, positions: &'a Positions) -> Self {
        Self { state, embeds, positions, visual: None, probe: None }
    }
}

/// Caches of one run through a [`Decoder`].
#[derive(Debug, Clone)]
pub struct DecoderState {
    caches: Vec<KvCache>,
    /// The caches on the CPU, of a run without padding and of one row.
    pages: Vec<KvPages>,
    tokens: usize,
    left_padding: Vec<usize>,
}

impl DecoderState {
    /// Tokens taken so far, padding included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of keys and values held.
    pub fn bytes(&self) -> usize {
        self.caches.iter().map(KvCache::bytes).sum::<usize>() + self.pages.iter().map(KvPages::bytes).sum::<usize>()
    }

    /// Forgets all but the first `tokens` tokens: the run goes on as if the rest had never been fed.
    ///
    /// # Panics
    /// If fewer tokens were taken.
    pub fn truncate(&mut self, tokens: usize) {
        assert!(tokens <= self.tokens, "a run of {} tokens cut to {tokens}", self.tokens);
        self.caches.iter_mut().filter(|cache| !cache.is_empty()).for_each(|cache| cache.truncate(tokens));
        self.pages.iter_mut().filter(|pages| !pages.is_empty()).for_each(|pages| pages.truncate(tokens));
        self.tokens = tokens;
    }

    /// Forgets everything but keeps the caches' memory.
    pub fn clear(&mut self) {
        self.caches.iter_mut().for_each(KvCache::clear);
        self.pages.iter_mut().for_each(KvPages::clear);
        self.tokens = 0;
        self.left_padding.clear();
    }
}

impl Decoder {
    /// Reads `layers.{i}` and `norm`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, spec: &DecoderSpec) -> Result<Self> {
        let layers = spec.feed_forward.iter().enumerate();
        let layers = layers.map(|(index, ff)| DecoderLayer::load(&weights.at(format!("layers.{index}")), spec, ff));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let norm = RmsNorm::load(&weights.at("norm"), spec.attention.width, spec.norm_eps)?;
        let host = layers.iter().map(DecoderLayer::host).collect::<Option<Vec<_>>>();
        let AttentionSpec { kv_heads, head_dim, .. } = spec.attention;
        // The products of the CPU's attention take whole vectors.
        let host = host.filter(|_| head_dim.is_multiple_of(8));
        let host = host.map(|layers| HostDecoder { layers: layers.into(), norm: norm.host() });
        let pages = KvPages::new(kv_heads, head_dim, weights.asked_dtype() != Dtype::F32);
        let pages = vec![pages; if host.is_some() { layers.len() } else { 0 }];
        Ok(Self { layers, norm, rope: Rope::new(&spec.rope), max_positions: spec.max_positions, host, pages })
    }

    /// Number of layers.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Whether all weights lie in host memory.
    pub fn is_on_host(&self) -> bool {
        self.host.is_some()
    }

    /// Most tokens one run can hold.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// A fresh state.
    pub fn start(&self) -> DecoderState {
        let caches = self.layers.iter().map(|_| KvCache::growing()).collect();
        DecoderState { caches, pages: self.pages.clone(), tokens: 0, left_padding: Vec::new() }
    }

    /// Takes a piece of embedded tokens; prefill and decode are the same call.
    ///
    /// # Shapes
    /// `[B, T, D]` → `[B, T, D]`, after the final norm.
    ///
    /// # Errors
    /// [`Error::ContextLength`] if the state would hold more tokens than the model was made for.
    pub fn forward(
        &self,
        state: &mut DecoderState,
        embeds: Tensor<3>,
        positions: &Positions,
        visual: Option<&VisualRows>,
        probe: &mut dyn Probe,
    ) -> Result<Tensor<3>> {
        let one_row = embeds.dims()[0] == 1 && state.left_padding.is_empty();
        if let Some(host) = self.host.as_ref().filter(|_| one_row) {
            self.take(state, &embeds, positions)?;
            let run = DecoderRun { state, embeds, positions, visual, probe: Some(probe) };
            return Ok(self.on_host(host, vec![run]).remove(0));
        }
        let step = self.step(state, &embeds, positions)?;
        let mut x = embeds;
        for (index, (layer, cache)) in self.layers.iter().zip(&mut state.caches).enumerate() {
            x = layer.forward(x, &step, cache, |routing| probe.routing(index, routing));
            probe.layer(index, &x);
            if let Some((rows, feature)) = visual.and_then(|v| Some((&v.indices, v.deepstack.get(index)?))) {
                x = add_rows(x, rows, feature);
            }
        }
        Ok(self.norm.forward(x))
    }

    /// As [`Decoder::forward`], for several runs: where the device allows, they share each pass over the weights. A run that would
    /// hold too many tokens fails alone. Memory grows with the tokens of all of them.
    pub fn forward_many(&self, runs: Vec<DecoderRun>) -> Vec<Result<Tensor<3>>> {
        let one_row = |run: &DecoderRun| run.embeds.dims()[0] == 1 && run.state.left_padding.is_empty();
        let host = self.host.as_ref().filter(|_| runs.iter().all(one_row));
        let Some(host) = host else {
            let each = |DecoderRun { state, embeds, positions, visual, probe }: DecoderRun| {
                self.forward(state, embeds, positions, visual, probe.unwrap_or(&mut ()))
            };
            return runs.into_iter().map(each).collect();
        };
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for run in runs {
            match self.take(run.state, &run.embeds, run.positions) {
                Ok(()) => {
                    refused.push(None);
                    taken.push(run);
                }
                Err(error) => refused.push(Some(error)),
            }
        }
        let mut hidden = self.on_host(host, taken).into_iter();
        let each = refused.into_iter().map(|error| match error {
            Some(error) => Err(error),
            None => Ok(hidden.next().expect("there is one output for each run taken")),
        });
        each.collect()
    }

    /// As [`Decoder::forward`] for one row of a batch, on the CPU and in place: `x` `[T, D]` becomes the states after the final norm.
    /// False, and nothing happened, where the weights do not lie in host memory.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_rows(&self, state: &mut DecoderState, x: &mut [f32], positions: &Positions) -> Result<bool> {
        let Some(host) = self.host.as_ref().filter(|_| state.left_padding.is_empty()) else { return Ok(false) };
        self.count(state, positions.tokens())?;
        let [cos, sin] = self.rope.tables(positions);
        let (rows, width) = (positions.tokens(), x.len() / positions.tokens());
        let look = Look::default();
        let run = HostRun { caches: &mut state.pages, rows, cos: &cos, sin: &sin, visual: None, look };
        host.forward(&mut [run], x, width);
        Ok(true)
    }

    /// The runs on the CPU; their tokens are counted already.
    fn on_host(&self, host: &HostDecoder, mut runs: Vec<DecoderRun>) -> Vec<Tensor<3>> {
        let Some(first) = runs.first() else { return Vec::new() };
        let (device, width) = (first.embeds.device(), first.embeds.dims()[2]);
        let tables: Vec<[Vec<f32>; 2]> = runs.iter().map(|run| self.rope.tables(run.positions)).collect();
        let rows: Vec<usize> = runs.iter().map(|run| run.embeds.dims()[1]).collect();
        let mut x = Vec::with_capacity(rows.iter().sum::<usize>() * width);
        runs.iter().for_each(|run| with_numbers(&run.embeds, |values| x.extend_from_slice(values)));
        let visual: Vec<Option<HostRows>> = runs.iter().map(|run| run.visual.map(host_rows)).collect();
        let each = runs.iter_mut().zip(&tables).zip(rows.iter().zip(&visual));
        let mut host_runs: Vec<HostRun> = each
            .map(|((run, [cos, sin]), (rows, visual))| HostRun {
                caches: &mut run.state.pages,
                rows: *rows,
                cos,
                sin,
                visual: visual.as_ref().map(|rows| Visual { rows, first: 0 }),
                look: Look::new(&device, &mut run.probe),
            })
            .collect();
        on_pool(|| host.forward(&mut host_runs, &mut x, width));
        drop(host_runs);
        let mut values = &x[..];
        let outputs = rows.iter().map(|rows| {
            let (these, others) = values.split_at(rows * width);
            values = others;
            Tensor::from_data(TensorData::new(these.to_vec(), [1, *rows, width]), &device)
        });
        outputs.collect()
    }

    /// Counts the tokens of a piece.
    fn take(&self, state: &mut DecoderState, embeds: &Tensor<3>, positions: &Positions) -> Result<()> {
        let [batch, tokens, _] = embeds.dims();
        assert_eq!([positions.batch(), positions.tokens()], [batch, tokens], "positions of the piece");
        self.count(state, tokens)
    }

    fn count(&self, state: &mut DecoderState, tokens: usize) -> Result<()> {
        let total = state.tokens + tokens;
        if total > self.max_positions {
            return Err(Error::ContextLength { tokens: total, limit: self.max_positions });
        }
        state.tokens = total;
        Ok(())
    }

    /// Keeps the left padding of the first step for the later ones.
    pub fn pad_left(&self, state: &mut DecoderState, padding: &[usize]) {
        assert!(state.tokens == 0 || padding.is_empty(), "left padding belongs to the first step");
        if padding.iter().any(|n| *n > 0) {
            state.left_padding = padding.to_vec();
        }
    }

    fn step(&self, state: &mut DecoderState, embeds: &Tensor<3>, positions: &Positions) -> Result<Step> {
        self.take(state, embeds, positions)?;
        let tokens = embeds.dims()[1];
        let spec = MaskSpec { queries: tokens, keys: state.tokens, window: None, left_padding: &state.left_padding };
        let device = embeds.device();
        Ok(Step { rotation: self.rope.rotation(positions, &device, dtype_of(embeds)), mask: Mask::new(&spec, &device) })
    }
}

/// Runs `f` on a thread of the pool, if this is none of them: from there, sharing work out costs no change of threads.
pub fn on_pool<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    match rayon::current_thread_index() {
        Some(_) => f(),
        None => rayon::scope(|_| f()),
    }
}

fn host_rows(visual: &VisualRows) -> HostRows {
    HostRows { indices: ids(&visual.indices), features: visual.deepstack.iter().map(numbers).collect() }
}

fn ids(index: &Tensor<1, Int>) -> Vec<usize> {
    let ids = index.to_data().try_to_vec_as::<i64>().expect("indices are integers");
    ids.into_iter().map(|id| id as usize).collect()
}

/// Adds `[rows, D]` to the given rows of the flattened `[B * T, D]`.
fn add_rows(x: Tensor<3>, rows: &burn::tensor::Tensor<1, burn::tensor::Int>, feature: &Tensor<2>) -> Tensor<3> {
    let shape = x.dims();
    let flat = x.flatten::<2>(0, 1);
    flat.select_assign(0, rows.clone(), feature.clone(), burn::tensor::IndexingUpdateOp::Add).reshape(shape)
}

/// The computing type of a tensor.
pub(crate) fn dtype_of<const D: usize>(x: &Tensor<D>) -> Dtype {
    Dtype::ALL.into_iter().find(|dtype| burn::tensor::DType::from(*dtype) == x.dtype()).unwrap_or_default()
}
