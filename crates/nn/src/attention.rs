use burn::module::Module;
use checkpoint::Weights;
use omni_core::Result;

use crate::{Engine, Heads, Linear, RmsNorm, Run, Vector};

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
    /// Eps of the RMSNorm of each query and key head; `None` for no norm.
    pub head_norm: Option<f64>,
    /// Number of keys a query sees, its own included; `None` for all before it.
    pub window: Option<usize>,
}

/// Grouped-query causal attention with rotary positions and a KV cache.
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
    #[module(skip)]
    window: Option<usize>,
}

impl Attention {
    /// Reads the four projections and, if the spec has them, the head norms.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, spec: &AttentionSpec) -> Result<Self> {
        let AttentionSpec { width, heads, kv_heads, head_dim, head_norm, window } = *spec;
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
            window,
        })
    }

    /// `residual + scale · attention(h)`: the new rows of each run attend to the run's cache and, causally, to each other. The
    /// weights are read once for all runs.
    ///
    /// # Shapes
    /// `residual` and `h` `[N, D]` → `[N, D]`; the runs' rows add up to `N`.
    pub fn forward<E: Engine>(
        &self,
        e: &E,
        residual: E::Rows,
        mut h: E::Rows,
        (step, runs): (&E::Step, &mut [Run]),
        scale: Option<&Vector>,
    ) -> E::Rows {
        let qkv = e.linear(&mut h, [&self.q_proj, &self.k_proj, &self.v_proj]); // [N, H * Dh], [N, K * Dh] twice
        let mut heads = e.causal_attention(self.heads(), qkv, step, runs); // [N, H * Dh]
        e.add_linear(residual, &mut heads, &self.o_proj, scale)
    }

    /// The heads, as the engine takes them.
    pub fn heads(&self) -> Heads<'_> {
        let Self { heads, kv_heads, head_dim, window, .. } = *self;
        Heads { heads, kv_heads, head_dim, window, norms: [self.q_norm.as_ref(), self.k_norm.as_ref()] }
    }
}
