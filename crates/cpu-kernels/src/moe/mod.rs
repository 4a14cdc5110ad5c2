//! Mixture of experts: only the experts that rows are assigned to are read, in place.
#![allow(unsafe_code)] // Tasks write disjoint columns of the same rows: see `buffer`.

mod grouped;

use rayon::prelude::*;
use smallvec::SmallVec;

use crate::activation::silu;
use crate::buffer::{DisjointCols, size};
use crate::gemm::Precision;
use crate::gemm::{Activations, SKINNY_MAX_ROWS, multiply, pieces};
use crate::gemm::{Matrix, Weight};
use crate::simd::Processor;

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

impl<'a> Expert<'a> {
    fn matrices(&self, [inner, width]: [usize; 2]) -> Matrices<'a> {
        Matrices {
            gate: Matrix::new(self.gate, [inner, width]),
            up: Matrix::new(self.up, [inner, width]),
            down: Matrix::new(self.down, [width, inner]),
        }
    }
}

/// An [`Expert`] whose lengths were checked against its shapes.
struct Matrices<'a> {
    gate: Matrix<'a>,
    up: Matrix<'a>,
    down: Matrix<'a>,
}

/// Assigns a row to an expert, with the weight of the expert's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assignment {
    /// The expert.
    pub expert: usize,
    /// The row.
    pub row: usize,
    /// The run that the row belongs to; a run's rows are consecutive.
    pub run: usize,
    /// Factor of the expert's output.
    pub weight: f32,
}

/// Most rows of one run that an expert with packed weights multiplies as integers even when there are many rows in all:
/// dequantising the weights would take longer. Other runs do not count, so that a run's results do not depend on them.
const SELDOM: usize = 6;

/// Index of the first of an expert's sorted assignments, the expert, and its rows.
type Group<'a> = (usize, Matrices<'a>, SmallVec<[usize; 8]>);

/// Buffers of [`experts`], kept from call to call.
#[derive(Debug, Default)]
pub struct ExpertsScratch {
    assignments: Vec<Assignment>,
    inner: Activations,
    gathered: Vec<f32>,
    seldom: Seldom,
}

impl ExpertsScratch {
    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let Self { assignments, inner, gathered, seldom } = self;
        size_of::<Assignment>() * (assignments.capacity() + seldom.assignments.capacity())
            + inner.bytes()
            + 4 * gathered.capacity()
            + seldom.inputs.bytes()
            + size_of::<usize>() * seldom.rows.capacity()
    }
}

/// Assignments to experts that few rows of a run have chosen, and those rows.
#[derive(Debug, Default)]
struct Seldom {
    assignments: Vec<Assignment>,
    inputs: Activations,
    /// For each row of the inputs, its index among all rows.
    rows: Vec<usize>,
}

/// Computes `y[row] += weight * down(silu(gate x) * up x)` for every assignment.
///
/// # Shapes
/// `inputs` `[rows, width]`, `y` `[rows, width]`; every expert's inner width is `inner`.
///
/// # Panics
/// If a length does not match its shape, or an assignment names a row that does not exist.
pub fn experts<'a>(
    memory: &mut ExpertsScratch,
    inputs: &mut Activations,
    assignments: &[Assignment],
    inner: usize,
    expert: impl Fn(usize) -> Expert<'a> + Sync,
    precision: Precision,
    y: &mut [f32],
) {
    experts_on(Processor::best(), memory, inputs, assignments, inner, expert, precision, y);
}

#[allow(clippy::too_many_arguments)] // Those of `experts`.
fn experts_on<'a>(
    processor: Processor,
    memory: &mut ExpertsScratch,
    inputs: &mut Activations,
    assignments: &[Assignment],
    inner: usize,
    expert: impl Fn(usize) -> Expert<'a> + Sync,
    precision: Precision,
    y: &mut [f32],
) {
    let ExpertsScratch { assignments: sorted, inner: activations, gathered, seldom } = memory;
    let (rows, width) = (inputs.rows(), inputs.width());
    assert_eq!(y.len(), size([rows, width]), "y [rows, width]");
    if let Some(Assignment { row, .. }) = assignments.iter().find(|assignment| assignment.row >= rows) {
        panic!("an assignment of row {row} of {rows}");
    }
    if y.is_empty() {
        return;
    }
    sorted.clear();
    sorted.extend_from_slice(assignments);
    sorted.sort_unstable_by_key(|assignment| (assignment.expert, assignment.row));
    if rows <= SKINNY_MAX_ROWS {
        let all: SmallVec<[usize; SKINNY_MAX_ROWS + 1]> = (0..rows).collect();
        return skinny(processor, inputs, sorted, &all, activations, gathered, inner, expert, y);
    }
    seldom.take(inputs, sorted, |e| matches!(expert(e).gate, Weight::Packed(_)));
    let Seldom { assignments: few_choices, inputs: few_inputs, rows: places } = seldom;
    skinny(processor, few_inputs, few_choices, places, activations, gathered, inner, &expert, y);
    grouped::experts(processor, gathered, inputs.plain(), width, sorted, inner, expert, precision, y);
}

impl Seldom {
    /// Moves the assignments of experts that few rows of a run have chosen out of `sorted`, where the expert is `worth` it.
    fn take(&mut self, inputs: &Activations, sorted: &mut Vec<Assignment>, worth: impl Fn(usize) -> bool) {
        let Self { assignments, inputs: taken, rows } = self;
        assignments.clear();
        for group in sorted.chunk_by(|a, b| (a.expert, a.run) == (b.expert, b.run)) {
            if group.len() <= SELDOM && worth(group[0].expert) {
                assignments.extend_from_slice(group);
            }
        }
        // Both are sorted, so one pass finds those that are left. Weights are not compared: one may be NaN, which equals nothing.
        let mut gone = assignments.iter().peekable();
        sorted.retain(|assignment| {
            gone.next_if(|gone| (gone.expert, gone.row) == (assignment.expert, assignment.row)).is_none()
        });
        rows.clear();
        rows.extend(assignments.iter().map(|assignment| assignment.row));
        rows.sort_unstable();
        rows.dedup();
        let width = inputs.width();
        let copies = taken.fill(rows.len(), width).chunks_exact_mut(width.max(1));
        copies.zip(&*rows).for_each(|(copy, row)| copy.copy_from_slice(&inputs.plain()[row * width..][..width]));
        for assignment in assignments {
            assignment.row = rows.binary_search(&assignment.row).expect("it was gathered");
        }
    }
}

/// Computes experts by skinny GEMM. Rows of assignments index `inputs`; `places` maps them to rows of `y`.
#[allow(clippy::too_many_arguments)] // Those of `experts`, taken apart.
fn skinny<'a>(
    processor: Processor,
    inputs: &mut Activations,
    sorted: &[Assignment],
    places: &[usize],
    activations: &mut Activations,
    outputs: &mut Vec<f32>,
    inner: usize,
    expert: impl Fn(usize) -> Expert<'a> + Sync,
    y: &mut [f32],
) {
    let width = inputs.width();
    let instructions = processor.instructions;
    // Assignments to the same expert, with the index of the first.
    let mut groups: SmallVec<[Group; 16]> = SmallVec::new();
    for (place, assignments) in sorted.chunk_by(|a, b| a.expert == b.expert).scan(0, |place, group| {
        *place += group.len();
        Some((*place - group.len(), group))
    }) {
        let expert = expert(assignments[0].expert).matrices([inner, width]);
        inputs.prepare(instructions, &expert.gate);
        inputs.prepare(instructions, &expert.up);
        groups.push((place, expert, assignments.iter().map(|assignment| assignment.row).collect()));
    }
    let inputs = &*inputs;
    let columns = DisjointCols::new(activations.fill(sorted.len(), inner), inner);
    let parts_of = |bytes_of: fn(&Matrices) -> usize, output| {
        let bytes = groups.first().map_or(0, |(_, expert, _)| bytes_of(expert));
        pieces(bytes, groups.len() * bytes, output)
    };
    let parts = parts_of(|expert| expert.gate.weight().bytes() + expert.up.weight().bytes(), inner);
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
        activations.prepare(instructions, &expert.down);
    }
    let activations = &*activations;
    outputs.resize(size([sorted.len(), width]), 0.0);
    let columns = DisjointCols::new(outputs, width);
    let parts = parts_of(|expert| expert.down.weight().bytes(), width);
    (0..groups.len() * parts).into_par_iter().for_each(|task| {
        let ((place, expert, rows), part) = (&groups[task / parts], task % parts);
        let range = width * part / parts..width * (part + 1) / parts;
        let of_group: SmallVec<[usize; 8]> = (*place..place + rows.len()).collect();
        multiply(instructions, activations, &of_group, &expert.down, range, |row, at, sum| {
            // SAFETY: these columns of these rows are this task's alone; the piece is dropped at once.
            let piece = unsafe { columns.piece(place + row, at..at + 1) };
            piece[0] = sum;
        });
    });
    add(sorted, outputs, |row| places[row], width, y);
}

/// Adds the weighted output of each assignment to its row of `y`, which `place` tells.
fn add(assignments: &[Assignment], outputs: &[f32], place: impl Fn(usize) -> usize, width: usize, y: &mut [f32]) {
    let mut by_row: Vec<SmallVec<[(usize, f32); 8]>> = vec![SmallVec::new(); y.len() / width];
    for (at, assignment) in assignments.iter().enumerate() {
        by_row[place(assignment.row)].push((at, assignment.weight));
    }
    y.par_chunks_mut(width).zip(by_row).for_each(|(y, outputs_of_row)| {
        for (at, share) in outputs_of_row {
            y.iter_mut().zip(&outputs[at * width..]).for_each(|(y, out)| *y += share * out);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;
    use crate::gemm::weight_tests::Sample;

    #[test]
    fn rows_that_share_experts_get_what_they_would_get_alone() {
        Processor::all().for_each(|processor| check(processor, 3, Precision::F32, 1e-4));
    }

    #[test]
    #[should_panic(expected = "an assignment of row 2 of 2")]
    fn a_choice_of_a_row_that_is_not_there_is_a_bug() {
        let mut inputs = Activations::default();
        inputs.set(&[0.0; 8], 4);
        let weight = Weight::F32(&[0.0; 8]);
        let assignment = Assignment { expert: 0, row: 2, run: 0, weight: 1.0 };
        let expert = |_| Expert { gate: weight, up: weight, down: weight };
        experts(&mut ExpertsScratch::default(), &mut inputs, &[assignment], 2, expert, Precision::F32, &mut [0.0; 8]);
    }

    #[test]
    #[should_panic(expected = "weight [output, input]")]
    fn an_expert_of_another_shape_is_a_bug() {
        let mut inputs = Activations::default();
        inputs.set(&[0.0; 8], 4);
        let (weight, short) = (Weight::F32(&[0.0; 8]), Weight::F32(&[0.0; 7]));
        let assignment = Assignment { expert: 0, row: 1, run: 0, weight: 1.0 };
        let expert = |_| Expert { gate: weight, up: weight, down: short };
        experts(&mut ExpertsScratch::default(), &mut inputs, &[assignment], 2, expert, Precision::F32, &mut [0.0; 8]);
    }

    #[test]
    fn many_rows_are_right_too() {
        for processor in Processor::all() {
            check(processor, 13, Precision::F32, 1e-4);
            check(processor, 13, Precision::Bf16, 2e-2);
        }
    }

    /// Four experts, alternately of 4 and of 8 bits.
    fn samples([inner, width]: [usize; 2]) -> Vec<[Sample; 3]> {
        let sample = |e: usize| {
            let bits = if e.is_multiple_of(2) { 4 } else { 8 };
            [[inner, width], [inner, width], [width, inner]].map(|shape| Sample::new(bits, 32, shape, e == 1, true))
        };
        (0..4).map(sample).collect()
    }

    #[test]
    fn runs_beside_each_other_get_what_each_gets_alone() {
        let (width, inner) = if cfg!(miri) { (64, 32) } else { (160, 64) };
        let samples = samples([inner, width]);
        let expert = |e: usize| {
            let [gate, up, down] = samples[e].each_ref().map(Sample::weight);
            Expert { gate, up, down }
        };
        // In each run, some experts are chosen by few rows, some by many; all runs together make many of few.
        let runs = [9, 17, 12];
        let x = numbers(runs.iter().sum::<usize>() * width, 3);
        let assignments = |run: usize, first: usize| {
            let of_row = move |row: usize| {
                let seldom = (row < 3 + run).then_some(run % 4);
                let often = Some((run + 1) % 4);
                [seldom, often].into_iter().flatten().enumerate().map(move |(at, expert)| Assignment {
                    expert,
                    row: first + row,
                    run,
                    weight: 0.4 + 0.1 * at as f32,
                })
            };
            (0..runs[run]).flat_map(of_row).collect::<Vec<_>>()
        };
        let compute = |processor, x: &[f32], assignments: &[Assignment], precision| {
            let (mut inputs, mut y) = (Activations::default(), vec![0.5; x.len()]);
            inputs.set(x, width);
            let memory = &mut ExpertsScratch::default();
            experts_on(processor, memory, &mut inputs, assignments, inner, expert, precision, &mut y);
            y
        };
        for (processor, precision) in
            Processor::all().flat_map(|processor| [(processor, Precision::Bf16), (processor, Precision::F32)])
        {
            let mut first = 0;
            let (mut all, mut alone) = (Vec::new(), Vec::new());
            for (run, rows) in runs.iter().enumerate() {
                all.extend(assignments(run, first));
                alone.extend(compute(processor, &x[first * width..][..rows * width], &assignments(run, 0), precision));
                first += rows;
            }
            assert_eq!(compute(processor, &x, &all, precision), alone, "{processor:?}, {precision:?}");
        }
    }

    #[test]
    fn a_row_that_is_no_number_leaves_the_others_alone() {
        let (width, inner, rows) = if cfg!(miri) { (64, 32, 12) } else { (160, 64, 12) };
        let samples = samples([inner, width]);
        let expert = |e: usize| {
            let [gate, up, down] = samples[e].each_ref().map(Sample::weight);
            Expert { gate, up, down }
        };
        let compute = |weight: f32| {
            let mut inputs = Activations::default();
            inputs.set(&numbers(rows * width, 3), width);
            let assignment = |row: usize, expert: usize| Assignment {
                expert,
                row,
                run: 0,
                weight: if row == 1 { weight } else { 0.5 },
            };
            let assignments: Vec<Assignment> =
                (0..rows).flat_map(|row| [assignment(row, row / 4), assignment(row, 3)]).collect();
            let mut y = vec![0.5; rows * width];
            let memory = &mut ExpertsScratch::default();
            experts(memory, &mut inputs, &assignments, inner, expert, Precision::Bf16, &mut y);
            y
        };
        let (sound, broken) = (compute(0.5), compute(f32::NAN));
        assert!(broken[width..2 * width].iter().all(|y| y.is_nan()));
        assert_eq!([&sound[..width], &sound[2 * width..]], [&broken[..width], &broken[2 * width..]]);
    }

    fn check(processor: Processor, rows: usize, precision: Precision, tolerance: f32) {
        let (width, inner) = (70, 40);
        let samples = samples([inner, width]);
        let expert = |e: usize| {
            let [gate, up, down] = samples[e].each_ref().map(Sample::weight);
            Expert { gate, up, down }
        };
        let x = numbers(rows * width, 3);
        let mut assignments = [(2, 0, 0.5), (0, 0, 0.25), (0, 1, 1.0), (3, 2, 0.7), (0, 2, 0.1), (1, 1, -0.3)]
            .map(|(expert, row, weight)| Assignment { expert, row, run: 0, weight })
            .to_vec();
        // Two experts, of 4 and of 8 bits, are chosen by many rows; the others remain below `SELDOM`.
        assignments.extend(
            (3..rows).flat_map(|row| {
                [0, 3].map(|expert| Assignment { expert, row, run: 0, weight: 0.2 + row as f32 / 50.0 })
            }),
        );
        let mut inputs = Activations::default();
        inputs.set(&x, width);
        let mut y = vec![1.0; rows * width];
        let memory = &mut ExpertsScratch::default();
        experts_on(processor, memory, &mut inputs, &assignments, inner, expert, precision, &mut y);
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
        for Assignment { expert: e, row, weight: share, .. } in assignments.iter().copied() {
            let x = &x[row * width..][..width];
            let (gate, up) = (product(expert(e).gate, x, inner), product(expert(e).up, x, inner));
            let h: Vec<f32> = gate.iter().zip(&up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            let out = product(expert(e).down, &h, width);
            expected[row * width..][..width].iter_mut().zip(out).for_each(|(y, out)| *y += share * out);
        }
        let largest = expected.iter().fold(0.0f32, |most, y| most.max(y.abs()));
        let worst = y.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < tolerance * largest, "{processor:?}: {worst} of {largest}");
    }
}
