//! The work of windowed attention: one head of one window, and its buffers.

use crate::buffer::DisjointCols;

/// Buffers of a task: kept, since fresh memory costs time.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
    pub(crate) queries: Vec<f32>,
    pub(crate) scores: Vec<f32>,
    pub(crate) shares: Vec<f32>,
    pub(crate) sums: Vec<f32>,
}

/// One head of one window.
pub(crate) struct Head<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) length: usize,
    pub(crate) width: usize,
    pub(crate) y: &'a DisjointCols<'a>,
    pub(crate) row: usize,
    pub(crate) column: usize,
}
