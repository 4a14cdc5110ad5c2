//! The operations that all layers are written over, and the two engines that have them.
//!
//! A layer reads like the paper's formula, `fn forward<E: Engine>(&self, e: &E, x: E::Rows, …) -> E::Rows`, over ragged rows
//! `[N, D]`: the new tokens of several runs, one run after another. [`HostEngine`] computes in host memory with this workspace's CPU
//! kernels; [`DeviceEngine`] computes with burn tensors on any device, and on an autodiff device every operation is differentiable.
//! Which one a model uses is decided when it is loaded ([`omni_core::Place`]).

mod any;
mod awake;
mod device;
mod host;
mod pool;

use std::ops::Range;

use burn::tensor::Tensor;

pub use any::AnyEngine;
pub use device::{DeviceEngine, DeviceRows};
pub use host::{HostEngine, HostRows};

use crate::moe::{Experts, Router, Routing};
use crate::sampler::Logits;
use crate::{Activation, Embedding, Heads, KvCache, LayerNorm, Linear, RmsNorm, Sampler, Vector};

/// One run in a step of causal attention: its KV cache of one layer, and its number of new rows.
#[derive(Debug)]
pub struct Run<'a> {
    /// Keys and values of one layer.
    pub cache: &'a mut KvCache,
    /// Number of new rows; they follow those of the run before.
    pub rows: usize,
}

/// Sizes of one run's step, before it begins.
#[derive(Debug, Clone, Copy)]
pub struct RunLength {
    /// Number of new rows.
    pub queries: usize,
    /// Number of keys held before the step.
    pub past: usize,
}

/// Queries, keys and values of windowed attention: separate, or side by side in rows `[N, 3 * D]`.
#[derive(Debug)]
pub enum Qkv<R> {
    /// `[N, D]` each.
    Split([R; 3]),
    /// `[N, 3 * D]`.
    Joined(R),
}

/// One table row of a weighted sum: its index and its weight.
pub type WeightedRow = (usize, f32);

/// The operations that models are written over, on ragged rows `[N, D]`.
///
/// A `&mut` input keeps its values: the engine may store a packed copy beside them.
pub trait Engine: Send + Sync {
    /// Rows `[N, D]`.
    type Rows: Send;
    /// One id per row, kept where the next embedding reads it.
    type Ids: Send;
    /// Cosines and sines of one position per row.
    type Rotation: Send + Sync;
    /// What all layers of one step share: rotation and masks.
    type Step: Send + Sync;
    /// The experts chosen for each row.
    type Routing: Send;

    /// Makes rows from tensors of another crate, concatenated.
    ///
    /// # Panics
    /// If there is no tensor, or the widths differ.
    fn rows(&self, parts: &[&Tensor<2>]) -> Self::Rows;
    /// The given range of rows as a tensor, for another crate.
    fn tensor(&self, x: &Self::Rows, rows: Range<usize>) -> Tensor<2>;
    /// All values, in host memory.
    fn values(&self, x: Self::Rows) -> Vec<f32>;
    /// `[N, D]`.
    fn shape(&self, x: &Self::Rows) -> [usize; 2];
    /// The same values as rows of another width.
    fn reshape(&self, x: Self::Rows, width: usize) -> Self::Rows;
    /// The given rows, in the given order.
    fn select(&self, x: &Self::Rows, rows: &[usize]) -> Self::Rows;
    /// A copy in f32, whatever the number type of the computation, where sums of many rows start.
    fn widened(&self, x: &Self::Rows) -> Self::Rows;
    /// `x + y`, in the number type of `x`.
    fn add(&self, x: Self::Rows, y: &Self::Rows) -> Self::Rows;
    /// `x[at[i]] += rows[i]`.
    fn add_rows(&self, x: Self::Rows, at: &[usize], rows: &Tensor<2>) -> Self::Rows;

    /// Takes ids from another crate.
    fn ids(&self, ids: &[u32]) -> Self::Ids;
    /// Reads ids back for another crate: those of all parts, in order.
    fn read_ids(&self, parts: &[Self::Ids]) -> Vec<u32>;
    /// Looks up one row of the table per id.
    fn embed(&self, table: &Embedding, ids: &Self::Ids) -> Self::Rows;
    /// For each group of `per_row` ids, the mean of their table rows.
    fn embed_mean(&self, table: &Embedding, ids: &[u32], per_row: usize) -> Self::Rows;
    /// `x[i] += Σ weight · table[index]` over the four entries of row `i`.
    fn add_weighted(&self, x: Self::Rows, table: &Embedding, rows: &[[WeightedRow; 4]]) -> Self::Rows;

    /// Several linear layers on the same rows: each `x Wᵀ + b`.
    fn linear<const N: usize>(&self, x: &mut Self::Rows, layers: [&Linear; N]) -> [Self::Rows; N];
    /// `act(x Wᵀ + b)`.
    fn linear_act(&self, x: &mut Self::Rows, layer: &Linear, act: Activation) -> Self::Rows;
    /// `residual + scale · (x Wᵀ + b)`.
    fn add_linear(
        &self,
        residual: Self::Rows,
        x: &mut Self::Rows,
        layer: &Linear,
        scale: Option<&Vector>,
    ) -> Self::Rows;
    /// `silu(gate(x)) · up(x)`.
    fn silu_gate(&self, x: &mut Self::Rows, gate: &Linear, up: &Linear) -> Self::Rows;
    /// RMSNorm of each row. The mean square is taken in f32, the result cast back *before* the multiplication, as in the reference.
    fn rms_norm(&self, x: &Self::Rows, norm: &RmsNorm) -> Self::Rows;
    /// LayerNorm of each row, in f32.
    fn layer_norm(&self, x: &Self::Rows, norm: &LayerNorm) -> Self::Rows;

    /// Cosines and sines `[N, Dh / 2]` each, for [`Engine::window_attention`]: applied in f32.
    fn rotation(&self, tables: [Vec<f32>; 2], rows: usize) -> Self::Rotation;
    /// What the layers of a step share, from cosines and sines `[N, Dh / 2]` of all rows; `window` as in [`Heads`].
    fn step(&self, tables: [Vec<f32>; 2], runs: &[RunLength], window: Option<usize>) -> Self::Step;
    /// Causal attention: normalises and rotates the heads of queries and keys, appends the new keys and values to each run's cache,
    /// and computes `softmax(q kᵀ / √Dh) v` over the keys that each row may see.
    ///
    /// # Shapes
    /// `q` `[N, H * Dh]`, `k` and `v` `[N, K * Dh]` → `[N, H * Dh]`; the runs' rows add up to `N`.
    fn causal_attention(&self, heads: Heads, qkv: [Self::Rows; 3], step: &Self::Step, runs: &mut [Run]) -> Self::Rows;
    /// Appends the keys and values of new rows to each run's cache as they are, neither normalised nor rotated.
    ///
    /// # Shapes
    /// `k` and `v` `[N, H * Dh]`; the runs' rows add up to `N`.
    fn append(&self, kv: [Self::Rows; 2], heads: usize, runs: &mut [Run]);
    /// `softmax(q kᵀ / √Dh) v` over the keys that the runs' caches hold: the rows of a run see all of them, or, if `causal`, those up to
    /// their own, which are the last of the cache.
    ///
    /// # Shapes
    /// `q` `[N, H * Dh]` → `[N, H * Dh]`; the runs' rows add up to `N`.
    fn attend(&self, q: Self::Rows, heads: usize, runs: &mut [Run], causal: bool) -> Self::Rows;
    /// Full attention inside each window of rows and none across windows; if a rotation is given, queries and keys are rotated
    /// first.
    ///
    /// # Shapes
    /// → `[N, D]`; the windows add up to `N`.
    fn window_attention(
        &self,
        qkv: Qkv<Self::Rows>,
        heads: usize,
        windows: &[usize],
        rotation: Option<&Self::Rotation>,
    ) -> Self::Rows;

    /// Chooses the experts of each row: softmax over all in f32, then the best `top_k`. `runs` are the numbers of rows of each run.
    fn route(&self, x: &mut Self::Rows, router: &Router, runs: &[usize]) -> Self::Routing;
    /// The routing of a range of rows, for a probe.
    fn routing(&self, routing: &Self::Routing, rows: Range<usize>) -> Routing;
    /// `residual + Σ weight · expert(x)`.
    fn experts(
        &self,
        residual: Self::Rows,
        x: &mut Self::Rows,
        routing: &Self::Routing,
        experts: &Experts,
    ) -> Self::Rows;
    /// `residual + sigmoid(gate) · y`, with one gate `[N, 1]` per row.
    fn add_gated(&self, residual: Self::Rows, y: Self::Rows, gate: &Self::Rows) -> Self::Rows;

    /// Splits logits into one row each, for another crate's sampler.
    fn logits(&self, x: Self::Rows) -> Vec<Logits>;
    /// Samples the next id of each row with its own sampler.
    fn sample(&self, logits: Self::Rows, samplers: &mut [&mut Sampler]) -> Self::Ids;

    /// Runs one call of a model inside the thread pool, and afterwards frees what a large call took beyond what the engine keeps.
    fn call<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T;
}
