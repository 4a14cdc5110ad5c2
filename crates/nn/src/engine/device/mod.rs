//! The engine of burn tensors: runs on any device of burn; on an autodiff device every operation is differentiable.

mod attention;
mod engine;
mod rows;

use std::ops::Range;

use burn::tensor::activation::silu;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};
use gpu_kernels::BiasActivation;

use self::attention::heads_of_runs;
pub use self::attention::{DeviceRotation, DeviceStep};
pub use self::engine::DeviceEngine;
pub use self::rows::DeviceRows;
use self::rows::{ToBias, ToEmbed, ToNorm, ToSum};
use super::{Engine, Qkv, Run, RunLength, WeightedRow};
use crate::fused;
use crate::host_gradient::has_host_gradients;
use crate::mask::{Mask, MaskSpec};
use crate::moe::{DeviceRouting, Experts, Router, Routing};
use crate::sampler::Logits;
use crate::tensors::joined;
use crate::{Activation, Embedding, Heads, LayerNorm, Linear, Matrix, RmsNorm, Sampler, Vector};

/// A range of rows.
fn part_of(x: &Tensor<2>, rows: Range<usize>) -> Tensor<2> {
    match rows.len() == x.dims()[0] {
        true => x.clone(),
        false => x.clone().narrow(0, rows.start, rows.len()),
    }
}

/// The sum in f32 of rows that are still to be looked up with those before, in the launch that looks them up.
fn added_up(sum: Option<&Tensor<2>>, x: &DeviceRows) -> Option<Tensor<2>> {
    let ToEmbed { table, ids } = x.pending_embed()?;
    let (rows, sum) = gpu_kernels::embed_add(table.clone(), ids.clone(), sum.cloned());
    x.settle(rows);
    Some(sum)
}

fn activate(x: Tensor<2>, act: Activation) -> Tensor<2> {
    match act {
        Activation::None => x,
        Activation::Gelu => fused::gelu(x),
        Activation::GeluTanh => gpu_kernels::gelu_tanh(x),
        Activation::Silu => silu(x),
    }
}

/// `x Wᵀ`.
fn product(x: Tensor<2>, matrix: &Matrix) -> Tensor<2> {
    match matrix.packed() {
        Some(packed) => {
            let [y] = gpu_kernels::linear_packed(x, [&packed]);
            y
        }
        None => {
            let [y] = gpu_kernels::linear(x, [matrix.tensor()]);
            y
        }
    }
}

/// `x Wᵀ` of several layers. A norm that is left to do is applied within the launch.
fn products<const N: usize>(x: &DeviceRows, layers: [&Linear; N]) -> [Tensor<2>; N] {
    let packed = layers.map(|layer| layer.weight.packed());
    let (outputs, normed) = match (x.pending_norm(), all_some(packed)) {
        (None, Some(packed)) => (gpu_kernels::linear_packed(x.tensor(), packed.each_ref()), None),
        (Some(ToNorm { x, norm }), Some(packed)) => gpu_kernels::norm_linear_packed(x.clone(), norm, packed.each_ref()),
        _ if packed.iter().any(Option::is_some) => (layers.map(|layer| product(x.tensor(), &layer.weight)), None),
        (None, None) => (gpu_kernels::linear(x.tensor(), layers.map(|layer| layer.weight.tensor())), None),
        (Some(ToNorm { x, norm }), None) => {
            gpu_kernels::norm_linear(x.clone(), norm, layers.map(|layer| layer.weight.tensor()))
        }
    };
    normed.into_iter().for_each(|normed| x.settle(normed));
    outputs // [N, out] each
}

/// All of them, if none is missing.
fn all_some<T: Copy, const N: usize>(each: [Option<T>; N]) -> Option<[T; N]> {
    each.iter().all(Option::is_some).then(|| each.map(|one| one.expect("none is missing")))
}

/// `x Wᵀ + b` of several layers. A bias may be left to what reads the rows.
fn linear<const N: usize>(x: &DeviceRows, layers: [&Linear; N]) -> [DeviceRows; N] {
    let mut biases = layers.iter().map(|layer| layer.bias.as_ref());
    products(x, layers).map(|y| match biases.next().flatten().map(Vector::tensor) {
        Some(bias) if gpu_kernels::adds_bias(&y, &bias) => DeviceRows::to_bias(y, bias),
        Some(bias) => (y + bias.unsqueeze()).into(),
        None => y.into(),
    })
}

impl Engine for DeviceEngine {
    type Rows = DeviceRows;
    type Ids = Tensor<1, Int>;
    type Rotation = DeviceRotation;
    type Step = DeviceStep;
    type Routing = DeviceRouting;

    fn rows(&self, parts: &[&Tensor<2>]) -> DeviceRows {
        self.joined_rows(parts).into()
    }

    fn tensor(&self, x: &DeviceRows, rows: Range<usize>) -> Tensor<2> {
        part_of(&x.tensor(), rows)
    }

    fn values(&self, x: DeviceRows) -> Vec<f32> {
        crate::to_f32_vec(&x.tensor())
    }

    fn shape(&self, x: &DeviceRows) -> [usize; 2] {
        x.dims()
    }

    fn reshape(&self, x: DeviceRows, width: usize) -> DeviceRows {
        x.into_tensor().reshape([-1, width as i32]).into()
    }

    fn select(&self, x: &DeviceRows, rows: &[usize]) -> DeviceRows {
        x.chosen(|x| match rows {
            [only] => x.narrow(0, *only, 1),
            _ => x.select(0, self.indices(rows)),
        })
    }

    fn widened(&self, x: &DeviceRows) -> DeviceRows {
        added_up(None, x).unwrap_or_else(|| x.tensor().cast(DType::F32)).into()
    }

    fn add(&self, x: DeviceRows, y: &DeviceRows) -> DeviceRows {
        let x = x.into_tensor();
        let dtype = x.dtype();
        let sum = if dtype == DType::F32 { added_up(Some(&x), y) } else { None };
        sum.unwrap_or_else(|| x + y.tensor().cast(dtype)).into()
    }

    fn add_rows(&self, x: DeviceRows, at: &[usize], rows: &Tensor<2>) -> DeviceRows {
        let rows = self.joined_rows(&[rows]);
        x.into_tensor().select_assign(0, self.indices(at), rows, IndexingUpdateOp::Add).into()
    }

    fn ids(&self, ids: &[u32]) -> Tensor<1, Int> {
        self.integers(ids.iter().map(|id| i64::from(*id)))
    }

    fn read_ids(&self, parts: &[Tensor<1, Int>]) -> Vec<u32> {
        match parts {
            [] => Vec::new(),
            _ => crate::moe::host_ids_of(parts.iter().cloned()),
        }
    }

    fn embed(&self, table: &Embedding, ids: &Tensor<1, Int>) -> DeviceRows {
        match &table.weight {
            Matrix::Dense(values) if gpu_kernels::embeds(&values.val(), ids) => {
                DeviceRows::to_embed(values.val(), ids.clone())
            }
            weight => weight.select_rows(ids.clone()).into(),
        }
    }

    fn embed_mean(&self, table: &Embedding, ids: &[u32], per_row: usize) -> DeviceRows {
        let rows = self.embed(table, &self.ids(ids)).into_tensor(); // [N * per_row, D]
        let [count, width] = rows.dims();
        rows.reshape([count / per_row, per_row, width]).mean_dim(1).squeeze_dim::<2>(1).into()
    }

    fn add_weighted(&self, x: DeviceRows, table: &Embedding, rows: &[[WeightedRow; 4]]) -> DeviceRows {
        let terms = (0..4).map(|corner| {
            let (indices, weights): (Vec<usize>, Vec<f32>) = rows.iter().map(|corners| corners[corner]).unzip();
            let weights = TensorData::new(weights, [rows.len(), 1]);
            let weights: Tensor<2> = Tensor::from_data(weights, (&self.device, DType::from(self.dtype)));
            self.embed(table, &self.indices(&indices)).into_tensor() * weights
        });
        (x.into_tensor() + terms.reduce(|sum, term| sum + term).expect("four terms")).into()
    }

    fn linear<const N: usize>(&self, x: &mut DeviceRows, layers: [&Linear; N]) -> [DeviceRows; N] {
        linear(x, layers)
    }

    fn linear_act(&self, x: &mut DeviceRows, layer: &Linear, act: Activation) -> DeviceRows {
        let [y] = products(x, [layer]);
        let Some(bias) = layer.bias.as_ref().map(Vector::tensor) else { return activate(y, act).into() };
        let joined = match act {
            Activation::Gelu => Some(BiasActivation::Gelu),
            Activation::GeluTanh => Some(BiasActivation::GeluTanh),
            Activation::None | Activation::Silu => None,
        };
        match joined.filter(|_| gpu_kernels::adds_bias(&y, &bias)) {
            Some(activation) => gpu_kernels::activate_biased(y, bias, activation),
            None if act == Activation::Gelu => fused::bias_gelu(y, bias),
            None => activate(y + bias.unsqueeze(), act),
        }
        .into()
    }

    fn add_linear(
        &self,
        residual: DeviceRows,
        x: &mut DeviceRows,
        layer: &Linear,
        scale: Option<&Vector>,
    ) -> DeviceRows {
        let residual = residual.into_tensor();
        if let (None, None, Some(packed)) = (&layer.bias, scale, layer.weight.packed()) {
            return gpu_kernels::add_linear_packed(residual, x.tensor(), &packed).into();
        }
        if layer.bias.is_none() {
            let scale = scale.map(Vector::tensor);
            return gpu_kernels::add_linear(residual, x.tensor(), layer.weight.tensor(), scale).into();
        }
        let [y] = linear(x, [layer]);
        match (scale, y.pending_bias()) {
            (None, Some(biased)) => DeviceRows::to_sum(residual, biased.clone()),
            (None, None) => (residual + y.into_tensor()).into(),
            (Some(scale), Some(ToBias { x, bias })) => {
                gpu_kernels::add_biased(residual, x.clone(), bias.clone(), Some(scale.tensor())).into()
            }
            (Some(scale), None) => (residual + y.into_tensor() * scale.tensor().unsqueeze()).into(),
        }
    }

    fn silu_gate(&self, x: &mut DeviceRows, gate: &Linear, up: &Linear) -> DeviceRows {
        if gate.bias.is_none()
            && up.bias.is_none()
            && let Some([gate, up]) = all_some([gate, up].map(|layer| layer.weight.packed()))
        {
            let (x, norm) = match x.pending_norm() {
                Some(ToNorm { x, norm }) => (x.clone(), Some(norm)),
                None => (x.tensor(), None),
            };
            return gpu_kernels::linear_gate_packed(x, norm, &gate, &up).into();
        }
        let plain = |layer: &Linear| layer.bias.is_none() && layer.weight.packed().is_none();
        if plain(gate) && plain(up) {
            let [gate, up] = [gate, up].map(|layer| layer.weight.tensor());
            if let Some(ToNorm { x, norm }) = x.pending_norm() {
                return gpu_kernels::norm_linear_gate(x.clone(), norm, gate, up).into();
            }
            if !has_host_gradients(&x.tensor()) {
                return gpu_kernels::linear_gate(x.tensor(), gate, up).into();
            }
        }
        let [gate, up] = linear(x, [gate, up]).map(DeviceRows::into_tensor);
        fused::silu_gate(gate, up).into()
    }

    fn rms_norm(&self, x: &DeviceRows, norm: &RmsNorm) -> DeviceRows {
        let (x, norm) = (x.tensor(), norm.on_device());
        match gpu_kernels::takes_norm(&x, &norm) {
            true => DeviceRows::to_norm(x, norm),
            false => fused::rms_norm(x, norm.weight, norm.eps).into(),
        }
    }

    fn layer_norm(&self, x: &DeviceRows, norm: &LayerNorm) -> DeviceRows {
        let norm = norm.on_device();
        let Some(ToSum { residual, biased: ToBias { x: y, bias } }) = x.pending_sum().cloned() else {
            return gpu_kernels::layer_norm(x.tensor(), &norm).into();
        };
        let (sum, normed) = gpu_kernels::add_layer_norm(residual, y, bias, &norm);
        x.settle(sum);
        normed.into()
    }

    fn rotation(&self, tables: [Vec<f32>; 2], rows: usize) -> DeviceRotation {
        self.rotation_in(tables, DType::F32, rows)
    }

    fn step(&self, tables: [Vec<f32>; 2], runs: &[RunLength], window: Option<usize>) -> DeviceStep {
        self.step_of(tables, runs, window)
    }

    fn causal_attention(&self, heads: Heads, qkv: [DeviceRows; 3], step: &DeviceStep, runs: &mut [Run]) -> DeviceRows {
        self.causal(heads, qkv.map(DeviceRows::into_tensor), step, runs).into()
    }

    fn append(&self, kv: [DeviceRows; 2], heads: usize, runs: &mut [Run]) {
        let lengths: Vec<usize> = runs.iter().map(|run| run.rows).collect();
        let [k, v] = kv.map(|x| heads_of_runs(x.into_tensor(), heads, &lengths));
        for (run, (k, v)) in runs.iter_mut().zip(k.into_iter().zip(v)) {
            run.cache.tensors(None).append(k, v);
        }
    }

    fn attend(&self, q: DeviceRows, heads: usize, runs: &mut [Run], causal: bool) -> DeviceRows {
        let lengths: Vec<usize> = runs.iter().map(|run| run.rows).collect();
        let queries = heads_of_runs(q.into_tensor(), heads, &lengths); // [1, H, T, Dh] each
        let each = runs.iter_mut().zip(queries).map(|(run, q)| {
            let [k, v] = run.cache.tensors(None).all();
            let mask = match causal {
                true => Mask::new(&MaskSpec { queries: run.rows, keys: k.dims()[2], window: None }, &self.device),
                false => Mask::open(run.rows, k.dims()[2], &self.device),
            };
            self.attended([q, k, v], &mask)
        });
        joined(each.collect(), 0).into()
    }

    fn window_attention(
        &self,
        qkv: Qkv<DeviceRows>,
        heads: usize,
        windows: &[usize],
        rotation: Option<&DeviceRotation>,
    ) -> DeviceRows {
        if let Qkv::Joined(x) = &qkv
            && let Some(ToBias { x, bias }) = x.pending_bias()
        {
            let (tables, windows) = (rotation.map(DeviceRotation::tables), self.windows(windows));
            return gpu_kernels::window_attention(x.clone(), bias.clone(), heads, tables, &windows).into();
        }
        let parts = match qkv {
            Qkv::Split(parts) => parts.map(DeviceRows::into_tensor),
            Qkv::Joined(x) => {
                let x = x.into_tensor();
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
        gpu_kernels::attend_windows([q, k, v], windows).into()
    }

    fn route(&self, x: &mut DeviceRows, router: &Router, _: &[usize]) -> DeviceRouting {
        let [logits] = linear(x, [&router.gate]).map(DeviceRows::into_tensor); // [N, E]
        let (weights, index) = gpu_kernels::route(logits.clone(), router.top_k, router.normalise);
        DeviceRouting { logits, weights, index }
    }

    fn routing(&self, routing: &DeviceRouting, rows: Range<usize>) -> Routing {
        Routing {
            logits: part_of(&routing.logits, rows.clone()),
            weights: part_of(&routing.weights, rows.clone()),
            index: crate::moe::host_ids(&routing.index.clone().narrow(0, rows.start, rows.len())),
        }
    }

    fn experts(
        &self,
        residual: DeviceRows,
        x: &mut DeviceRows,
        routing: &DeviceRouting,
        experts: &Experts,
    ) -> DeviceRows {
        experts.on_device(residual.into_tensor(), x.tensor(), routing).into()
    }

    fn add_gated(&self, residual: DeviceRows, y: DeviceRows, gate: &DeviceRows) -> DeviceRows {
        gpu_kernels::add_gated(residual.into_tensor(), y.into_tensor(), gate.tensor()).into()
    }

    fn logits(&self, x: DeviceRows) -> Vec<Logits> {
        let x = x.into_tensor();
        match x.dims()[0] {
            1 => vec![Logits::Device(x)],
            _ => x.split(1, 0).into_iter().map(Logits::Device).collect(),
        }
    }

    fn sample(&self, logits: DeviceRows, samplers: &mut [&mut Sampler]) -> Tensor<1, Int> {
        let logits = logits.into_tensor();
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
