//! Rows in and out of an engine, and sums of rows.

use std::ops::Range;

use burn::tensor::Device;
use proptest::prelude::*;
use qwen3_omni_nn::{Engine, HostEngine};

use crate::approx::{Approx, assert_near, exact};
use crate::formula::sigmoid;
use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows, tensor};

/// Rows of one width, in the parts that they are handed over in.
#[derive(Debug)]
struct Parts {
    values: Vec<f32>,
    width: usize,
    lengths: Vec<usize>,
}

impl Parts {
    fn take<E: Engine>(&self, e: &E) -> E::Rows {
        let mut rest = &self.values[..];
        let parts = self.lengths.iter().map(|length| {
            let (these, others) = rest.split_at(length * self.width);
            rest = others;
            tensor(these, self.width)
        });
        e.rows(&parts.collect::<Vec<_>>().iter().collect::<Vec<_>>())
    }

    fn count(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn range(&self, rows: Range<usize>) -> &[f32] {
        &self.values[rows.start * self.width..rows.end * self.width]
    }
}

/// What only moves numbers, in any order, changes none of them.
fn check_moved<E: Engine>(e: &E, x: &Parts, range: Range<usize>, chosen: &[usize]) {
    let taken = x.take(e);
    assert_eq!(e.shape(&taken), [x.count(), x.width]);
    let part = e.tensor(&taken, range.clone());
    assert_eq!(part.dims(), [range.len(), x.width]);
    assert_eq!(qwen3_omni_nn::to_f32_vec(&part), x.range(range), "tensor");
    let selected = e.select(&taken, chosen);
    assert_eq!(e.shape(&selected), [chosen.len(), x.width]);
    let expected: Vec<f32> = chosen.iter().flat_map(|row| x.range(*row..row + 1)).copied().collect();
    assert_eq!(e.values(selected), expected, "select");
    assert_eq!(e.values(e.widened(&taken)), x.values, "widened");
    let reshaped = e.reshape(taken, x.count());
    assert_eq!(e.shape(&reshaped), [x.width, x.count()]);
    assert_eq!(e.values(reshaped), x.values, "reshape");
    assert_eq!(e.call(|| e.values(x.take(e))), x.values, "call");
}

#[test]
fn a_call_gives_back_what_it_took_beyond_what_is_kept() {
    let e = HostEngine::new(&Device::flex(), false);
    e.call(|| drop(e.take(1, HostEngine::KEPT_BYTES)));
    assert!(e.pooled_bytes() <= HostEngine::KEPT_BYTES, "{} bytes are kept", e.pooled_bytes());
}

fn check_ids<E: Engine>(e: &E, ids: &[u32]) {
    let (first, second) = ids.split_at(ids.len() / 3);
    assert_eq!(e.read_ids(&[e.ids(second), e.ids(first)]), [second, first].concat());
    assert!(e.read_ids(&[]).is_empty());
}

fn check_add<E: Engine>(e: &E, x: &Parts, y: &[f32], at: &[usize]) {
    let other = rows(e, y, x.width);
    let sum = e.add(x.take(e), &other);
    let expected: Vec<Approx> = x.values.iter().zip(y).map(|(x, y)| Approx::from(*x) + Approx::from(*y)).collect();
    assert_near(&e.values(sum), &expected, "add");
    assert_eq!(e.values(other), y, "what is added keeps its values");
    let added = &y[..at.len() * x.width];
    let mut expected = exact(&x.values);
    for (at, row) in at.iter().zip(added.chunks_exact(x.width)) {
        expected[at * x.width..].iter_mut().zip(row).for_each(|(sum, y)| *sum = *sum + Approx::from(*y));
    }
    let sum = e.add_rows(x.take(e), at, &tensor(added, x.width));
    assert_near(&e.values(sum), &expected, "add_rows");
}

fn check_add_gated<E: Engine>(e: &E, x: &Parts, y: &[f32], gate: &[f32]) {
    let shares = gate.iter().flat_map(|gate| std::iter::repeat_n(sigmoid(Approx::from(*gate)), x.width));
    let terms = exact(&x.values).into_iter().zip(exact(y)).zip(shares);
    let expected: Vec<Approx> = terms.map(|((x, y), share)| x + share * y).collect();
    let sum = e.add_gated(x.take(e), rows(e, y, x.width), &rows(e, gate, 1));
    assert_near(&e.values(sum), &expected, "add_gated");
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn rows_that_are_moved(
        lengths in prop::collection::vec(1..6usize, 1..5), width in 1..40usize,
        ends in prop::array::uniform2(any::<prop::sample::Index>()),
        chosen in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
        ids in prop::collection::vec(0..1u32 << 31, 1..20), seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let count: usize = lengths.iter().sum();
        let x = Parts { values: stored.noise(count * width), width, lengths };
        let [a, b] = ends.map(|end| end.index(count));
        let chosen: Vec<usize> = chosen.iter().map(|row| row.index(count)).collect();
        on_each_engine!(stored, |e, _weights| {
            check_moved(e, &x, a.min(b)..a.max(b) + 1, &chosen);
            check_ids(e, &ids);
        });
    }

    /// More rows than there are places to add them at: some are added to the same one.
    #[test]
    fn sums_of_rows(
        lengths in prop::collection::vec(1..6usize, 1..5), width in 1..40usize,
        at in prop::collection::vec(any::<prop::sample::Index>(), 1..12), seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let count: usize = lengths.iter().sum();
        let x = Parts { values: stored.noise(count * width), width, lengths };
        let (y, gate) = (stored.noise(count * width), stored.noise(count));
        let at: Vec<usize> = at.iter().take(count).map(|at| at.index(count.div_ceil(2))).collect();
        on_each_engine!(stored, |e, _weights| {
            check_add(e, &x, &y, &at);
            check_add_gated(e, &x, &y, &gate);
        });
    }
}
