//! Rows of a table: one per id, means of several, and weighted sums.

use checkpoint::Weights;
use proptest::prelude::*;
use qwen3_omni_nn::{Embedding, Engine, WeightedRow};

use crate::approx::{Approx, assert_near, exact};
use crate::formula::mean;
use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows};

/// A table `[V, D]` as it is stored.
#[derive(Debug)]
struct Table {
    values: Vec<f32>,
    width: usize,
}

impl Table {
    fn load(&self, weights: &Weights) -> Embedding {
        Embedding::load(weights, [self.values.len() / self.width, self.width]).unwrap()
    }

    /// One row, in the number type that the engine keeps it in.
    fn row(&self, index: usize, weights: &Weights) -> Vec<Approx> {
        let row = exact(&self.values[index * self.width..][..self.width]);
        row.into_iter().map(|value| value.operand(weights.compute_dtype())).collect()
    }
}

fn check_embed<E: Engine>(e: &E, weights: &Weights, table: &Table, ids: &[u32]) {
    let found = e.embed(&table.load(weights), &e.ids(ids));
    assert_eq!(e.shape(&found), [ids.len(), table.width]);
    let expected: Vec<Approx> = ids.iter().flat_map(|id| table.row(*id as usize, weights)).collect();
    assert_near(&e.values(found), &expected, "embed");
}

fn check_embed_mean<E: Engine>(e: &E, weights: &Weights, table: &Table, ids: &[u32], per_row: usize) {
    let found = e.embed_mean(&table.load(weights), ids, per_row);
    assert_eq!(e.shape(&found), [ids.len() / per_row, table.width]);
    let of_group = |ids: &[u32]| -> Vec<Approx> {
        let each: Vec<_> = ids.iter().map(|id| table.row(*id as usize, weights)).collect();
        (0..table.width).map(|at| mean(each.iter().map(|row| row[at]))).collect()
    };
    let expected: Vec<Approx> = ids.chunks_exact(per_row).flat_map(of_group).collect();
    assert_near(&e.values(found), &expected, "embed_mean");
}

fn check_add_weighted<E: Engine>(e: &E, weights: &Weights, table: &Table, x: &[f32], corners: &[[WeightedRow; 4]]) {
    let found = e.add_weighted(rows(e, x, table.width), &table.load(weights), corners);
    let added = |(x, corners): (&[f32], &[WeightedRow; 4])| -> Vec<Approx> {
        let each = corners.map(|(index, weight)| (table.row(index, weights), Approx::from(weight)));
        let terms = |at: usize| each.each_ref().map(|(row, weight)| row[at] * *weight);
        exact(x).into_iter().enumerate().map(|(at, x)| Approx::sum(std::iter::once(x).chain(terms(at)))).collect()
    };
    let expected: Vec<Approx> = x.chunks_exact(table.width).zip(corners).flat_map(added).collect();
    assert_near(&e.values(found), &expected, "add_weighted");
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn embeddings(
        count in 1..12usize, per_row in 1..5usize, table in (2..50usize, 1..40usize),
        chosen in prop::collection::vec(any::<prop::sample::Index>(), 12 * 4), seed: u16,
    ) {
        let (stored, (entries, width)) = (Stored::new(seed.into()), table);
        let table = Table { values: stored.matrix("weight", [entries, width]), width };
        let x = stored.noise(count * width);
        let chosen: Vec<usize> = chosen.iter().map(|index| index.index(entries)).collect();
        let ids: Vec<u32> = chosen[..count * per_row].iter().map(|index| *index as u32).collect();
        let shares = stored.noise(4 * count);
        let corner = |row: usize, corner: usize| (chosen[4 * row + corner], shares[4 * row + corner]);
        let corners: Vec<_> = (0..count).map(|row| [0, 1, 2, 3].map(|at| corner(row, at))).collect();
        on_each_engine!(stored, |e, weights| {
            check_embed(e, weights, &table, &ids);
            check_embed_mean(e, weights, &table, &ids, per_row);
            check_add_weighted(e, weights, &table, &x, &corners);
        });
    }
}
