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
    /// What is added to these rows.
    pub(crate) visual: Option<Visual<'a>>,
    pub(crate) look: Look<'a>,
}

/// Rows that are added to the output of the first layers, for the rows of a run from `first` on.
#[derive(Clone, Copy)]
pub(crate) struct Visual<'a> {
    pub(crate) rows: &'a HostRows,
    pub(crate) first: usize,
}

/// Rows that are added to the output of the first layers.
pub(crate) struct HostRows {
    /// Rows they are added to.
    pub(crate) indices: Vec<usize>,
    /// For each layer, `[indices, width]`.
    pub(crate) features: Vec<Vec<f32>>,
}

impl Visual<'_> {
    /// Adds those of a layer to rows `x`.
    fn add(&self, index: usize, x: &mut [f32], width: usize) {
        let Some(features) = self.rows.features.get(index) else { return };
        let rows = self.first..self.first + x.len() / width;
        let places = self.rows.indices.iter().zip(features.chunks_exact(width));
        for (row, feature) in places.filter(|(row, _)| rows.contains(row)) {
            add(&mut x[(row - self.first) * width..][..width], feature);
        }
    }
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
    pub(crate) fn forward(&self, runs: &mut [HostRun], x: &mut [f32], width: usize) {
        // Taken out of its cell: while this thread waits for the others it may begin another step.
        let mut memory = MEMORY.take();
        match runs {
            [run] if run.rows > BLOCK => self.in_blocks(run, x, width, &mut memory),
            runs => self.block(runs, x, width, &mut memory),
        }
        MEMORY.set(memory);
    }

    /// A long run, block by block; what is looked at is shown whole.
    fn in_blocks(&self, run: &mut HostRun, x: &mut [f32], width: usize, memory: &mut Memory) {
        let (half, rows) = (run.cos.len() / run.rows, run.rows);
        let mut looked = vec![Vec::new(); self.layers.len()];
        for start in (0..rows).step_by(BLOCK) {
            let end = rows.min(start + BLOCK);
            let mut piece = [HostRun {
                caches: run.caches,
                rows: end - start,
                cos: &run.cos[start * half..end * half],
                sin: &run.sin[start * half..end * half],
                visual: run.visual.map(|visual| Visual { first: start, ..visual }),
                look: Look { at: run.look.reborrow(), gathered: Some(&mut looked) },
            }];
            self.block(&mut piece, &mut x[start * width..end * width], width, memory);
        }
        for (index, values) in looked.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
            run.look.layer(index, values, width);
        }
    }

    fn block(&self, runs: &mut [HostRun], x: &mut [f32], width: usize, memory: &mut Memory) {
        for (index, layer) in self.layers.iter().enumerate() {
            layer.attend(index, runs, x, width, memory);
            layer.feed_forward(index, runs, x, width, memory);
            let mut x = &mut *x;
            for run in runs.iter_mut() {
                let (these, others) = x.split_at_mut(run.rows * width);
                run.look.layer(index, these, width);
                if let Some(visual) = run.visual {
                    visual.add(index, these, width);
                }
                x = others;
            }
        }
        for row in x.chunks_exact_mut(width) {
            kernels::rms_norm_in_place(row, &self.norm.weight, self.norm.eps);
        }
    }
}

/// Shows a probe what it wants to see of a run: at once, or gathered if its rows come in blocks.
#[derive(Default)]
pub(crate) struct Look<'a> {
    at: Option<(&'a Device, &'a mut dyn Probe)>,
    /// Rows of each layer, to be shown whole.
    gathered: Option<&'a mut Vec<Vec<f32>>>,
}

impl<'a> Look<'a> {
    pub(crate) fn new(device: &'a Device, probe: &'a mut Option<&mut dyn Probe>) -> Self {
        let at = probe.as_mut().map(|probe| (device, &mut **probe as &mut dyn Probe));
        Self { at, gathered: None }
    }
}

impl Look<'_> {
    fn reborrow(&mut self) -> Option<(&Device, &mut dyn Probe)> {
        match &mut self.at {
            Some((device, probe)) => Some((*device, &mut **probe)),
            None => None,
        }
    }

    fn layer(&mut self, index: usize, x: &[f32], width: usize) {
        let Some((device, probe)) = self.at.as_mut().filter(|(_, probe)| probe.looks_at(index)) else { return };
        match &mut self.gathered {
            Some(gathered) => gathered[index].extend_from_slice(x),
            None => {
                let shape = [1, x.len() / width, width];
                probe.layer(index, &Tensor::from_data(TensorData::new(x.to_vec(), shape), *device));
            }
        }
    }

    /// Of rows `[rows, experts]`, each with `top_k` choices.
    fn routing(&mut self, index: usize, logits: &[f32], choices: &[Choice], [rows, top_k]: [usize; 2]) {
        let whole = self.gathered.is_none();
        let Some((device, probe)) = self.at.as_mut().filter(|(_, probe)| whole && probe.looks_at_routing()) else {
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
        let attended: Vec<Run> = runs.iter().map(|run| Run { cache: &run.caches[index], rows: run.rows }).collect();
        kernels::cached_attention(queries, &attended, *heads, None, q.precision, inner.fill(rows, heads * head_dim));
        kernels::products(inner, o.precision, &mut [product(o, rows, out)]);
        add(x, out);
    }

    fn feed_forward(&self, index: usize, runs: &mut [HostRun], x: &mut [f32], width: usize, memory: &mut Memory) {
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
                let (mut logits, mut rest) = (&logits[..], &mut choices[..]);
                for (at, run) in runs.iter_mut().enumerate() {
                    let (these, chosen);
                    (these, logits) = logits.split_at(run.rows * experts.len());
                    (chosen, rest) = rest.split_at_mut(run.rows * top_k);
                    chosen.iter_mut().for_each(|choice| choice.run = at);
                    run.look.routing(index, these, chosen, [run.rows, *top_k]);
                }
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
            choices.push(Choice { expert, row, run: 0, share: (logit - greatest).exp() / total });
        }
        if normalise {
            let sum: f32 = choices[first..].iter().map(|choice| choice.share).sum();
            choices[first..].iter_mut().for_each(|choice| choice.share /= sum);
        }
    }
}
