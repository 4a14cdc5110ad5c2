//! A decoder stack on the CPU: the same computation as [`crate::Decoder`]'s on tensors, on plain memory that is used again from
//! step to step, with weights where they lie. Rows of several runs go through the weights together.

use std::cell::RefCell;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use kernels::{Choice, ExpertsMemory, Inputs, KvPages, Product, Run};

use crate::Probe;
use crate::matrix::HostMatrix;
use crate::moe::{Routing, expert_of};

/// Rows of a long prompt that go through all layers before the next ones: memory does not grow with the prompt.
const BLOCK: usize = 512;

/// All layers, as memory.
#[derive(Debug, Clone)]
pub(crate) struct HostDecoder {
    pub(crate) layers: Arc<[HostLayer]>,
    pub(crate) norm: HostNorm,
}

#[derive(Debug, Clone)]
pub(crate) struct HostNorm {
    pub(crate) weight: Vec<f32>,
    pub(crate) eps: f32,
}

#[derive(Debug, Clone)]
pub(crate) struct HostLayer {
    pub(crate) attention: HostAttention,
    pub(crate) mlp: HostFeedForward,
    pub(crate) input_norm: HostNorm,
    pub(crate) post_attention_norm: HostNorm,
}

#[derive(Debug, Clone)]
pub(crate) struct HostAttention {
    /// Queries, keys, values, output.
    pub(crate) projections: [HostMatrix; 4],
    /// Of each query and each key head.
    pub(crate) head_norms: Option<[HostNorm; 2]>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// Gate, up, down.
pub(crate) type HostMlp = [HostMatrix; 3];

#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // One per layer.
pub(crate) enum HostFeedForward {
    Dense(HostMlp),
    Experts {
        router: HostMatrix,
        top_k: usize,
        normalise: bool,
        experts: Arc<[HostMlp]>,
        /// The expert every row passes through, and its gate.
        shared: Option<(HostMlp, HostMatrix)>,
    },
}

/// New rows of one run.
pub(crate) struct HostRun<'a> {
    /// One per layer.
    pub(crate) caches: &'a mut [KvPages],
    pub(crate) rows: usize,
    /// `[rows, head width / 2]`.
    pub(crate) cos: &'a [f32],
    /// `[rows, head width / 2]`.
    pub(crate) sin: &'a [f32],
}

/// Rows that are added to the output of the first layers.
pub(crate) struct HostRows {
    /// Rows they are added to.
    pub(crate) indices: Vec<usize>,
    /// For each layer, `[indices, width]`.
    pub(crate) features: Vec<Vec<f32>>,
}

/// Memory of a step, kept from step to step.
#[derive(Default)]
struct Memory {
    normed: Inputs,
    inner: Inputs,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    up: Vec<f32>,
    out: Vec<f32>,
    logits: Vec<f32>,
    choices: Vec<Choice>,
    experts: ExpertsMemory,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl HostDecoder {
    /// Runs the rows `x` `[rows of all runs, width]` through all layers, in place, and the final norm.
    pub(crate) fn forward(
        &self,
        runs: &mut [HostRun],
        x: &mut [f32],
        width: usize,
        visual: Option<&HostRows>,
        look: Option<(&Device, &mut dyn Probe)>,
    ) {
        // Taken out of its cell: while this thread waits for the others it may begin another step.
        let mut memory = MEMORY.take();
        let rows = x.len() / width;
        if let [run] = runs
            && rows > BLOCK
        {
            let mut look = look;
            let mut looked: Vec<Vec<f32>> = vec![Vec::new(); self.layers.len()];
            for start in (0..rows).step_by(BLOCK) {
                let block = start..rows.min(start + BLOCK);
                let half = run.cos.len() / rows;
                let tables = block.start * half..block.end * half;
                let mut piece = [HostRun {
                    caches: run.caches,
                    rows: block.len(),
                    cos: &run.cos[tables.clone()],
                    sin: &run.sin[tables],
                }];
                let x = &mut x[block.start * width..block.end * width];
                let mut look = Look { at: reborrow(&mut look), looked: Some(&mut looked) };
                self.block(&mut piece, x, width, visual.map(|rows| (rows, block)), &mut look, &mut memory);
            }
            if let Some((device, probe)) = look {
                for (index, values) in looked.into_iter().enumerate().filter(|(_, values)| !values.is_empty()) {
                    probe.layer(index, &Tensor::from_data(TensorData::new(values, [1, rows, width]), device));
                }
            }
        } else {
            let mut look = look;
            let mut look = Look { at: reborrow(&mut look), looked: None };
            self.block(runs, x, width, visual.map(|visual| (visual, 0..rows)), &mut look, &mut memory);
        }
        MEMORY.set(memory);
    }

    fn block(
        &self,
        runs: &mut [HostRun],
        x: &mut [f32],
        width: usize,
        visual: Option<(&HostRows, std::ops::Range<usize>)>,
        look: &mut Look,
        memory: &mut Memory,
    ) {
        for (index, layer) in self.layers.iter().enumerate() {
            layer.attend(index, runs, x, width, memory);
            layer.feed_forward(index, x, width, look, memory);
            look.layer(index, x, width);
            let added = visual.as_ref().and_then(|(rows, range)| Some((rows, range, rows.features.get(index)?)));
            if let Some((rows, range, features)) = added {
                let places = rows.indices.iter().zip(features.chunks_exact(width));
                for (row, feature) in places.filter(|(row, _)| range.contains(row)) {
                    let x = &mut x[(row - range.start) * width..][..width];
                    x.iter_mut().zip(feature).for_each(|(x, feature)| *x += feature);
                }
            }
        }
        for row in x.chunks_exact_mut(width) {
            kernels::rms_norm_in_place(row, &self.norm.weight, self.norm.eps);
        }
    }
}

fn reborrow<'a>(look: &'a mut Option<(&Device, &mut dyn Probe)>) -> Option<(&'a Device, &'a mut dyn Probe)> {
    match look {
        Some((device, probe)) => Some((*device, &mut **probe)),
        None => None,
    }
}

/// Shows a probe what it wants to see: at once, or gathered if the rows come in blocks.
struct Look<'a> {
    at: Option<(&'a Device, &'a mut dyn Probe)>,
    looked: Option<&'a mut Vec<Vec<f32>>>,
}

impl Look<'_> {
    fn layer(&mut self, index: usize, x: &[f32], width: usize) {
        let Some((device, probe)) = self.at.as_mut().filter(|(_, probe)| probe.looks_at(index)) else { return };
        match &mut self.looked {
            Some(looked) => looked[index].extend_from_slice(x),
            None => {
                let shape = [1, x.len() / width, width];
                probe.layer(index, &Tensor::from_data(TensorData::new(x.to_vec(), shape), *device));
            }
        }
    }

    fn routing(&mut self, index: usize, logits: &[f32], choices: &[Choice], [rows, top_k]: [usize; 2]) {
        let seen = self.looked.is_none();
        let Some((device, probe)) = self.at.as_mut().filter(|(_, probe)| seen && probe.looks_at_routing()) else {
            return;
        };
        let device = *device;
        let shares: Vec<f32> = choices.iter().map(|choice| choice.share).collect();
        let index_values: Vec<i64> = choices.iter().map(|choice| choice.expert as i64).collect();
        let experts = logits.len() / rows;
        let chosen: Tensor<2, Int> = Tensor::from_data(TensorData::new(index_values, [rows, top_k]), device);
        probe.routing(
            index,
            &Routing {
                logits: Tensor::from_data(TensorData::new(logits.to_vec(), [rows, experts]), device),
                weights: Tensor::from_data(TensorData::new(shares, [rows, top_k]), device),
                index: chosen,
            },
        );
    }
}

fn product<'a>(matrix: &'a HostMatrix, rows: usize, y: &'a mut Vec<f32>) -> Product<'a> {
    let output = matrix.stored.shape()[0];
    y.resize(rows * output, 0.0);
    Product { weight: matrix.weight(), output, bias: None, y }
}

fn norm_rows(x: &[f32], width: usize, norm: &HostNorm, inputs: &mut Inputs) {
    let rows = x.len() / width;
    let normed = inputs.fill(rows, width).chunks_exact_mut(width);
    x.chunks_exact(width).zip(normed).for_each(|(x, y)| kernels::rms_norm(x, &norm.weight, norm.eps, y));
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

impl HostLayer {
    fn attend(&self, index: usize, runs: &mut [HostRun], x: &mut [f32], width: usize, memory: &mut Memory) {
        let HostAttention { projections: [q, k, v, o], head_norms, heads, kv_heads, head_dim } = &self.attention;
        let (rows, head_dim) = (x.len() / width, *head_dim);
        let Memory { normed, inner, queries, keys, values, out, .. } = memory;
        norm_rows(x, width, &self.input_norm, normed);
        let projections = &mut [product(q, rows, queries), product(k, rows, keys), product(v, rows, values)];
        kernels::products(normed, q.precision, projections);
        let mut row = 0;
        for run in runs.iter_mut() {
            for at in 0..run.rows {
                let half = head_dim / 2;
                let (cos, sin) = (&run.cos[at * half..][..half], &run.sin[at * half..][..half]);
                let turn = |heads: &mut [f32], norm: Option<&HostNorm>| {
                    for head in heads.chunks_exact_mut(head_dim) {
                        if let Some(norm) = norm {
                            kernels::rms_norm_in_place(head, &norm.weight, norm.eps);
                        }
                        kernels::rotate(head, cos, sin);
                    }
                };
                let norms = head_norms.as_ref().map(|[q, k]| (q, k));
                turn(&mut queries[row * heads * head_dim..][..heads * head_dim], norms.map(|(q, _)| q));
                let of_row = row * kv_heads * head_dim..(row + 1) * kv_heads * head_dim;
                turn(&mut keys[of_row.clone()], norms.map(|(_, k)| k));
                run.caches[index].append(&keys[of_row.clone()], &values[of_row]);
                row += 1;
            }
        }
        let mut first = 0;
        let attended: Vec<Run> = runs
            .iter()
            .map(|run| {
                first += run.rows;
                Run { cache: &run.caches[index], first: first - run.rows, rows: run.rows }
            })
            .collect();
        kernels::cached_attention(queries, &attended, *heads, None, q.precision, inner.fill(rows, heads * head_dim));
        kernels::products(inner, o.precision, &mut [product(o, rows, out)]);
        add(x, out);
    }

    fn feed_forward(&self, index: usize, x: &mut [f32], width: usize, look: &mut Look, memory: &mut Memory) {
        norm_rows(x, width, &self.post_attention_norm, &mut memory.normed);
        match &self.mlp {
            HostFeedForward::Dense(mlp) => {
                gated_mlp(mlp, memory);
                add(x, &memory.out);
            }
            HostFeedForward::Experts { router, top_k, normalise, experts, shared } => {
                let rows = x.len() / width;
                if let Some((mlp, gate)) = shared {
                    gated_mlp(mlp, memory);
                    kernels::products(&mut memory.normed, gate.precision, &mut [product(gate, rows, &mut memory.up)]);
                    for ((x, out), gate) in
                        x.chunks_exact_mut(width).zip(memory.out.chunks_exact(width)).zip(&memory.up)
                    {
                        let share = kernels::sigmoid(*gate);
                        x.iter_mut().zip(out).for_each(|(x, out)| *x += share * out);
                    }
                }
                let Memory { normed, logits, choices, experts: experts_memory, .. } = memory;
                kernels::products(normed, router.precision, &mut [product(router, rows, logits)]);
                choose(logits, rows, *top_k, *normalise, choices);
                look.routing(index, logits, choices, [rows, *top_k]);
                let inner = experts[0][0].stored.shape()[0];
                let precision = experts[0][0].precision;
                kernels::experts(experts_memory, normed, choices, inner, |e| expert_of(&experts[e]), precision, x);
            }
        }
    }
}

/// Of the normed rows, into `memory.out`.
fn gated_mlp([gate, up, down]: &HostMlp, memory: &mut Memory) {
    let Memory { normed, inner, up: upped, out, .. } = memory;
    let (rows, width) = (normed.rows(), gate.stored.shape()[0]);
    let gated = Product { weight: gate.weight(), output: width, bias: None, y: inner.fill(rows, width) };
    kernels::products(normed, gate.precision, &mut [gated, product(up, rows, upped)]);
    kernels::silu_multiply(inner.plain_mut(), upped);
    kernels::products(inner, down.precision, &mut [product(down, rows, out)]);
}

/// Softmax over all experts, then the best `top_k` of each row, best first.
fn choose(logits: &[f32], rows: usize, top_k: usize, normalise: bool, choices: &mut Vec<Choice>) {
    choices.clear();
    let experts = logits.len() / rows.max(1);
    let mut taken = vec![false; experts];
    for (row, logits) in logits.chunks_exact(experts).enumerate() {
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - greatest).exp()).sum();
        let first = choices.len();
        taken.fill(false);
        for _ in 0..top_k.min(experts) {
            // Of equal ones the first, as elsewhere; where nothing is a number, some expert.
            let open = logits.iter().enumerate().filter(|(expert, _)| !taken[*expert]);
            let best = open.reduce(|best, other| if other.1 > best.1 { other } else { best });
            let (expert, logit) = best.expect("there are more experts than are chosen");
            taken[expert] = true;
            choices.push(Choice { expert, row, share: (logit - greatest).exp() / total });
        }
        if normalise {
            let sum: f32 = choices[first..].iter().map(|choice| choice.share).sum();
            choices[first..].iter_mut().for_each(|choice| choice.share /= sum);
        }
    }
}
