//! The engine of host memory: pooled buffers, this workspace's CPU kernels, and weights read where the file is mapped.

mod routing;
mod rows;

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use cpu_kernels::{AttentionShape, Epilogue, Expert, GemvOp, LinearArgs, LinearShape, Precision, SKINNY_MAX_ROWS};

pub use routing::HostRouting;
pub use rows::HostRows;

use super::awake;
use super::pool::{KEPT_BYTES, Pool};
use super::{Engine, Qkv, Run, RunLength, WeightedRow};
use crate::matrix::HostMatrix;
use crate::moe::{Experts, Router, Routing};
use crate::sampler::Logits;
use crate::tensors::with_f32_slice;
use crate::{Activation, Embedding, Heads, LayerNorm, Linear, RmsNorm, Sampler, Vector};

/// Computes in host memory with this workspace's CPU kernels.
#[derive(Debug, Clone)]
pub struct HostEngine {
    pool: Arc<Pool>,
    device: Device,
    /// Whether keys, values and the inputs of GEMMs of many rows are rounded to bf16.
    bf16: bool,
}

/// Cosines and sines `[N, Dh / 2]`.
pub type HostRotation = [Vec<f32>; 2];

impl HostEngine {
    /// Makes an engine; tensors for other crates are made on `device`, a CPU device of burn.
    pub fn new(device: &Device, bf16: bool) -> Self {
        Self { pool: Arc::default(), device: device.clone(), bf16 }
    }

    /// The device of tensors for other crates.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether bf16 is the number type of the computation.
    pub fn is_bf16(&self) -> bool {
        self.bf16
    }

    /// Takes rows `[rows, width]` from the pool; their values are unspecified until written.
    pub fn take(&self, rows: usize, width: usize) -> HostRows {
        HostRows(self.pool.take(rows, width))
    }

    /// Bytes of free buffers that are kept for the next call.
    pub fn pooled_bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// Most bytes of free buffers that an engine keeps between calls.
    pub const KEPT_BYTES: usize = KEPT_BYTES;

    fn precision(&self) -> Precision {
        if self.bf16 { Precision::Bf16 } else { Precision::F32 }
    }

    fn to_tensor(&self, values: Vec<f32>, width: usize) -> Tensor<2> {
        let rows = values.len() / width.max(1);
        Tensor::from_data(TensorData::new(values, [rows, width]), &self.device)
    }
}

fn bias_of(layer: &Linear) -> Option<&[f32]> {
    layer.bias.as_ref().map(Vector::host)
}

/// The epilogue of the kernel's GEMM that applies an activation.
fn epilogue(act: Activation) -> Epilogue {
    match act {
        Activation::None => Epilogue::Keep,
        Activation::Gelu => Epilogue::Gelu,
        Activation::GeluTanh => Epilogue::GeluTanh,
        // The kernel has no such epilogue; SiLU is applied afterwards.
        Activation::Silu => Epilogue::Keep,
    }
}

/// Linear layer of many rows, with its epilogue.
fn apply_linear(x: &HostRows, layer: &Linear, epilogue: Epilogue, y: &mut [f32]) {
    let matrix = layer.weight.host();
    let shape = LinearShape { rows: x.0.rows(), input: layer.input(), output: layer.output() };
    let args =
        LinearArgs { weight: matrix.weight(), bias: bias_of(layer), shape, precision: matrix.precision, epilogue };
    args.apply(x.values(), y);
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

impl Engine for HostEngine {
    type Rows = HostRows;
    type Ids = Vec<u32>;
    type Rotation = HostRotation;
    type Step = HostRotation;
    type Routing = HostRouting;

    fn rows(&self, parts: &[&Tensor<2>]) -> HostRows {
        let width = parts[0].dims()[1];
        let mut x = self.take(parts.iter().map(|part| part.dims()[0]).sum(), width);
        let mut rest = x.values_mut();
        for part in parts {
            assert_eq!(part.dims()[1], width, "rows of one width");
            let (these, others) = rest.split_at_mut(part.dims()[0] * width);
            with_f32_slice(part, |values| these.copy_from_slice(values));
            rest = others;
        }
        x
    }

    fn tensor(&self, x: &HostRows, rows: Range<usize>) -> Tensor<2> {
        let width = x.0.width();
        self.to_tensor(x.values()[rows.start * width..rows.end * width].to_vec(), width)
    }

    fn values(&self, x: HostRows) -> Vec<f32> {
        x.values().to_vec()
    }

    fn shape(&self, x: &HostRows) -> [usize; 2] {
        x.shape()
    }

    fn reshape(&self, mut x: HostRows, width: usize) -> HostRows {
        let values = x.values().len();
        assert!(values.is_multiple_of(width), "{values} values are no rows of {width}");
        // The number of values stays the same, so none moves.
        x.0.fill(values / width, width);
        x
    }

    fn select(&self, x: &HostRows, rows: &[usize]) -> HostRows {
        let width = x.0.width();
        let mut y = self.take(rows.len(), width);
        let copies = y.values_mut().chunks_exact_mut(width).zip(rows);
        copies.for_each(|(y, row)| y.copy_from_slice(&x.values()[row * width..][..width]));
        y
    }

    fn widened(&self, x: &HostRows) -> HostRows {
        let [rows, width] = x.shape();
        let mut y = self.take(rows, width);
        y.values_mut().copy_from_slice(x.values());
        y
    }

    fn add(&self, mut x: HostRows, y: &HostRows) -> HostRows {
        assert_eq!(x.shape(), y.shape(), "rows of one shape");
        add(x.values_mut(), y.values());
        x
    }

    fn add_rows(&self, mut x: HostRows, at: &[usize], rows: &Tensor<2>) -> HostRows {
        let width = x.0.width();
        let values = x.values_mut();
        with_f32_slice(rows, |rows| {
            at.iter().zip(rows.chunks_exact(width)).for_each(|(at, row)| add(&mut values[at * width..][..width], row));
        });
        x
    }

    fn ids(&self, ids: &[u32]) -> Vec<u32> {
        ids.to_vec()
    }

    fn read_ids(&self, parts: &[Vec<u32>]) -> Vec<u32> {
        parts.concat()
    }

    fn embed(&self, table: &Embedding, ids: &Vec<u32>) -> HostRows {
        let [rows, width] = table.weight.shape();
        let mut x = self.take(ids.len(), width);
        for (id, row) in ids.iter().zip(x.values_mut().chunks_exact_mut(width)) {
            assert!((*id as usize) < rows, "id {id} in a table of {rows} rows");
            table.weight.host().weight().read(*id as usize, width, 0, row);
        }
        x
    }

    fn embed_mean(&self, table: &Embedding, ids: &[u32], per_row: usize) -> HostRows {
        let all = self.embed(table, &ids.to_vec());
        let width = table.width();
        let mut x = self.take(ids.len() / per_row, width);
        for (x, rows) in x.values_mut().chunks_exact_mut(width).zip(all.values().chunks_exact(per_row * width)) {
            x.fill(0.0);
            rows.chunks_exact(width).for_each(|row| add(x, row));
            x.iter_mut().for_each(|x| *x /= per_row as f32);
        }
        x
    }

    fn add_weighted(&self, mut x: HostRows, table: &Embedding, rows: &[[WeightedRow; 4]]) -> HostRows {
        let width = table.width();
        let mut row = vec![0.0; width];
        for (x, corners) in x.values_mut().chunks_exact_mut(width).zip(rows) {
            for (index, weight) in corners {
                table.weight.host().weight().read(*index, width, 0, &mut row);
                x.iter_mut().zip(&row).for_each(|(x, row)| *x += row * weight);
            }
        }
        x
    }

    fn linear<const N: usize>(&self, x: &mut HostRows, layers: [&Linear; N]) -> [HostRows; N] {
        let rows = x.0.rows();
        let mut outputs = layers.map(|layer| self.take(rows, layer.output()));
        if rows > SKINNY_MAX_ROWS {
            layers
                .iter()
                .zip(&mut outputs)
                .for_each(|(layer, y)| apply_linear(x, layer, Epilogue::Keep, y.values_mut()));
            return outputs;
        }
        let mut outputs_left = outputs.iter_mut();
        let mut ops = layers.map(|layer| GemvOp {
            weight: layer.weight.host().weight(),
            output: layer.output(),
            bias: bias_of(layer),
            y: outputs_left.next().expect("one output for each layer").values_mut(),
        });
        cpu_kernels::gemv_batch(&mut x.0, Precision::F32, &mut ops);
        outputs
    }

    fn linear_act(&self, x: &mut HostRows, layer: &Linear, act: Activation) -> HostRows {
        let mut y = self.take(x.0.rows(), layer.output());
        apply_linear(x, layer, epilogue(act), y.values_mut());
        if act == Activation::Silu {
            y.values_mut().iter_mut().for_each(|y| *y *= cpu_kernels::sigmoid(*y));
        }
        y
    }

    fn add_linear(&self, mut residual: HostRows, x: &mut HostRows, layer: &Linear, scale: Option<&Vector>) -> HostRows {
        if x.0.rows() > SKINNY_MAX_ROWS && scale.is_none() {
            apply_linear(x, layer, Epilogue::Add, residual.values_mut());
            return residual;
        }
        let [y] = self.linear(x, [layer]);
        match scale.map(Vector::host) {
            Some(scale) => {
                let rows =
                    residual.values_mut().chunks_exact_mut(scale.len()).zip(y.values().chunks_exact(scale.len()));
                rows.for_each(|(x, y)| x.iter_mut().zip(y).zip(scale).for_each(|((x, y), scale)| *x += y * scale));
            }
            None => add(residual.values_mut(), y.values()),
        }
        residual
    }

    fn silu_gate(&self, x: &mut HostRows, gate: &Linear, up: &Linear) -> HostRows {
        let [mut gate, up] = self.linear(x, [gate, up]);
        cpu_kernels::silu_multiply(gate.values_mut(), up.values());
        gate
    }

    fn rms_norm(&self, x: &HostRows, norm: &RmsNorm) -> HostRows {
        let [rows, width] = x.shape();
        let (mut y, weight, eps) = (self.take(rows, width), norm.weight.host(), norm.eps as f32);
        let pairs = x.values().chunks_exact(width).zip(y.values_mut().chunks_exact_mut(width));
        pairs.for_each(|(x, y)| cpu_kernels::rms_norm(x, weight, eps, y));
        y
    }

    fn layer_norm(&self, x: &HostRows, norm: &LayerNorm) -> HostRows {
        let [rows, width] = x.shape();
        let mut y = self.take(rows, width);
        cpu_kernels::layer_norm(x.values(), [norm.weight.host(), norm.bias.host()], norm.eps as f32, y.values_mut());
        y
    }

    fn rotation(&self, tables: [Vec<f32>; 2], _: usize) -> HostRotation {
        tables
    }

    fn step(&self, tables: [Vec<f32>; 2], _: &[RunLength], _: Option<usize>) -> HostRotation {
        tables
    }

    fn causal_attention(
        &self,
        Heads { heads, kv_heads, head_dim, window, norms: [q_norm, k_norm] }: Heads,
        [mut q, mut k, v]: [HostRows; 3],
        [cos, sin]: &HostRotation,
        runs: &mut [Run],
    ) -> HostRows {
        let rows = q.0.rows();
        let (half, kv_width) = (head_dim / 2, kv_heads * head_dim);
        let rotate = |x: &mut HostRows, norm: Option<&RmsNorm>| {
            let width = x.0.width();
            for (row, x) in x.values_mut().chunks_exact_mut(width).enumerate() {
                let of_row = row * half..(row + 1) * half;
                for head in x.chunks_exact_mut(head_dim) {
                    if let Some(norm) = norm {
                        cpu_kernels::rms_norm_in_place(head, norm.weight.host(), norm.eps as f32);
                    }
                    cpu_kernels::rotate(head, &cos[of_row.clone()], &sin[of_row.clone()]);
                }
            }
        };
        rotate(&mut q, q_norm);
        rotate(&mut k, k_norm);
        let mut new = k.values().chunks_exact(kv_width).zip(v.values().chunks_exact(kv_width));
        for run in runs.iter_mut() {
            let cache = run.cache.paged(kv_heads, head_dim, self.bf16);
            new.by_ref().take(run.rows).for_each(|(k, v)| cache.append(k, v));
        }
        let attended: Vec<cpu_kernels::CachedRun> = runs
            .iter_mut()
            .map(|run| cpu_kernels::CachedRun { cache: run.cache.paged(kv_heads, head_dim, self.bf16), rows: run.rows })
            .collect();
        let mut y = self.take(rows, heads * head_dim);
        cpu_kernels::cached_attention(q.values(), &attended, heads, window, self.precision(), y.values_mut());
        if let Some(window) = window {
            runs.iter_mut().for_each(|run| run.cache.paged(kv_heads, head_dim, self.bf16).forget_before(window));
        }
        y
    }

    fn append(&self, [k, v]: [HostRows; 2], heads: usize, runs: &mut [Run]) {
        let width = k.0.width();
        let mut new = k.values().chunks_exact(width).zip(v.values().chunks_exact(width));
        for run in runs {
            let cache = run.cache.paged(heads, width / heads, self.bf16);
            new.by_ref().take(run.rows).for_each(|(k, v)| cache.append(k, v));
        }
    }

    fn attend(&self, q: HostRows, heads: usize, runs: &mut [Run], causal: bool) -> HostRows {
        let [rows, width] = q.shape();
        let attended: Vec<cpu_kernels::CachedRun> = runs
            .iter_mut()
            .flat_map(|run| {
                let rows = run.rows;
                let cache: &cpu_kernels::PagedKv = run.cache.paged(heads, width / heads, self.bf16);
                // A run of one row sees every key.
                let (count, rows) = if causal { (1, rows) } else { (rows, 1) };
                std::iter::repeat_n(cpu_kernels::CachedRun { cache, rows }, count)
            })
            .collect();
        let mut y = self.take(rows, width);
        cpu_kernels::cached_attention(q.values(), &attended, heads, None, self.precision(), y.values_mut());
        y
    }

    fn window_attention(
        &self,
        mut qkv: Qkv<HostRows>,
        heads: usize,
        windows: &[usize],
        rotation: Option<&HostRotation>,
    ) -> HostRows {
        if let Some([cos, sin]) = rotation {
            match &mut qkv {
                Qkv::Joined(x) => {
                    let stride = x.0.width();
                    cpu_kernels::rotate_rows(x.values_mut(), stride, 2 * heads, cos, sin);
                }
                Qkv::Split([q, k, _]) => {
                    for x in [q, k] {
                        let stride = x.0.width();
                        cpu_kernels::rotate_rows(x.values_mut(), stride, heads, cos, sin);
                    }
                }
            }
        }
        let (slices, rows, width, stride) = match &qkv {
            Qkv::Joined(x) => {
                let width = x.0.width() / 3;
                let from = |part: usize| &x.values()[(part * width).min(x.values().len())..];
                ([0, 1, 2].map(from), x.0.rows(), width, 3 * width)
            }
            Qkv::Split(parts) => {
                let [rows, width] = parts[0].shape();
                (parts.each_ref().map(HostRows::values), rows, width, width)
            }
        };
        let mut y = self.take(rows, width);
        let shape = AttentionShape { heads, width: width / heads, stride };
        cpu_kernels::window_attention(slices, windows, shape, self.precision(), y.values_mut());
        y
    }

    fn route(&self, x: &mut HostRows, router: &Router, runs: &[usize]) -> HostRouting {
        let [logits] = self.linear(x, [&router.gate]);
        let assignments = routing::choose(&logits, router, runs);
        HostRouting { logits, assignments, top_k: router.top_k }
    }

    fn routing(&self, routing: &HostRouting, rows: Range<usize>) -> Routing {
        let assignments = &routing.assignments[rows.start * routing.top_k..rows.end * routing.top_k];
        let weights = assignments.iter().map(|assignment| assignment.weight).collect();
        Routing {
            logits: self.tensor(&routing.logits, rows),
            weights: self.to_tensor(weights, routing.top_k),
            index: assignments.iter().map(|assignment| assignment.expert as u32).collect(),
        }
    }

    fn experts(&self, mut residual: HostRows, x: &mut HostRows, routing: &HostRouting, experts: &Experts) -> HostRows {
        let matrices = experts.host();
        let (inner, precision) = (experts.inner(), matrices[0][0].precision);
        let assignments = &routing.assignments;
        self.pool.with_experts(|memory| {
            let expert = |e: usize| expert_of(&matrices[e]);
            cpu_kernels::experts(memory, &mut x.0, assignments, inner, expert, precision, residual.values_mut());
        });
        residual
    }

    fn add_gated(&self, mut residual: HostRows, y: HostRows, gate: &HostRows) -> HostRows {
        let width = y.0.width();
        let rows = residual.values_mut().chunks_exact_mut(width).zip(y.values().chunks_exact(width));
        for ((x, y), gate) in rows.zip(gate.values()) {
            let share = cpu_kernels::sigmoid(*gate);
            x.iter_mut().zip(y).for_each(|(x, y)| *x += share * y);
        }
        residual
    }

    fn logits(&self, x: HostRows) -> Vec<Logits> {
        let width = x.0.width();
        x.values().chunks_exact(width).map(|row| Logits::Host(row.to_vec())).collect()
    }

    fn sample(&self, mut logits: HostRows, samplers: &mut [&mut Sampler]) -> Vec<u32> {
        let width = logits.0.width();
        let rows = logits.values_mut().chunks_exact_mut(width).zip(samplers);
        let each = rows.map(|(scores, sampler)| {
            let id = sampler.choose_row(scores);
            sampler.accept(id);
            id
        });
        each.collect()
    }

    fn call<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        // Started from a pool thread, parallel work needs no switch of threads.
        let result = match rayon::current_thread_index() {
            Some(_) => awake::run(f),
            None => rayon::scope(|_| awake::run(f)),
        };
        self.pool.trim(KEPT_BYTES);
        result
    }
}

/// The matrices of one expert, for the kernels.
fn expert_of([gate, up, down]: &[HostMatrix; 3]) -> Expert<'_> {
    Expert { gate: gate.weight(), up: up.weight(), down: down.weight() }
}
