use burn::module::Module;
use checkpoint::Weights;
use nn::{Engine, KvCache, Linear, Run};
use omni_core::Result;

/// Multi-head attention whose four projections have biases.
#[derive(Module, Debug)]
pub(super) struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl Attention {
    pub(super) fn load(weights: &Weights, width: usize, heads: usize) -> Result<Self> {
        let linear = |name| Linear::load(&weights.at(name), [width, width], true);
        Ok(Self {
            q_proj: linear("q_proj")?,
            k_proj: linear("k_proj")?,
            v_proj: linear("v_proj")?,
            out_proj: linear("out_proj")?,
            heads,
        })
    }

    /// `residual +` the attention of new rows `h` to those of the same text before them and, causally, to each other.
    pub(super) fn causal<E: Engine>(&self, e: &E, residual: E::Rows, mut h: E::Rows, runs: &mut [Run]) -> E::Rows {
        let [q, k, v] = e.linear(&mut h, [&self.q_proj, &self.k_proj, &self.v_proj]);
        e.append([k, v], self.heads, runs);
        let mut attended = e.attend(q, self.heads, runs, true);
        e.add_linear(residual, &mut attended, &self.out_proj, None)
    }

    /// `residual +` the attention of rows `h` to all keys of [`Attention::keys`].
    pub(super) fn cross<E: Engine>(&self, e: &E, residual: E::Rows, mut h: E::Rows, runs: &mut [Run]) -> E::Rows {
        let [q] = e.linear(&mut h, [&self.q_proj]);
        let mut attended = e.attend(q, self.heads, runs, false);
        e.add_linear(residual, &mut attended, &self.out_proj, None)
    }

    /// Keys and values of other rows `[S, D]`.
    pub(super) fn keys<E: Engine>(&self, e: &E, rows: &mut E::Rows) -> KvCache {
        let (mut cache, [count, _]) = (KvCache::default(), e.shape(rows));
        let kv = e.linear(rows, [&self.k_proj, &self.v_proj]);
        e.append(kv, self.heads, &mut [Run { cache: &mut cache, rows: count }]);
        cache
    }
}
