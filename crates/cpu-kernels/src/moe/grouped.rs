//! Grouped GEMM: each expert's rows are gathered and multiplied together.

use super::*;
use crate::activation::silu_multiply;
use crate::gemm::{Epilogue, LinearArgs, LinearShape};

#[allow(clippy::too_many_arguments)] // Those of `experts`, taken apart.
pub(super) fn experts<'a>(
    processor: Processor,
    gathered: &mut Vec<f32>,
    x: &[f32],
    width: usize,
    sorted: &[Assignment],
    inner: usize,
    expert: impl Fn(usize) -> Expert<'a> + Sync,
    precision: Precision,
    y: &mut [f32],
) {
    let outputs = {
        gathered.resize(size([sorted.len(), width]), 0.0);
        &mut gathered[..]
    };
    let mut rest = outputs;
    let groups: Vec<(&[Assignment], &mut [f32])> = sorted
        .chunk_by(|a, b| a.expert == b.expert)
        .map(|assignments| {
            let (these, others) = std::mem::take(&mut rest).split_at_mut(assignments.len() * width);
            rest = others;
            (assignments, these)
        })
        .collect();
    // Experts in parallel, each on one core: none waits for others.
    #[cfg(target_arch = "x86_64")]
    if let (Precision::Bf16, Some(instructions)) = (precision, processor.bf16) {
        groups.into_par_iter().for_each(|(assignments, out)| {
            in_bf16(instructions, x, width, inner, assignments, &expert(assignments[0].expert), out);
        });
        return add(sorted, gathered, |row| row, width, y);
    }
    for (assignments, out) in groups {
        let (Expert { gate, up, down }, rows) = (expert(assignments[0].expert), assignments.len());
        let x: Vec<f32> =
            assignments.iter().flat_map(|assignment| &x[assignment.row * width..][..width]).copied().collect();
        let (into, back) =
            (LinearShape { rows, input: width, output: inner }, LinearShape { rows, input: inner, output: width });
        let [mut gated, mut upped] = [(); 2].map(|()| vec![0.0; size([rows, inner])]);
        let affine = |weight, shape| LinearArgs { weight, bias: None, shape, precision, epilogue: Epilogue::Keep };
        affine(gate, into).apply_on(processor, &x, &mut gated);
        affine(up, into).apply_on(processor, &x, &mut upped);
        silu_multiply(&mut gated, &upped);
        affine(down, back).apply_on(processor, &gated, out);
    }
    add(sorted, gathered, |row| row, width, y);
}

#[cfg(target_arch = "x86_64")]
fn in_bf16(
    instructions: crate::simd::Bf16Instructions,
    x: &[f32],
    width: usize,
    inner: usize,
    assignments: &[Assignment],
    expert: &Expert,
    out: &mut [f32],
) {
    use crate::gemm::linear_here;
    let Matrices { gate, up, down } = expert.matrices([inner, width]);
    let rows = assignments.len();
    let mut values = vec![0.0; size([2, rows, inner])];
    let row = |at: usize| &x[assignments[at].row * width..][..width];
    linear_here(instructions, row, rows, &[gate, up], |weight, row, at, sums| {
        values[(weight * rows + row) * inner + at..][..sums.len()].copy_from_slice(sums);
    });
    let (gated, upped) = values.split_at_mut(rows * inner);
    silu_multiply(gated, upped);
    let row = |at: usize| &gated[at * inner..][..inner];
    linear_here(instructions, row, rows, &[down], |_, row, at, sums| {
        out[row * width + at..][..sums.len()].copy_from_slice(sums);
    });
}
