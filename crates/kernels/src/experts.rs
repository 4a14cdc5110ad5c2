//! Mixture of experts for a few rows: only the chosen experts are read, where they lie.
#![allow(unsafe_code)] // Tasks write other columns of the same rows: see `memory`.

use rayon::prelude::*;
use smallvec::SmallVec;

use crate::few::{Inputs, multiply, pieces};
use crate::lanes::Instructions;
use crate::memory::Columns;
use crate::small::silu;
use crate::weight::Weight;

/// The matrices of one expert.
#[derive(Debug, Clone, Copy)]
pub struct Expert<'a> {
    /// `[inner, width]`.
    pub gate: Weight<'a>,
    /// `[inner, width]`.
    pub up: Weight<'a>,
    /// `[width, inner]`.
    pub down: Weight<'a>,
}

/// A row goes to an expert, whose output counts so much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The expert.
    pub expert: usize,
    /// The row.
    pub row: usize,
    /// Factor of the expert's output.
    pub share: f32,
}

/// Memory that [`experts`] works in, kept from call to call.
#[derive(Debug, Default)]
pub struct ExpertsMemory {
    choices: Vec<Choice>,
    inner: Inputs,
}

/// `y[row] += share * down(silu(gate x) * up x)` for every choice.
///
/// # Shapes
/// `inputs` hold `[rows, width]`; `y` `[rows, width]`; every expert's inner width is `inner`.
///
/// # Panics
/// If a slice has not the length of its shape.
pub fn experts<'a>(
    memory: &mut ExpertsMemory,
    inputs: &mut Inputs,
    choices: &[Choice],
    inner: usize,
    expert: impl Fn(usize) -> Expert<'a> + Sync,
    y: &mut [f32],
) {
    let ExpertsMemory { choices: sorted, inner: activations } = memory;
    sorted.clear();
    sorted.extend_from_slice(choices);
    sorted.sort_unstable_by_key(|choice| (choice.expert, choice.row));
    let (rows, width) = (inputs.rows(), inputs.width());
    assert_eq!(y.len(), rows * width, "y [rows, width]");
    // Choices of the same expert, with the first one's place.
    let mut groups: SmallVec<[(usize, Expert, SmallVec<[usize; 8]>); 16]> = SmallVec::new();
    for (place, choices) in sorted.chunk_by(|a, b| a.expert == b.expert).scan(0, |place, group| {
        *place += group.len();
        Some((*place - group.len(), group))
    }) {
        let expert = expert(choices[0].expert);
        for (weight, [output, input]) in
            [(&expert.gate, [inner, width]), (&expert.up, [inner, width]), (&expert.down, [width, inner])]
        {
            weight.check(output, input);
        }
        inputs.prepare(&expert.gate);
        inputs.prepare(&expert.up);
        groups.push((place, expert, choices.iter().map(|choice| choice.row).collect()));
    }
    let inputs = &*inputs;
    let instructions = Instructions::best();
    let columns = Columns::new(activations.fill(sorted.len(), inner), inner);
    let parts = groups.first().map_or(1, |(_, expert, _)| pieces(2 * expert.gate.bytes(), inner));
    (0..groups.len() * parts).into_par_iter().for_each(|task| {
        let ((place, expert, rows), part) = (&groups[task / parts], task % parts);
        let range = inner * part / parts..inner * (part + 1) / parts;
        multiply(instructions, inputs, rows, &expert.gate, range.clone(), |row, at, gate| {
            // SAFETY: these columns of these rows are this task's alone; the piece is dropped at once.
            let piece = unsafe { columns.piece(place + row, at..at + 1) };
            piece[0] = gate;
        });
        multiply(instructions, inputs, rows, &expert.up, range, |row, at, up| {
            // SAFETY: as above.
            let piece = unsafe { columns.piece(place + row, at..at + 1) };
            piece[0] = silu(piece[0]) * up;
        });
    });
    for (_, expert, _) in &groups {
        activations.prepare(&expert.down);
    }
    let (activations, sorted) = (&*activations, &*sorted);
    let columns = Columns::new(y, width);
    let parts = pieces(groups.iter().map(|(_, expert, _)| expert.down.bytes()).sum(), width);
    (0..parts).into_par_iter().for_each(|part| {
        let range = width * part / parts..width * (part + 1) / parts;
        for (place, expert, rows) in &groups {
            let places: SmallVec<[usize; 8]> = (*place..place + rows.len()).collect();
            multiply(instructions, activations, &places, &expert.down, range.clone(), |row, at, sum| {
                let choice = &sorted[place + row];
                // SAFETY: as above.
                let piece = unsafe { columns.piece(choice.row, at..at + 1) };
                piece[0] += choice.share * sum;
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::few::tests::numbers;
    use crate::weight::tests::Sample;

    #[test]
    fn rows_that_share_experts_get_what_they_would_get_alone() {
        let (width, inner, rows) = (70, 40, 3);
        let samples: Vec<[Sample; 3]> = (0..4)
            .map(|e| {
                let bits = if e % 2 == 0 { 4 } else { 8 };
                [[inner, width], [inner, width], [width, inner]].map(|shape| Sample::new(bits, 32, shape, e == 1, true))
            })
            .collect();
        let expert = |e: usize| {
            let [gate, up, down] = samples[e].each_ref().map(Sample::weight);
            Expert { gate, up, down }
        };
        let x = numbers(rows * width, 3);
        let choices = [(2, 0, 0.5), (0, 0, 0.25), (0, 1, 1.0), (3, 2, 0.7), (0, 2, 0.1), (1, 1, -0.3)]
            .map(|(expert, row, share)| Choice { expert, row, share });
        let mut inputs = Inputs::default();
        inputs.set(&x, width);
        let mut y = vec![1.0; rows * width];
        experts(&mut ExpertsMemory::default(), &mut inputs, &choices, inner, expert, &mut y);
        let product = |weight: Weight, x: &[f32], output: usize| -> Vec<f32> {
            let mut w = vec![0.0; x.len()];
            (0..output)
                .map(|out| {
                    weight.read(out, x.len(), 0, &mut w);
                    x.iter().zip(&w).map(|(x, w)| x * w).sum()
                })
                .collect()
        };
        let mut expected = vec![1.0; rows * width];
        for Choice { expert: e, row, share } in choices {
            let x = &x[row * width..][..width];
            let (gate, up) = (product(expert(e).gate, x, inner), product(expert(e).up, x, inner));
            let h: Vec<f32> = gate.iter().zip(&up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            let out = product(expert(e).down, &h, width);
            expected[row * width..][..width].iter_mut().zip(out).for_each(|(y, out)| *y += share * out);
        }
        let largest = expected.iter().fold(0.0f32, |most, y| most.max(y.abs()));
        let worst = y.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4 * largest, "{worst} of {largest}");
    }
}
