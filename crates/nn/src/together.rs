use burn::tensor::Tensor;
use omni_core::Result;

use crate::Linear;

/// Most runs whose single tokens [`crate::Decoder::forward_many`] takes with results equal to those of each run alone: up to so
/// many rows the CPU's products compute each row by itself, from one reading of the weights.
pub const RUNS_AT_ONCE: usize = kernels::MANY - 1;

/// The last state of each run, and what a head makes of it; the head is read once for all of them. A run that failed stays
/// failed.
///
/// # Shapes
/// `[1, T, D]` each → `[1, 1, D]` and `[1, out]` each.
pub fn head_of_each(head: &Linear, hidden: Vec<Result<Tensor<3>>>) -> Vec<Result<(Tensor<3>, Tensor<2>)>> {
    let last = |hidden: Tensor<3>| {
        let tokens = hidden.dims()[1];
        hidden.narrow(1, tokens - 1, 1) // [1, 1, D]
    };
    let hidden: Vec<Result<Tensor<3>>> = hidden.into_iter().map(|hidden| hidden.map(last)).collect();
    let rows: Vec<Tensor<2>> = hidden.iter().flatten().map(|row| row.clone().squeeze_dim(1)).collect();
    let scores = if rows.is_empty() { Vec::new() } else { head.rows(Tensor::cat(rows, 0)).split(1, 0) }; // [1, out] each
    let mut scores = scores.into_iter();
    let mut of = |hidden| (hidden, scores.next().expect("one row for each run"));
    hidden.into_iter().map(|hidden| hidden.map(&mut of)).collect()
}

/// The pieces of several runs that lie behind each other along an axis; the only one is the tensor itself.
pub fn pieces<const D: usize>(x: Tensor<D>, axis: usize, lengths: &[usize]) -> Vec<Tensor<D>> {
    match lengths {
        [_] => vec![x],
        _ => x.split_with_sizes(lengths.to_vec(), axis),
    }
}
