//! The engine of burn tensors: runs on any device of burn; on an autodiff device every operation is differentiable.

use std::ops::Range;
use std::sync::OnceLock;

use burn::tensor::activation::silu;
use burn::tensor::kind::Basic;
use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use omni_core::Dtype;

use super::{Engine, Qkv, Run, RunLength, WeightedRow};
use crate::fused;
use crate::host_gradient::has_host_gradients;
use crate::mask::{Mask, MaskSpec};
use crate::moe::{DeviceRouting, Experts, Router, Routing};
use crate::sampler::Logits;
use crate::window::window_attention;
use crate::{Activation, Attention, Embedding, LayerNorm, Linear, Matrix, RmsNorm, Sampler, Vector};

/// Computes with burn tensors on one device.
#[derive(Debug, Clone)]
pub struct DeviceEngine {
    device: Device,
    dtype: Dtype,
}

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
    /// Makes an engine whose tensors have `dtype` and lie on `device`.
    pub fn new(device: &Device, dtype: Dtype) -> Self {
        Self { device: device.clone(), dtype }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number type of the tensors.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Makes a one-dimensional tensor of integers.
    pub fn integers(&self, values: impl IntoIterator<Item = i64>) -> Tensor<1, Int> {
        let values: Vec<i64> = values.into_iter().collect();
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), &self.device)
    }

    fn indices(&self, values: &[usize]) -> Tensor<1, Int> {
        self.integers(values.iter().map(|value| *value as i64))
    }

    fn rotation_in(&self, [cos, sin]: [Vec<f32>; 2], dtype: DType, rows: usize) -> DeviceRotation {
        let upload = |half: Vec<f32>| {
            let width = half.len() / rows.max(1);
            let values: Vec<f32> = half.chunks_exact(width.max(1)).flat_map(|half| [half, half].concat()).collect();
            Tensor::from_data(TensorData::new(values, [rows, 1, 2 * width]), (&self.device, dtype))
        };
        DeviceRotation { cos: upload(cos), sin: upload(sin) }
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

    /// Attention of all runs in one batch; they keep no keys.
    ///
    /// # Shapes
    /// `q` `[N, H, Dh]`, `k` and `v` `[N, K, Dh]` → `[N, H * Dh]`.
    fn attend_together(&self, qkv: [Tensor<3>; 3], mask: &Mask, padding: &Padding) -> Tensor<2> {
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
    fn attend(&self, qkv: [Tensor<3>; 3], run: &mut Run, mask: &LazyMask, window: Option<usize>) -> Tensor<2> {
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
    fn attended(&self, [q, k, v]: [Tensor<4>; 3], mask: &Mask) -> Tensor<2> {
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
    /// Rotates the heads of queries `[N, H, Dh]` and keys `[N, K, Dh]`, after their norms if they have any.
    fn apply(&self, x: [Tensor<3>; 2], norms: [Option<&RmsNorm>; 2]) -> [Tensor<3>; 2] {
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

/// Concatenates tensors along `axis`; a single one is returned as it is, without a copy.
pub(crate) fn joined<const D: usize, K: Basic>(mut parts: Vec<Tensor<D, K>>, axis: usize) -> Tensor<D, K> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, axis),
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
fn heads_of_runs(x: Tensor<2>, heads: usize, runs: &[usize]) -> Vec<Tensor<4>> {
    let [_, width] = x.dims();
    let each = pieces(x, runs).into_iter().zip(runs);
    each.map(|(x, rows)| x.reshape([1, *rows, heads, width / heads]).swap_dims(1, 2)).collect()
}

fn activate(x: Tensor<2>, act: Activation) -> Tensor<2> {
    match act {
        Activation::None => x,
        Activation::Gelu => fused::gelu(x),
        Activation::GeluTanh => crate::activation::gelu_tanh(x),
        Activation::Silu => silu(x),
    }
}

/// `x Wᵀ`.
fn product(x: Tensor<2>, matrix: &Matrix) -> Tensor<2> {
    match matrix.packed() {
        Some(packed) => gpu_kernels::linear_packed(x, &packed),
        None => {
            let [y] = gpu_kernels::linear(x, [matrix.tensor()]);
            y
        }
    }
}

/// `x Wᵀ + b` of several layers.
fn linear<const N: usize>(x: Tensor<2>, layers: [&Linear; N]) -> [Tensor<2>; N] {
    let mut biases = layers.iter().map(|layer| layer.bias.as_ref());
    let packed = layers.iter().any(|layer| layer.weight.packed().is_some());
    let outputs = match packed {
        true => layers.map(|layer| product(x.clone(), &layer.weight)),
        false => gpu_kernels::linear(x, layers.map(|layer| layer.weight.tensor())),
    }; // [N, out] each
    outputs.map(|y| match biases.next().flatten() {
        Some(bias) => y + bias.tensor().unsqueeze(),
        None => y,
    })
}

impl Engine for DeviceEngine {
    type Rows = Tensor<2>;
    type Ids = Tensor<1, Int>;
    type Rotation = DeviceRotation;
    type Step = DeviceStep;
    type Routing = DeviceRouting;

    fn rows(&self, parts: &[&Tensor<2>]) -> Tensor<2> {
        let parts = parts.iter().map(|part| (*part).clone().to_device(&self.device).cast(DType::from(self.dtype)));
        joined(parts.collect(), 0)
    }

    fn tensor(&self, x: &Tensor<2>, rows: Range<usize>) -> Tensor<2> {
        match rows.len() == x.dims()[0] {
            true => x.clone(),
            false => x.clone().narrow(0, rows.start, rows.len()),
        }
    }

    fn values(&self, x: Tensor<2>) -> Vec<f32> {
        crate::to_f32_vec(&x)
    }

    fn shape(&self, x: &Tensor<2>) -> [usize; 2] {
        x.dims()
    }

    fn reshape(&self, x: Tensor<2>, width: usize) -> Tensor<2> {
        x.reshape([-1, width as i32])
    }

    fn select(&self, x: &Tensor<2>, rows: &[usize]) -> Tensor<2> {
        match rows {
            [only] => x.clone().narrow(0, *only, 1),
            _ => x.clone().select(0, self.indices(rows)),
        }
    }

    fn widened(&self, x: &Tensor<2>) -> Tensor<2> {
        x.clone().cast(DType::F32)
    }

    fn add(&self, x: Tensor<2>, y: &Tensor<2>) -> Tensor<2> {
        let dtype = x.dtype();
        x + y.clone().cast(dtype)
    }

    fn add_rows(&self, x: Tensor<2>, at: &[usize], rows: &Tensor<2>) -> Tensor<2> {
        let rows = self.rows(&[rows]);
        x.select_assign(0, self.indices(at), rows, IndexingUpdateOp::Add)
    }

    fn ids(&self, ids: &[u32]) -> Tensor<1, Int> {
        self.integers(ids.iter().map(|id| i64::from(*id)))
    }

    fn read_ids(&self, parts: &[Tensor<1, Int>]) -> Vec<u32> {
        match parts {
            [] => Vec::new(),
            [only] => crate::moe::host_ids(only),
            _ => crate::moe::host_ids(&Tensor::cat(parts.to_vec(), 0)),
        }
    }

    fn embed(&self, table: &Embedding, ids: &Tensor<1, Int>) -> Tensor<2> {
        table.weight.select_rows(ids.clone())
    }

    fn embed_mean(&self, table: &Embedding, ids: &[u32], per_row: usize) -> Tensor<2> {
        let rows = self.embed(table, &self.ids(ids)); // [N * per_row, D]
        let [count, width] = rows.dims();
        rows.reshape([count / per_row, per_row, width]).mean_dim(1).squeeze_dim(1)
    }

    fn add_weighted(&self, x: Tensor<2>, table: &Embedding, rows: &[[WeightedRow; 4]]) -> Tensor<2> {
        let terms = (0..4).map(|corner| {
            let (indices, weights): (Vec<usize>, Vec<f32>) = rows.iter().map(|corners| corners[corner]).unzip();
            let weights = TensorData::new(weights, [rows.len(), 1]);
            let weights: Tensor<2> = Tensor::from_data(weights, (&self.device, DType::from(self.dtype)));
            self.embed(table, &self.indices(&indices)) * weights
        });
        x + terms.reduce(|sum, term| sum + term).expect("four terms")
    }

    fn linear<const N: usize>(&self, x: &mut Tensor<2>, layers: [&Linear; N]) -> [Tensor<2>; N] {
        linear(x.clone(), layers)
    }

    fn linear_act(&self, x: &mut Tensor<2>, layer: &Linear, act: Activation) -> Tensor<2> {
        if let (Activation::Gelu, Some(bias)) = (act, &layer.bias) {
            return fused::bias_gelu(x.clone().matmul(layer.weight.tensor().transpose()), bias.tensor());
        }
        let [y] = linear(x.clone(), [layer]);
        activate(y, act)
    }

    fn add_linear(&self, residual: Tensor<2>, x: &mut Tensor<2>, layer: &Linear, scale: Option<&Vector>) -> Tensor<2> {
        if let (None, None, Some(packed)) = (&layer.bias, scale, layer.weight.packed()) {
            return gpu_kernels::add_linear_packed(residual, x.clone(), &packed);
        }
        if layer.bias.is_none() {
            return gpu_kernels::add_linear(residual, x.clone(), layer.weight.tensor(), scale.map(Vector::tensor));
        }
        let [y] = linear(x.clone(), [layer]);
        residual
            + match scale {
                Some(scale) => y * scale.tensor().unsqueeze(),
                None => y,
            }
    }

    fn silu_gate(&self, x: &mut Tensor<2>, gate: &Linear, up: &Linear) -> Tensor<2> {
        let plain = |layer: &Linear| layer.bias.is_none() && layer.weight.packed().is_none();
        if has_host_gradients(x) || !plain(gate) || !plain(up) {
            let [gate, up] = linear(x.clone(), [gate, up]);
            return fused::silu_gate(gate, up);
        }
        gpu_kernels::linear_gate(x.clone(), gate.weight.tensor(), up.weight.tensor())
    }

    fn rms_norm(&self, x: &Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
        fused::rms_norm(x.clone(), norm.weight.tensor(), norm.eps)
    }

    fn layer_norm(&self, x: &Tensor<2>, norm: &LayerNorm) -> Tensor<2> {
        let (x, dtype) = (x.clone(), x.dtype());
        let [weight, bias] = [&norm.weight, &norm.bias].map(Vector::tensor);
        if dtype == DType::F32 {
            return burn::tensor::module::layer_norm(x, weight, Some(bias), norm.eps);
        }
        let x = x.cast(DType::F32);
        let centred = x.clone() - x.mean_dim(1);
        let variance = centred.clone().square().mean_dim(1);
        (centred / (variance + norm.eps).sqrt()).cast(dtype) * weight.unsqueeze() + bias.unsqueeze()
    }

    fn rotation(&self, tables: [Vec<f32>; 2], rows: usize) -> DeviceRotation {
        self.rotation_in(tables, DType::F32, rows)
    }

    fn step(&self, tables: [Vec<f32>; 2], runs: &[RunLength], window: Option<usize>) -> DeviceStep {
        let rows = runs.iter().map(|run| run.queries).sum();
        let mask = |run: &RunLength| {
            let spec = MaskSpec { queries: run.queries, keys: run.past + run.queries, window };
            LazyMask { spec, made: OnceLock::new() }
        };
        let rotation = self.rotation_in(tables, self.dtype.into(), rows);
        DeviceStep { rotation, masks: runs.iter().map(mask).collect(), window, padding: self.padding(runs) }
    }

    fn causal_attention(
        &self,
        attention: &Attention,
        [q, k, v]: [Tensor<2>; 3],
        step: &DeviceStep,
        runs: &mut [Run],
    ) -> Tensor<2> {
        let [heads, kv_heads, head_dim] = attention.sizes();
        let split = |x: Tensor<2>, heads: usize| {
            let rows = x.dims()[0];
            x.reshape([rows, heads, head_dim])
        };
        let [q, k] = step.rotation.apply([split(q, heads), split(k, kv_heads)], attention.head_norms());
        let v = split(v, kv_heads); // [N, K, Dh]
        if let Some(padding) = step.padding.as_ref().filter(|_| runs.iter().all(|run| run.cache.discards())) {
            return self.attend_together([q, k, v], step.masks[padding.longest_run].get(&self.device), padding);
        }
        let lengths: Vec<usize> = runs.iter().map(|run| run.rows).collect();
        let [q, k, v] = [q, k, v].map(|x| pieces(x, &lengths));
        let each = runs.iter_mut().zip(&step.masks).zip(q.into_iter().zip(k).zip(v));
        let heads = each.map(|((run, mask), ((q, k), v))| self.attend([q, k, v], run, mask, step.window));
        joined(heads.collect(), 0)
    }

    fn append(&self, kv: [Tensor<2>; 2], heads: usize, runs: &mut [Run]) {
        let lengths: Vec<usize> = runs.iter().map(|run| run.rows).collect();
        let [k, v] = kv.map(|x| heads_of_runs(x, heads, &lengths));
        for (run, (k, v)) in runs.iter_mut().zip(k.into_iter().zip(v)) {
            run.cache.tensors(None).append(k, v);
        }
    }

    fn attend(&self, q: Tensor<2>, heads: usize, runs: &mut [Run], causal: bool) -> Tensor<2> {
        let lengths: Vec<usize> = runs.iter().map(|run| run.rows).collect();
        let queries = heads_of_runs(q, heads, &lengths); // [1, H, T, Dh] each
        let each = runs.iter_mut().zip(queries).map(|(run, q)| {
            let [k, v] = run.cache.tensors(None).all();
            let mask = match causal {
                true => Mask::new(&MaskSpec { queries: run.rows, keys: k.dims()[2], window: None }, &self.device),
                false => Mask::open(run.rows, k.dims()[2], &self.device),
            };
            self.attended([q, k, v], &mask)
        });
        joined(each.collect(), 0)
    }

    fn window_attention(
        &self,
        qkv: Qkv<Tensor<2>>,
        heads: usize,
        windows: &[usize],
        rotation: Option<&DeviceRotation>,
    ) -> Tensor<2> {
        let parts = match qkv {
            Qkv::Split(parts) => parts,
            Qkv::Joined(x) => {
                let width = x.dims()[1] / 3;
                [0, 1, 2].map(|part| x.clone().narrow(1, part * width, width))
            }
        };
        let [q, k, v] = parts.map(|x| {
            let [rows, width] = x.dims();
            x.reshape([rows, heads, width / heads])
        });
        let [q, k] = match rotation {
            Some(rotation) => rotation.apply([q, k], [None, None]),
            None => [q, k],
        };
        window_attention([q, k, v], windows)
    }

    fn route(&self, x: &mut Tensor<2>, router: &Router, _: &[usize]) -> DeviceRouting {
        let [logits] = linear(x.clone(), [&router.gate]); // [N, E]
        let (weights, index) = gpu_kernels::route(logits.clone(), router.top_k, router.normalise);
        DeviceRouting { logits, weights, index }
    }

    fn routing(&self, routing: &DeviceRouting, rows: Range<usize>) -> Routing {
        Routing {
            logits: self.tensor(&routing.logits, rows.clone()),
            weights: self.tensor(&routing.weights, rows.clone()),
            index: crate::moe::host_ids(&routing.index.clone().narrow(0, rows.start, rows.len())),
        }
    }

    fn experts(&self, residual: Tensor<2>, x: &mut Tensor<2>, routing: &DeviceRouting, experts: &Experts) -> Tensor<2> {
        experts.on_device(residual, x.clone(), routing)
    }

    fn add_gated(&self, residual: Tensor<2>, y: Tensor<2>, gate: &Tensor<2>) -> Tensor<2> {
        gpu_kernels::add_gated(residual, y, gate.clone())
    }

    fn logits(&self, x: Tensor<2>) -> Vec<Logits> {
        match x.dims()[0] {
            1 => vec![Logits::Device(x)],
            _ => x.split(1, 0).into_iter().map(Logits::Device).collect(),
        }
    }

    fn sample(&self, logits: Tensor<2>, samplers: &mut [&mut Sampler]) -> Tensor<1, Int> {
        let rows = if samplers.len() == 1 { vec![logits] } else { logits.split(1, 0) };
        let each = rows.into_iter().zip(samplers.iter_mut());
        let ids = joined(each.map(|(row, sampler)| sampler.choose_tensor(row).squeeze_dim(1)).collect(), 0);
        if samplers.iter().any(|sampler| sampler.remembers()) {
            // One read for all parts, because each read waits for the device.
            let read = crate::moe::host_ids(&ids);
            samplers.iter_mut().zip(read).for_each(|(sampler, id)| sampler.accept(id));
        }
        ids
    }

    fn call<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        f()
    }
}
