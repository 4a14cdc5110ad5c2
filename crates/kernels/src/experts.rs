//! Mixture of experts: only the chosen experts are read, where they lie.
#![allow(unsafe_code)] // Tasks write other columns of the same rows: see `memory`.

use rayon::prelude::*;
use smallvec::SmallVec;

use crate::few::{Inputs, MANY, multiply, pieces};
use crate::level::Processor;
use crate::linear::Precision;
use crate::memory::{Columns, size};
use crate::small::silu;
use crate::weight::{Matrix, Weight};

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

/// An [`Expert`] whose matrices have their shapes.
struct Matrices<'a> {
    gate: Matrix<'a>,
    up: Matrix<'a>,
    down: Matrix<'a>,
}

/// A row goes to an expert, whose output counts so much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The expert.
    pub expert: usize,
    /// The row.
    pub row: usize,
    /// The run that the row belongs to; a run's rows lie one after the other.
    pub run: usize,
    /// Factor of the expert's output.
    pub share: f32,
}

/// Most rows of a run, to one expert with packed weights, that are multiplied as integers even among many rows: unpacking the
/// weights would take longer. Other runs do not count, so that a run's results do not depend on them.
const SELDOM: usize = 6;

/// The first place among the sorted choices, the expert, and its rows.
type Group<'a> = (usize, Matrices<'a>, SmallVec<[usize; 8]>);

/// Memory that [`experts`] works in, kept from call to call.
#[derive(Debug, Default)]
pub struct ExpertsMemory {
    choices: Vec<Choice>,
    inner: Inputs,
    gathered: Vec<f32>,
    seldom: Seldom,
}

impl ExpertsMemory {
    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        let Self { choices, inner, gathered, seldom } = self;
        size_of::<Choice>() * (choices.capacity() + seldom.choices.capacity())
            + inner.bytes()
            + 4 * gathered.capacity()
            + seldom.inputs.bytes()
            + size_of::<usize>() * seldom.rows.capacity()
    }
}

/// Choices of experts that few rows have chosen, and those rows.
#[derive(Debug, Default)]
struct Seldom {
    choices: Vec<Choice>,
    inputs: Inputs,
    /// For each row of the inputs, its place among all rows.
    rows: Vec<usize>,
}

/// `y[row] += share * down(silu(gate x) * up x)` for every choice.
///
/// # Shapes
/// `inputs` hold `[rows, width]`; `y` `[rows, width]`; every expert's inner width is `inner`.
///
/// # Panics
/// If a slice has not the length of its shape, or a choice is of a row that is not there.
pub fn experts<'a>(
    memory: &mut ExpertsMemory,
    inputs: &mut Inputs,
    choices: &[Choice],
    inner: usize,
    expert: impl Fn(usize) -> Expert<'a> + Sync,
    precision: Precision,
    y: &mut [f32],
) {
    experts_on(Processor::best(), memory, inputs, choices, inner, expert, precision, y);
}

#[allow(clippy::too_many_arguments)] // Those of `experts`.
fn experts_on<'a>(
    processor: Processor,
    memory: &mut ExpertsMemory,
    inputs: &mut Inputs,
    choices: &[Choice],
    inner: usize,
    expert: impl Fn(usize) -> Expert<'a> + Sync,
    precision: Precision,
    y: &mut [f32],
) {
    let ExpertsMemory { choices: sorted, inner: activations, gathered, seldom } = memory;
    let (rows, width) = (inputs.rows(), inputs.width());
    assert_eq!(y.len(), size([rows, width]), "y [rows, width]");
    if let Some(Choice { row, .. }) = choices.iter().find(|choice| choice.row >= rows) {
        panic!("a choice of row {row} of {rows}");
    }
    if y.is_empty() {
        return;
    }
    sorted.clear();
    sorted.extend_from_slice(choices);
    sorted.sort_unstable_by_key(|choice| (choice.expert, choice.row));
    if rows < MANY {
        let all: SmallVec<[usize; MANY]> = (0..rows).collect();
        return few(processor, inputs, sorted, &all, activations, inner, expert, y);
    }
    seldom.take(inputs, sorted, |e| matches!(expert(e).gate, Weight::Packed(_)));
    let Seldom { choices: few_choices, inputs: few_rows, rows: places } = seldom;
    few(processor, few_rows, few_choices, places, activations, inner, &expert, y);
    many::experts(processor, gathered, inputs.plain(), width, sorted, inner, expert, precision, y);
}

impl Seldom {
    /// Takes the choices of experts that few rows of a run have chosen out of sorted ones, if their weights are worth it.
    fn take(&mut self, inputs: &Inputs, sorted: &mut Vec<Choice>, worth: impl Fn(usize) -> bool) {
        let Self { choices, inputs: taken, rows } = self;
        choices.clear();
        for group in sorted.chunk_by(|a, b| (a.expert, a.run) == (b.expert, b.run)) {
            if group.len() <= SELDOM && worth(group[0].expert) {
                choices.extend_from_slice(group);
            }
        }
        // Both are sorted, so one pass finds those that are left. A share may be no number, which would equal nothing.
        let mut gone = choices.iter().peekable();
        sorted.retain(|choice| gone.next_if(|gone| (gone.expert, gone.row) == (choice.expert, choice.row)).is_none());
        rows.clear();
        rows.extend(choices.iter().map(|choice| choice.row));
        rows.sort_unstable();
        rows.dedup();
        let width = inputs.width();
        let copies = taken.fill(rows.len(), width).chunks_exact_mut(width.max(1));
        copies.zip(&*rows).for_each(|(copy, row)| copy.copy_from_slice(&inputs.plain()[row * width..][..width]));
        for choice in choices {
            choice.row = rows.binary_search(&choice.row).expect("it was gathered");
        }
    }
}

/// Computes the experts that few rows have chosen. A choice's row is one of the inputs; `places` says which row of `y` belongs to it.
#[allow(clippy::too_many_arguments)] // Those of `experts`, taken apart.
fn few<'a>(
    processor: Processor,
    inputs: &mut Inputs,
    sorted: &[Choice],
    places: &[usize],
    activations: &mut Inputs,
    inner: usize,
    expert: impl Fn(usize) -> Expert<'a> + Sync,
    y: &mut [f32],
) {
    let width = inputs.width();
    let instructions = processor.instructions;
    // Choices of the same expert, with the first one's place.
    let mut groups: SmallVec<[Group; 16]> = SmallVec::new();
    for (place, choices) in sorted.chunk_by(|a, b| a.expert == b.expert).scan(0, |place, group| {
        *place += group.len();
        Some((*place - group.len(), group))
    }) {
        let expert = expert(choices[0].expert).matrices([inner, width]);
        inputs.prepare(instructions, &expert.gate);
        inputs.prepare(instructions, &expert.up);
        groups.push((place, expert, choices.iter().map(|choice| choice.row).collect()));
    }
    let inputs = &*inputs;
    let columns = Columns::new(activations.fill(sorted.len(), inner), inner);
    let parts = groups.first().map_or(1, |(_, expert, _)| pieces(2 * expert.gate.weight().bytes(), inner));
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
    let columns = Columns::new(y, width);
    let parts = pieces(groups.iter().map(|(_, expert, _)| expert.down.weight().bytes()).sum(), width);
    (0..parts).into_par_iter().for_each(|part| {
        let range = width * part / parts..width * (part + 1) / parts;
        for (place, expert, rows) in &groups {
            let of_group: SmallVec<[usize; 8]> = (*place..place + rows.len()).collect();
            multiply(instructions, activations, &of_group, &expert.down, range.clone(), |row, at, sum| {
                let choice = &sorted[place + row];
                // SAFETY: these columns of all rows are this task's alone; the piece is dropped at once.
                let piece = unsafe { columns.piece(places[choice.row], at..at + 1) };
                piece[0] += choice.share * sum;
            });
        }
    });
}

/// Many rows: each expert's rows are multiplied together.
mod many {
    use super::*;
    use crate::linear::{Affine, LinearShape, Then};
    use crate::small::silu_multiply;

    #[allow(clippy::too_many_arguments)] // Those of `experts`, taken apart.
    pub(super) fn experts<'a>(
        processor: Processor,
        gathered: &mut Vec<f32>,
        x: &[f32],
        width: usize,
        sorted: &[Choice],
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
        let groups: Vec<(&[Choice], &mut [f32])> = sorted
            .chunk_by(|a, b| a.expert == b.expert)
            .map(|choices| {
                let (these, others) = std::mem::take(&mut rest).split_at_mut(choices.len() * width);
                rest = others;
                (choices, these)
            })
            .collect();
        // Experts beside each other where there are enough of them: one core each needs no waiting for others.
        #[cfg(target_arch = "x86_64")]
        if let (Precision::Half, Some(instructions)) = (precision, processor.half) {
            groups.into_par_iter().for_each(|(choices, out)| {
                half(instructions, x, width, inner, choices, &expert(choices[0].expert), out);
            });
            return add(sorted, gathered, width, y);
        }
        for (choices, out) in groups {
            let (Expert { gate, up, down }, rows) = (expert(choices[0].expert), choices.len());
            let x: Vec<f32> = choices.iter().flat_map(|choice| &x[choice.row * width..][..width]).copied().collect();
            let (into, back) =
                (LinearShape { rows, input: width, output: inner }, LinearShape { rows, input: inner, output: width });
            let [mut gated, mut upped] = [(); 2].map(|()| vec![0.0; size([rows, inner])]);
            let affine = |weight, shape| Affine { weight, bias: None, shape, precision, then: Then::Keep };
            affine(gate, into).apply_on(processor, &x, &mut gated);
            affine(up, into).apply_on(processor, &x, &mut upped);
            silu_multiply(&mut gated, &upped);
            affine(down, back).apply_on(processor, &gated, out);
        }
        add(sorted, gathered, width, y);
    }

    #[cfg(target_arch = "x86_64")]
    fn half(
        instructions: crate::half::HalfInstructions,
        x: &[f32],
        width: usize,
        inner: usize,
        choices: &[Choice],
        expert: &Expert,
        out: &mut [f32],
    ) {
        use crate::half_linear::linear_here;
        let Matrices { gate, up, down } = expert.matrices([inner, width]);
        let rows = choices.len();
        let mut values = vec![0.0; size([2, rows, inner])];
        let row = |at: usize| &x[choices[at].row * width..][..width];
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

    /// Adds each choice's output to its row.
    fn add(choices: &[Choice], outputs: &[f32], width: usize, y: &mut [f32]) {
        let mut by_row: Vec<Vec<(usize, f32)>> = vec![Vec::new(); y.len() / width];
        for (place, choice) in choices.iter().enumerate() {
            by_row[choice.row].push((place, choice.share));
        }
        y.par_chunks_mut(width).zip(by_row).for_each(|(y, places)| {
            for (place, share) in places {
                y.iter_mut().zip(&outputs[place * width..]).for_each(|(y, out)| *y += share * out);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::few::tests::numbers;
    use crate::weight::tests::Sample;

    #[test]
    fn rows_that_share_experts_get_what_they_would_get_alone() {
        Processor::all().for_each(|processor| check(processor, 3, Precision::Full, 1e-4));
    }

    #[test]
    #[should_panic(expected = "a choice of row 2 of 2")]
    fn a_choice_of_a_row_that_is_not_there_is_a_bug() {
        let mut inputs = Inputs::default();
        inputs.set(&[0.0; 8], 4);
        let weight = Weight::F32(&[0.0; 8]);
        let choice = Choice { expert: 0, row: 2, run: 0, share: 1.0 };
        let expert = |_| Expert { gate: weight, up: weight, down: weight };
        experts(&mut ExpertsMemory::default(), &mut inputs, &[choice], 2, expert, Precision::Full, &mut [0.0; 8]);
    }

    #[test]
    #[should_panic(expected = "weight [output, input]")]
    fn an_expert_of_another_shape_is_a_bug() {
        let mut inputs = Inputs::default();
        inputs.set(&[0.0; 8], 4);
        let (weight, short) = (Weight::F32(&[0.0; 8]), Weight::F32(&[0.0; 7]));
        let choice = Choice { expert: 0, row: 1, run: 0, share: 1.0 };
        let expert = |_| Expert { gate: weight, up: weight, down: short };
        experts(&mut ExpertsMemory::default(), &mut inputs, &[choice], 2, expert, Precision::Full, &mut [0.0; 8]);
    }

    #[test]
    fn many_rows_are_right_too() {
        for processor in Processor::all() {
            check(processor, 13, Precision::Full, 1e-4);
            check(processor, 13, Precision::Half, 2e-2);
        }
    }

    /// Four experts, of 4 and of 8 bits by turns.
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
        // Of each run, some experts are chosen by few rows, some by many; other runs turn few into many.
        let runs = [9, 17, 12];
        let x = numbers(runs.iter().sum::<usize>() * width, 3);
        let choices = |run: usize, first: usize| {
            let of_row = move |row: usize| {
                let seldom = (row < 3 + run).then_some(run % 4);
                let often = Some((run + 1) % 4);
                [seldom, often].into_iter().flatten().enumerate().map(move |(at, expert)| Choice {
                    expert,
                    row: first + row,
                    run,
                    share: 0.4 + 0.1 * at as f32,
                })
            };
            (0..runs[run]).flat_map(of_row).collect::<Vec<_>>()
        };
        let compute = |processor, x: &[f32], choices: &[Choice], precision| {
            let (mut inputs, mut y) = (Inputs::default(), vec![0.5; x.len()]);
            inputs.set(x, width);
            let memory = &mut ExpertsMemory::default();
            experts_on(processor, memory, &mut inputs, choices, inner, expert, precision, &mut y);
            y
        };
        for (processor, precision) in
            Processor::all().flat_map(|processor| [(processor, Precision::Half), (processor, Precision::Full)])
        {
            let mut first = 0;
            let (mut all, mut alone) = (Vec::new(), Vec::new());
            for (run, rows) in runs.iter().enumerate() {
                all.extend(choices(run, first));
                alone.extend(compute(processor, &x[first * width..][..rows * width], &choices(run, 0), precision));
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
        let compute = |share: f32| {
            let mut inputs = Inputs::default();
            inputs.set(&numbers(rows * width, 3), width);
            let choice =
                |row: usize, expert: usize| Choice { expert, row, run: 0, share: if row == 1 { share } else { 0.5 } };
            let choices: Vec<Choice> = (0..rows).flat_map(|row| [choice(row, row / 4), choice(row, 3)]).collect();
            let mut y = vec![0.5; rows * width];
            let memory = &mut ExpertsMemory::default();
            experts(memory, &mut inputs, &choices, inner, expert, Precision::Half, &mut y);
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
        let mut choices = [(2, 0, 0.5), (0, 0, 0.25), (0, 1, 1.0), (3, 2, 0.7), (0, 2, 0.1), (1, 1, -0.3)]
            .map(|(expert, row, share)| Choice { expert, row, run: 0, share })
            .to_vec();
        // Two experts, of 4 and of 8 bits, are chosen by many rows; the others stay seldom.
        choices.extend(
            (3..rows)
                .flat_map(|row| [0, 3].map(|expert| Choice { expert, row, run: 0, share: 0.2 + row as f32 / 50.0 })),
        );
        let mut inputs = Inputs::default();
        inputs.set(&x, width);
        let mut y = vec![1.0; rows * width];
        let memory = &mut ExpertsMemory::default();
        experts_on(processor, memory, &mut inputs, &choices, inner, expert, precision, &mut y);
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
        for Choice { expert: e, row, share, .. } in choices.iter().copied() {
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
