use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Tensor};
use checkpoint::Weights;
use omni_core::Result;
use tm_rope::Rotation;

use crate::host_decoder::HostAttention;
use crate::{KvCache, Linear, Mask, RmsNorm, pieces};

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Width `D`.
    pub width: usize,
    /// Query heads `H`.
    pub heads: usize,
    /// Key/value heads `K`; each serves `H / K` query heads.
    pub kv_heads: usize,
    /// Width of a head `Dh`.
    pub head_dim: usize,
    /// RMSNorm of each query and key head, with this eps.
    pub head_norm: Option<f64>,
}

/// Grouped-query attention with rotary positions and a KV cache.
#[derive(Module, Debug)]
pub struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// What the new tokens of one run attend with, for [`Attention::forward_many`].
pub struct AttentionRun<'a> {
    /// Of the `T` new tokens.
    pub rotation: &'a Rotation,
    /// The run's keys and values.
    pub cache: &'a mut KvCache,
    /// From the `T` new tokens to the cached ones and themselves.
    pub mask: &'a Mask,
}

impl Attention {
    /// Reads the four projections and, if the spec has them, the head norms.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, spec: &AttentionSpec) -> Result<Self> {
        let AttentionSpec { width, heads, kv_heads, head_dim, head_norm } = *spec;
        let linear = |name, shape| Linear::load(&weights.at(name), shape, false);
        let norm = |name| head_norm.map(|eps| RmsNorm::load(&weights.at(name), head_dim, eps)).transpose();
        Ok(Self {
            q_proj: linear("q_proj", [heads * head_dim, width])?,
            k_proj: linear("k_proj", [kv_heads * head_dim, width])?,
            v_proj: linear("v_proj", [kv_heads * head_dim, width])?,
            o_proj: linear("o_proj", [width, heads * head_dim])?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// The weights, if they lie in host memory.
    pub(crate) fn host(&self) -> Option<HostAttention> {
        let [q, k, v, o] =
            [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj].map(|linear| linear.host().cloned());
        Some(HostAttention {
            projections: [q?, k?, v?, o?],
            head_norms: self.q_norm.as_ref().zip(self.k_norm.as_ref()).map(|(q, k)| [q.host(), k.host()]),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
        })
    }

    /// Attends from the new tokens to everything in the cache and themselves.
    ///
    /// # Shapes
    /// `[B, T, D]` → `[B, T, D]`.
    pub fn forward(&self, x: Tensor<3>, rotation: &Rotation, cache: &mut KvCache, mask: &Mask) -> Tensor<3> {
        self.forward_many(x, vec![AttentionRun { rotation, cache, mask }])
    }

    /// As [`Attention::forward`], for the new tokens of several runs behind each other: each run attends by itself, and the weights
    /// are read once for all of them.
    ///
    /// # Shapes
    /// `[B, sum T, D]` → `[B, sum T, D]`.
    pub fn forward_many(&self, x: Tensor<3>, runs: Vec<AttentionRun>) -> Tensor<3> {
        let [batch, tokens, _] = x.dims();
        let lengths: Vec<usize> = runs.iter().map(|run| run.mask.queries()).collect();
        let q = self.split(self.q_proj.forward(x.clone()), self.heads, self.q_norm.as_ref()); // [B, H, sum T, Dh]
        let k = self.split(self.k_proj.forward(x.clone()), self.kv_heads, self.k_norm.as_ref()); // [B, K, sum T, Dh]
        let v = self.split(self.v_proj.forward(x), self.kv_heads, None); // [B, K, sum T, Dh]
        let [q, k, v] = [q, k, v].map(|x| pieces(x, 2, &lengths));
        let each = runs.into_iter().zip(q).zip(k.into_iter().zip(v));
        let heads = each.map(|((run, q), (k, v))| self.run(run, [q, k, v]));
        let heads = Tensor::cat(heads.collect(), 2); // [B, H, sum T, Dh]
        self.o_proj.forward(heads.swap_dims(1, 2).reshape([batch, tokens, self.heads * self.head_dim]))
    }

    /// One run's heads `[B, H, T, Dh]` from its queries, keys and values.
    fn run(&self, run: AttentionRun, [q, k, v]: [Tensor<4>; 3]) -> Tensor<4> {
        let AttentionRun { rotation, cache, mask } = run;
        let [k, v] = cache.append(rotation.apply(k), v); // [B, K, S, Dh]
        let q = rotation.apply(q) * (self.head_dim as f64).powf(-0.5);
        let blocks = mask.blocks().map(|block| {
            let q = q.clone().narrow(2, block.start, block.queries);
            self.attend(q, k.clone(), v.clone(), block.bias.as_ref())
        });
        Tensor::cat(blocks.collect(), 2)
    }

    /// `[B, T, heads * Dh]` → `[B, heads, T, Dh]`, normalised per head.
    fn split(&self, x: Tensor<3>, heads: usize, norm: Option<&RmsNorm>) -> Tensor<4> {
        let [batch, tokens, _] = x.dims();
        let x = x.reshape([batch, tokens, heads, self.head_dim]);
        let x = match norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        x.swap_dims(1, 2) // [B, heads, T, Dh]
    }

    /// The query heads that share a key/value head are folded into the query axis, so keys are never copied.
    fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, bias: Option<&Tensor<5>>) -> Tensor<4> {
        let ([batch, _, tokens, width], keys) = (q.dims(), k.dims()[2]);
        let group = self.heads / self.kv_heads;
        let dtype = q.dtype();
        let q = q.reshape([batch, self.kv_heads, group * tokens, width]); // [B, K, G*T, Dh]
        let mut scores = q.matmul(k.swap_dims(2, 3)).cast(DType::F32); // [B, K, G*T, S]
        if let Some(bias) = bias {
            let grouped = scores.reshape([batch, self.kv_heads, group, tokens, keys]) + bias.clone();
            scores = grouped.reshape([batch, self.kv_heads, group * tokens, keys]);
        }
        let out = softmax(scores, 3).cast(dtype).matmul(v); // [B, K, G*T, Dh]
        out.reshape([batch, self.heads, tokens, width]) // [B, H, T, Dh]
    }
}
