//! The engine of burn tensors: runs on any device of burn; on an autodiff device every operation is differentiable.

use std::ops::Range;

use burn::tensor::activation::{sigmoid, silu, softmax};
use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use omni_core::Dtype;

use super::{Engine, Qkv, Run, RunLength, WeightedRow};
use crate::mask::{Mask, MaskSpec};
use crate::moe::{DeviceRouting, Experts, Router, Routing};
use crate::sampler::Logits;
use crate::window::window_attention;
use crate::{Activation, Attention, Embedding, LayerNorm, Linear, RmsNorm, Sampler, Vector};

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
    /// Causal mask of each run.
    masks: Vec<Mask>,
    window: Option<usize>,
}

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

    /// `softmax(q kᵀ / √Dh) v` of one run.
    ///
    /// # Shapes
    /// `q` `[T, H, Dh]`, `k` and `v` `[T, K, Dh]` → `[T, H * Dh]`.
    fn attend(&self, [q, k, v]: [Tensor<3>; 3], run: &mut Run, mask: &Mask, window: Option<usize>) -> Tensor<2> {
        let [queries, heads, head_dim] = q.dims();
        let kv_heads = k.dims()[1];
        let [q, k, v] = [q, k, v].map(|x| x.swap_dims(0, 1).unsqueeze::<4>()); // [1, H, T, Dh]
        let [k, v] = run.cache.tensors(window).append(k, v); // [1, K, S, Dh]
        let q = q * (head_dim as f64).powf(-0.5);
        let blocks: Vec<Tensor<4>> = mask
            .blocks()
            .map(|block| {
                // The query heads that share a key/value head are folded into the query axis, so keys are never copied.
                let (group, keys) = (heads / kv_heads, k.dims()[2]);
                let q = q.clone().narrow(2, block.start, block.queries);
                let q = q.reshape([1, kv_heads, group * block.queries, head_dim]); // [1, K, G * T, Dh]
                let dtype = q.dtype();
                let mut scores = q.matmul(k.clone().swap_dims(2, 3)).cast(DType::F32); // [1, K, G * T, S]
                if let Some(bias) = &block.bias {
                    let grouped = scores.reshape([1, kv_heads, group, block.queries, keys]) + bias.clone();
                    scores = grouped.reshape([1, kv_heads, group * block.queries, keys]);
                }
                let out = softmax(scores, 3).cast(dtype).matmul(v.clone()); // [1, K, G * T, Dh]
                out.reshape([1, heads, block.queries, head_dim])
            })
            .collect();
        joined(blocks, 2).swap_dims(1, 2).reshape([queries, heads * head_dim])
    }
}

impl DeviceRotation {
    /// `x * cos + rotate_half(x) * sin`, in the number type of the tables.
    ///
    /// # Shapes
    /// `[N, H, Dh]` → `[N, H, Dh]`.
    fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        let (dtype, half) = (x.dtype(), x.dims()[2] / 2);
        let x = x.cast(self.cos.dtype());
        let [first, second] = [x.clone().narrow(2, 0, half), x.clone().narrow(2, half, half)];
        let rotated = Tensor::cat(vec![second.neg(), first], 2);
        (x * self.cos.clone() + rotated * self.sin.clone()).cast(dtype)
    }
}

/// Concatenates tensors along `axis`; a single one is returned as it is, without a copy.
pub(crate) fn joined<const D: usize>(mut parts: Vec<Tensor<D>>, axis: usize) -> Tensor<D> {
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

fn activate(x: Tensor<2>, act: Activation) -> Tensor<2> {
    match act {
        Activation::None => x,
        Activation::Gelu => crate::activation::gelu(x),
        Activation::GeluTanh => crate::activation::gelu_tanh(x),
        Activation::Silu => silu(x),
    }
}

/// RMSNorm of the last axis.
fn rms_norm<const D: usize>(x: Tensor<D>, norm: &RmsNorm) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean_square = x.clone().square().mean_dim(D - 1);
    let normed = (x / (mean_square + norm.eps).sqrt()).cast(dtype);
    normed * norm.weight.tensor().unsqueeze()
}

/// `x Wᵀ + b`.
fn linear(x: Tensor<2>, layer: &Linear) -> Tensor<2> {
    let y = x.matmul(layer.weight.tensor().transpose()); // [N, out]
    match &layer.bias {
        Some(bias) => y + bias.tensor().unsqueeze(),
        None => y,
    }
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
        layers.map(|layer| linear(x.clone(), layer))
    }

    fn linear_act(&self, x: &mut Tensor<2>, layer: &Linear, act: Activation) -> Tensor<2> {
        activate(linear(x.clone(), layer), act)
    }

    fn add_linear(&self, residual: Tensor<2>, x: &mut Tensor<2>, layer: &Linear, scale: Option<&Vector>) -> Tensor<2> {
        let y = linear(x.clone(), layer);
        residual
            + match scale {
                Some(scale) => y * scale.tensor().unsqueeze(),
                None => y,
            }
    }

    fn silu_gate(&self, x: &mut Tensor<2>, gate: &Linear, up: &Linear) -> Tensor<2> {
        silu(linear(x.clone(), gate)) * linear(x.clone(), up)
    }

    fn rms_norm(&self, x: &Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
        rms_norm(x.clone(), norm)
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
            Mask::new(&spec, &self.device)
        };
        let rotation = self.rotation_in(tables, self.dtype.into(), rows);
        DeviceStep { rotation, masks: runs.iter().map(mask).collect(), window }
    }

    fn causal_attention(
        &self,
        attention: &Attention,
        [q, k, v]: [Tensor<2>; 3],
        step: &DeviceStep,
        runs: &mut [Run],
    ) -> Tensor<2> {
        let [heads, kv_heads, head_dim] = attention.sizes();
        let split = |x: Tensor<2>, heads: usize, norm: Option<&RmsNorm>| {
            let rows = x.dims()[0];
            let x = x.reshape([rows, heads, head_dim]);
            norm.map_or(x.clone(), |norm| rms_norm(x, norm))
        };
        let [q_norm, k_norm] = attention.head_norms();
        let q = step.rotation.apply(split(q, heads, q_norm)); // [N, H, Dh]
        let k = step.rotation.apply(split(k, kv_heads, k_norm)); // [N, K, Dh]
        let v = split(v, kv_heads, None); // [N, K, Dh]
        let lengths: Vec<usize> = runs.iter().map(|run| run.rows).collect();
        let [q, k, v] = [q, k, v].map(|x| pieces(x, &lengths));
        let each = runs.iter_mut().zip(&step.masks).zip(q.into_iter().zip(k).zip(v));
        let heads = each.map(|((run, mask), ((q, k), v))| self.attend([q, k, v], run, mask, step.window));
        joined(heads.collect(), 0)
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
        let [q, k] = [q, k].map(|x| rotation.map_or(x.clone(), |rotation| rotation.apply(x)));
        window_attention([q, k, v], windows)
    }

    fn route(&self, x: &mut Tensor<2>, router: &Router, _: &[usize]) -> DeviceRouting {
        let dtype = x.dtype();
        let logits = linear(x.clone(), &router.gate); // [N, E]
        let (weights, index) = softmax(logits.clone().cast(DType::F32), 1).topk_with_indices(router.top_k, 1);
        let weights = if router.normalise { weights.clone() / weights.sum_dim(1) } else { weights };
        DeviceRouting { logits, weights: weights.cast(dtype), index }
    }

    fn routing(&self, routing: &DeviceRouting, rows: Range<usize>) -> Routing {
        Routing {
            logits: self.tensor(&routing.logits, rows.clone()),
            weights: self.tensor(&routing.weights, rows.clone()),
            index: crate::moe::host_ids(&routing.index.clone().narrow(0, rows.start, rows.len())),
        }
    }

    fn experts(&self, residual: Tensor<2>, x: &mut Tensor<2>, routing: &DeviceRouting, experts: &Experts) -> Tensor<2> {
        residual + experts.on_device(x.clone(), routing)
    }

    fn add_gated(&self, residual: Tensor<2>, y: Tensor<2>, gate: &Tensor<2>) -> Tensor<2> {
        residual + sigmoid(gate.clone()) * y
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
        let mut ids: Vec<Tensor<1, Int>> =
            each.map(|(row, sampler)| sampler.choose_tensor(row).squeeze_dim(1)).collect();
        let ids = if ids.len() == 1 { ids.remove(0) } else { Tensor::cat(ids, 0) };
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
