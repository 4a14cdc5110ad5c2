//! Attention without rotation over caches: in any steps and any company.

use omni_core::Dtype;
use proptest::prelude::*;
use qwen3_omni_nn::{Engine, KvCache, Run};

use crate::approx::{Approx, assert_near, exact};
use crate::formula::attention;
use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows};

/// Queries, keys and values `[T, H * Dh]` of one run.
struct Sequence {
    qkv: [Vec<f32>; 3],
    heads: usize,
    width: usize,
}

impl Sequence {
    fn draw(stored: &Stored, rows: usize, [heads, head_dim]: [usize; 2]) -> Self {
        let width = heads * head_dim;
        Self { qkv: [0, 1, 2].map(|_| stored.noise(rows * width)), heads, width }
    }

    /// The rows that `queries` queries give, of which each sees the first `seen(row)` keys.
    fn expected(&self, queries: usize, seen: impl Fn(usize) -> usize, dtype: Dtype) -> Vec<Approx> {
        let head_dim = self.width / self.heads;
        let head = |part: usize, head: usize| -> Vec<Vec<Approx>> {
            self.qkv[part].chunks_exact(self.width).map(|row| exact(&row[head * head_dim..][..head_dim])).collect()
        };
        let heads: Vec<_> = (0..self.heads).map(|at| [0, 1, 2].map(|part| head(part, at))).collect();
        let of_head =
            |row: usize, [q, k, v]: &[Vec<Vec<_>>; 3]| attention(&q[row], &k[..seen(row)], &v[..seen(row)], dtype);
        (0..queries).flat_map(|row| heads.iter().flat_map(move |head| of_head(row, head))).collect()
    }
}

/// One run in steps: each row sees the keys up to its own.
fn check_causal<E: Engine>(e: &E, sequence: &Sequence, steps: &[usize], dtype: Dtype) {
    let Sequence { heads, width, .. } = *sequence;
    let (mut cache, mut start, mut y) = (KvCache::default(), 0, Vec::new());
    for step in steps {
        let [q, k, v] = sequence.qkv.each_ref().map(|x| rows(e, &x[start * width..][..step * width], width));
        e.append([k, v], heads, &mut [Run { cache: &mut cache, rows: *step }]);
        y.extend(e.values(e.attend(q, heads, &mut [Run { cache: &mut cache, rows: *step }], true)));
        start += step;
        assert_eq!(cache.len(), start);
    }
    assert_near(&y, &sequence.expected(start, |row| row + 1, dtype), "causal");
}

/// Runs beside each other, each with queries of its own: every row sees all keys of its run.
fn check_beside<E: Engine>(e: &E, sequences: &[Sequence], queries: &[usize], dtype: Dtype) {
    let Sequence { heads, width, .. } = sequences[0];
    let mut caches = vec![KvCache::default(); sequences.len()];
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.qkv[1].len() / width).collect();
    let joined = |part: usize, counts: &[usize]| {
        let each = sequences.iter().zip(counts).flat_map(|(sequence, rows)| &sequence.qkv[part][..rows * width]);
        rows(e, &each.copied().collect::<Vec<_>>(), width)
    };
    let kv = [1, 2].map(|part| joined(part, &lengths));
    e.append(kv, heads, &mut runs(&mut caches, &lengths));
    let y = e.values(e.attend(joined(0, queries), heads, &mut runs(&mut caches, queries), false));
    let each = sequences.iter().zip(queries).zip(&lengths);
    let expected = each.flat_map(|((sequence, queries), length)| sequence.expected(*queries, |_| *length, dtype));
    assert_near(&y, &expected.collect::<Vec<_>>(), "all keys of each run");
}

fn runs<'a>(caches: &'a mut [KvCache], rows: &[usize]) -> Vec<Run<'a>> {
    caches.iter_mut().zip(rows).map(|(cache, rows)| Run { cache, rows: *rows }).collect()
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn one_run_in_steps(
        sizes in (1..4usize, 1..20usize), steps in prop::collection::vec(1..10usize, 1..8), seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let sequence = Sequence::draw(&stored, steps.iter().sum(), [sizes.0, sizes.1]);
        on_each_engine!(stored, |e, weights| check_causal(e, &sequence, &steps, weights.compute_dtype()));
    }

    /// Some caches hold more keys than fit into their first page.
    #[test]
    fn runs_beside_each_other(
        sizes in (1..4usize, 1..20usize), lengths in prop::collection::vec((1..80usize, 1..5usize), 1..4), seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let draw = |(keys, _): &(usize, usize)| Sequence::draw(&stored, *keys, [sizes.0, sizes.1]);
        let sequences: Vec<_> = lengths.iter().map(draw).collect();
        let queries: Vec<usize> = lengths.iter().map(|(keys, queries)| *queries.min(keys)).collect();
        on_each_engine!(stored, |e, weights| check_beside(e, &sequences, &queries, weights.compute_dtype()));
    }
}
