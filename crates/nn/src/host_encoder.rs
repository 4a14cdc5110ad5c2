//! A transformer layer of an encoder on the CPU, on plain memory that is used again from layer to layer: fresh memory costs as much
//! time as filling it.

use kernels::{AttentionShape, Then};

use crate::{LayerNorm, Linear};

/// Attention inside windows, then two linear layers, each behind a norm; all weights in host memory.
#[derive(Debug, Clone, Copy)]
pub struct EncoderLayer<'a> {
    /// Before attention, before the two linear layers.
    pub norms: [&'a LayerNorm; 2],
    /// Queries, keys and values: three layers, or one whose outputs are all of them.
    pub qkv: &'a [&'a Linear],
    /// Behind attention.
    pub out: &'a Linear,
    /// The two linear layers.
    pub mlp: [&'a Linear; 2],
    /// Between them.
    pub activation: Then,
    /// Heads.
    pub heads: usize,
}

/// Memory of a layer, for the next one.
#[derive(Debug, Default)]
pub struct EncoderMemory {
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    inner: Vec<f32>,
}

impl EncoderLayer<'_> {
    /// Rows `x` `[N, D]` in place; `windows` are lengths that add up to `N`. Queries and keys are rotated by `rotation`, cosines and
    /// sines `[N, Dh / 2]`, where one layer makes both.
    ///
    /// # Panics
    /// If a weight does not lie in host memory, or the lengths do not agree.
    pub fn forward(&self, x: &mut [f32], windows: &[usize], rotation: Option<[&[f32]; 2]>, memory: &mut EncoderMemory) {
        let Self { norms: [norm1, norm2], qkv: projections, out, mlp: [fc1, fc2], activation, heads } = *self;
        let EncoderMemory { normed, qkv, attended, inner } = memory;
        let width = out.output();
        let rows = x.len() / width;
        let precision = out.host().expect("the weight lies in host memory").precision;
        [&mut *normed, &mut *attended].into_iter().for_each(|memory| memory.resize(rows * width, 0.0));
        qkv.resize(3 * rows * width, 0.0);
        norm1.host_rows(x, normed);
        for (linear, y) in projections.iter().zip(qkv.chunks_exact_mut(3 * rows * width / projections.len())) {
            linear.host_rows(normed, Then::Keep, y);
        }
        let stride = projections[0].output();
        if let Some([cos, sin]) = rotation {
            kernels::rotate_rows(qkv, stride, 2 * heads, cos, sin);
        }
        // Where the second and the third begin: beside the first, or behind it.
        let step = if projections.len() == 1 { width } else { rows * width };
        let of_head = AttentionShape { heads, width: width / heads, stride };
        kernels::window_attention([0, 1, 2].map(|i| &qkv[i * step..]), windows, of_head, precision, attended);
        out.host_rows(attended, Then::Add, x);
        norm2.host_rows(x, normed);
        inner.resize(rows * fc1.output(), 0.0);
        fc1.host_rows(normed, activation, inner);
        fc2.host_rows(inner, Then::Add, x);
    }
}
