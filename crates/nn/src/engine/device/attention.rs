//! Causal attention of the device engine: rotation, masks, and runs that are computed together.

use std::sync::OnceLock;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use gpu_kernels::CachedRun;

use super::engine::DeviceEngine;
use crate::engine::{Run, RunLength};
use crate::fused;
use crate::mask::{Mask, MaskSpec};
use crate::tensors::joined;
use crate::{Heads, RmsNorm};

/// Cosines and sines `[N, 1, Dh]`, the second half of a head repeating the first.
#[derive(Debug, Clone)]
pub struct DeviceRotation {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

/// What the layers of one step share.
#[derive(Debug)]
pub struct DeviceStep {
    rotation: DeviceRotation,
    /// Causal mask of each run, made when first needed: a padded batch needs only one.
    masks: Vec<LazyMask>,
    window: Option<usize>,
    /// Places of the rows in a padded batch; `None` for a single run, runs with a past, or much padding.
    padding: Option<Padding>,
}

/// A mask that is made when it is needed.
#[derive(Debug)]
struct LazyMask {
    spec: MaskSpec,
    made: OnceLock<Mask>,
}

impl LazyMask {
    fn get(&self, device: &Device) -> &Mask {
        self.made.get_or_init(|| Mask::new(&self.spec, device))
    }
}

/// Places of ragged rows in a batch `[B, T]` of runs that are padded at the end to the longest.
#[derive(Debug)]
struct Padding {
    batch: usize,
    longest: usize,
    /// The run whose mask is that of the batch.
    longest_run: usize,
    /// `[B * T]`: the row at each place; padding repeats a row, which no valid query sees.
    into: Tensor<1, Int>,
    /// `[N]`: the place of each row.
    back: Tensor<1, Int>,
}

/// Most places of a padded batch per row.
const MOST_PADDING: usize = 2;

impl DeviceEngine {
    pub(super) fn rotation_in(&self, [cos, sin]: [Vec<f32>; 2], dtype: DType, rows: usize) -> DeviceRotation {
        let upload = |half: Vec<f32>| {
            let width = half.len() / rows.max(1);
            let values: Vec<f32> = half.chunks_exact(width.max(1)).flat_map(|half| [half, half].concat()).collect();
            Tensor::from_data(TensorData::new(values, [rows, 1, 2 * width]), (&self.device, dtype))
        };
        DeviceRotation { cos: upload(cos), sin: upload(sin) }
    }

    /// What the layers of a step share, from tables of all rows.
    pub(super) fn step_of(&self, tables: [Vec<f32>; 2], runs: &[RunLength], window: Option<usize>) -> DeviceStep {
        let rows = runs.iter().map(|run| run.queries).sum();
        let mask = |run: &RunLength| {
            let spec = MaskSpec { queries: run.queries, keys: run.past + run.queries, window };
            LazyMask { spec, made: OnceLock::new() }
        };
        let rotation = self.rotation_in(tables, self.dtype.into(), rows);
        DeviceStep { rotation, masks: runs.iter().map(mask).collect(), window, padding: self.padding(runs) }
    }

    /// Plans a padded batch of runs without a past.
    fn padding(&self, runs: &[RunLength]) -> Option<Padding> {
        let (rows, longest) =
            (runs.iter().map(|run| run.queries).sum::<usize>(), runs.iter().map(|run| run.queries).max()?);
        let places = runs.len() * longest;
        if runs.len() < 2 || runs.iter().any(|run| run.past > 0 || run.queries == 0) || places > MOST_PADDING * rows {
            return None;
        }
        let (mut into, mut back, mut start) = (Vec::with_capacity(places), Vec::with_capacity(rows), 0);
        for (index, RunLength { queries, .. }) in runs.iter().enumerate() {
            into.extend((0..longest).map(|at| start + at.min(queries - 1)));
            back.extend((0..*queries).map(|at| index * longest + at));
            start += queries;
        }
        let longest_run = runs.iter().position(|run| run.queries == longest)?;
        let [into, back] = [into, back].map(|places| self.indices(&places));
        Some(Padding { batch: runs.len(), longest, longest_run, into, back })
    }

    /// Causal attention of all runs, each by its own cache.
    ///
    /// # Shapes
    /// `q` `[N, H * Dh]`, `k` and `v` `[N, K * Dh]` → `[N, H * Dh]`.
    pub(super) fn causal(&self, heads: Heads, qkv: [Tensor<2>; 3], step: &DeviceStep, runs: &mut [Run]) -> Tensor<2> {
        if Self::decodes(heads, &qkv[0], runs) {
            return Self::decode(heads, qkv, step, runs);
        }
        let [q, k, v] = qkv;
        let Heads { heads, kv_heads, head_dim, norms, .. } = heads;
        let split = |x: Tensor<2>, heads: usize| {
            let rows = x.dims()[0];
            x.reshape([rows, heads, head_dim])
        };
        let [q, k] = step.rotation.apply([split(q, heads), split(k, kv_heads)], norms);
        let v = split(v, kv_heads); // [N, K, Dh]
        if let Some(padding) = step.padding.as_ref().filter(|_| runs.iter().all(|run| run.cache.discards())) {
            return self.attend_padded([q, k, v], step.masks[padding.longest_run].get(&self.device), padding);
        }
        let lengths: Vec<usize> = runs.iter().map(|run| run.rows).collect();
        let [q, k, v] = [q, k, v].map(|x| pieces(x, &lengths));
        let each = runs.iter_mut().zip(&step.masks).zip(q.into_iter().zip(k).zip(v));
        let heads = each.map(|((run, mask), ((q, k), v))| self.attend_run([q, k, v], run, mask, step.window));
        joined(heads.collect(), 0)
    }

    /// Whether rotation, append and attention are one kernel for each of the runs.
    fn decodes(heads: Heads, q: &Tensor<2>, runs: &[Run]) -> bool {
        let Heads { head_dim, norms: [q_norm, k_norm], .. } = heads;
        let fits =
            |run: &Run| run.cache.grows() && gpu_kernels::decodes(q, head_dim, run.rows, run.cache.len() + run.rows);
        q_norm.is_some() == k_norm.is_some() && runs.iter().all(fits)
    }

    /// Attention of runs that each add a few rows to their caches.
    fn decode(heads: Heads, qkv: [Tensor<2>; 3], step: &DeviceStep, runs: &mut [Run]) -> Tensor<2> {
        let [q_norm, k_norm] = heads.norms;
        let norms = q_norm.zip(k_norm).map(|(q, k)| [q.on_device(), k.on_device()]);
        let cached = runs.iter_mut().map(|Run { cache, rows }| {
            let (store, held) = cache.tensors(step.window).take_with_room(*rows).expect("the cache holds tensors");
            CachedRun { store, held, rows: *rows }
        });
        let DeviceRotation { cos, sin } = &step.rotation;
        let (heads, stores) =
            gpu_kernels::decode_attention(qkv, norms.as_ref(), [cos, sin], cached.collect(), step.window);
        for (Run { cache, rows }, store) in runs.iter_mut().zip(stores) {
            cache.tensors(step.window).put_back(store, *rows);
        }
        heads
    }

    /// Attention of all runs in one batch; they keep no keys.
    ///
    /// # Shapes
    /// `q` `[N, H, Dh]`, `k` and `v` `[N, K, Dh]` → `[N, H * Dh]`.
    fn attend_padded(&self, qkv: [Tensor<3>; 3], mask: &Mask, padding: &Padding) -> Tensor<2> {
        let Padding { batch, longest, .. } = *padding;
        let [q, k, v] = qkv.map(|x| {
            let [_, heads, head_dim] = x.dims();
            x.select(0, padding.into.clone()).reshape([batch, longest, heads, head_dim]).swap_dims(1, 2)
        }); // [B, H, T, Dh]
        self.attended([q, k, v], mask).select(0, padding.back.clone())
    }

    /// Attention of one run over the keys of its cache and its own.
    ///
    /// # Shapes
    /// `q` `[T, H, Dh]`, `k` and `v` `[T, K, Dh]` → `[T, H * Dh]`.
    fn attend_run(&self, qkv: [Tensor<3>; 3], run: &mut Run, mask: &LazyMask, window: Option<usize>) -> Tensor<2> {
        let [q, k, v] = qkv;
        let [k, v] = [k, v].map(|x| x.swap_dims(0, 1).unsqueeze::<4>()); // [1, K, T, Dh]
        let [k, v] = if run.cache.discards() { [k, v] } else { run.cache.tensors(window).append(k, v) }; // [1, K, S, Dh]
        if gpu_kernels::attends(&q, k.dims()[2]) {
            return gpu_kernels::attend(q, [k, v], window);
        }
        self.attended([q.swap_dims(0, 1).unsqueeze(), k, v], mask.get(&self.device))
    }

    /// `softmax(q kᵀ / √Dh) v`.
    ///
    /// # Shapes
    /// `q` `[B, H, T, Dh]`, `k` and `v` `[B, K, S, Dh]` → `[B * T, H * Dh]`.
    pub(super) fn attended(&self, [q, k, v]: [Tensor<4>; 3], mask: &Mask) -> Tensor<2> {
        let [batch, heads, queries, head_dim] = q.dims();
        let kv_heads = k.dims()[1];
        let q = q * (head_dim as f64).powf(-0.5);
        let blocks: Vec<Tensor<4>> = mask
            .blocks()
            .map(|block| {
                // The query heads that share a key/value head are folded into the query axis, so keys are never copied.
                let group = heads / kv_heads;
                let q = q.clone().narrow(2, block.start, block.queries);
                let q = q.reshape([batch, kv_heads, group * block.queries, head_dim]); // [B, K, G * T, Dh]
                let scores = q.matmul(k.clone().swap_dims(2, 3)); // [B, K, G * T, S]
                let weights = fused::softmax(scores, block.bias.as_ref());
                let out = weights.matmul(v.clone()); // [B, K, G * T, Dh]
                out.reshape([batch, heads, block.queries, head_dim])
            })
            .collect();
        joined(blocks, 2).swap_dims(1, 2).reshape([batch * queries, heads * head_dim])
    }
}

impl DeviceRotation {
    /// Cosines and sines.
    pub(super) fn tables(&self) -> [&Tensor<3>; 2] {
        [&self.cos, &self.sin]
    }

    /// Rotates the heads of queries `[N, H, Dh]` and keys `[N, K, Dh]`, after their norms if they have any.
    pub(super) fn apply(&self, x: [Tensor<3>; 2], norms: [Option<&RmsNorm>; 2]) -> [Tensor<3>; 2] {
        let Self { cos, sin } = self;
        if let [Some(q), Some(k)] = norms {
            let weights = [q, k].map(|norm| norm.weight.tensor());
            return fused::rms_norm_rotate(x, weights, [q.eps, k.eps], cos, sin);
        }
        let normed = |x: Tensor<3>, norm: Option<&RmsNorm>| match norm {
            Some(norm) => fused::rms_norm(x, norm.weight.tensor(), norm.eps),
            None => x,
        };
        let ([q, k], [q_norm, k_norm]) = (x, norms);
        fused::rotate([normed(q, q_norm), normed(k, k_norm)], cos, sin)
    }
}

/// Splits consecutive runs along the first axis; with a single run, returns the tensor as it is.
fn pieces<const D: usize>(x: Tensor<D>, lengths: &[usize]) -> Vec<Tensor<D>> {
    match lengths {
        [_] => vec![x],
        _ => x.split_with_sizes(lengths.to_vec(), 0),
    }
}

/// `[N, H * Dh]` → `[1, H, T, Dh]` of each run.
pub(super) fn heads_of_runs(x: Tensor<2>, heads: usize, runs: &[usize]) -> Vec<Tensor<4>> {
    let [_, width] = x.dims();
    let each = pieces(x, runs).into_iter().zip(runs);
    each.map(|(x, rows)| x.reshape([1, *rows, heads, width / heads]).swap_dims(1, 2)).collect()
}
