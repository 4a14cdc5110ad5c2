//! Causal attention with norms of heads, rotation, shared keys, windows and caches.

use std::ops::Range;

use checkpoint::Weights;
use proptest::prelude::*;
use qwen3_omni_nn::{Attention, AttentionSpec, Engine, KvCache, Run, RunLength};

use crate::approx::{Approx, assert_near, exact};
use crate::formula::{attention, rms_norm, rotated};
use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows};

/// All that one run is given, in steps of the given numbers of rows.
struct Sequence {
    steps: Vec<usize>,
    /// `[T, H * Dh]`, `[T, K * Dh]` twice.
    qkv: [Vec<f32>; 3],
    /// `[T, Dh / 2]` each.
    tables: [Vec<f32>; 2],
}

impl Sequence {
    fn draw(stored: &Stored, spec: &AttentionSpec, steps: Vec<usize>) -> Self {
        let rows: usize = steps.iter().sum();
        let qkv = [spec.heads, spec.kv_heads, spec.kv_heads].map(|heads| stored.noise(rows * heads * spec.head_dim));
        let angles = stored.noise(rows * spec.head_dim / 2);
        let tables = [f32::cos, f32::sin].map(|f| angles.iter().map(|angle| f(*angle)).collect());
        Self { steps, qkv, tables }
    }

    /// The rows of one step.
    fn rows_of(&self, step: usize) -> Range<usize> {
        let start = self.steps[..step].iter().sum();
        start..start + self.steps[step]
    }
}

/// The layer, its sequences, and the weights of the norms of queries' and keys' heads.
struct Case {
    spec: AttentionSpec,
    norms: [Vec<f32>; 2],
    sequences: Vec<Sequence>,
}

impl Case {
    /// Widths of a row of queries, of keys and of values.
    fn widths(&self) -> [usize; 3] {
        let AttentionSpec { heads, kv_heads, head_dim, .. } = self.spec;
        [heads, kv_heads, kv_heads].map(|heads| heads * head_dim)
    }

    /// Rows `[N, width]` of one step of all sequences.
    fn of_step(&self, step: usize, width: usize, part: impl Fn(&Sequence) -> &Vec<f32>) -> Vec<f32> {
        let of_sequence = |sequence| {
            let rows = Sequence::rows_of(sequence, step);
            &part(sequence)[rows.start * width..rows.end * width]
        };
        self.sequences.iter().flat_map(of_sequence).copied().collect()
    }

    fn tables_of(&self, step: usize) -> [Vec<f32>; 2] {
        [0, 1].map(|table| self.of_step(step, self.spec.head_dim / 2, |sequence| &sequence.tables[table]))
    }

    /// Query, key or value heads `[T]` of a sequence, as attention takes them.
    fn heads(&self, sequence: &Sequence, part: usize, head: usize) -> Vec<Vec<Approx>> {
        let AttentionSpec { head_dim, head_norm, .. } = self.spec;
        let [cos, sin] = sequence.tables.each_ref().map(|table| table.chunks_exact(head_dim / 2));
        let of_row = |(row, (cos, sin)): (&[f32], (&[f32], &[f32]))| {
            let x = exact(&row[head * head_dim..][..head_dim]);
            match (self.norms.get(part), head_norm) {
                (None, _) => x,
                (Some(_), None) => rotated(&x, cos, sin),
                (Some(weight), Some(eps)) => rotated(&rms_norm(&x, weight, eps as f32), cos, sin),
            }
        };
        sequence.qkv[part].chunks_exact(self.widths()[part]).zip(cos.zip(sin)).map(of_row).collect()
    }

    /// All rows `[T, H * Dh]` of a sequence.
    fn expected(&self, sequence: &Sequence, weights: &Weights) -> Vec<Vec<Approx>> {
        let AttentionSpec { heads, kv_heads, window, .. } = self.spec;
        let queries: Vec<_> = (0..heads).map(|head| self.heads(sequence, 0, head)).collect();
        let shared: Vec<_> = (0..kv_heads).map(|head| [1, 2].map(|part| self.heads(sequence, part, head))).collect();
        let of_row = |row: usize| {
            let seen = window.map_or(0, |window| (row + 1).saturating_sub(window))..row + 1;
            let of_head = |head: usize| {
                let [k, v] = &shared[head / (heads / kv_heads)];
                attention(&queries[head][row], &k[seen.clone()], &v[seen.clone()], weights.compute_dtype())
            };
            (0..heads).flat_map(of_head).collect()
        };
        (0..sequence.steps.iter().sum()).map(of_row).collect()
    }
}

/// One step of all sequences.
fn attend<E: Engine>(e: &E, attention: &Attention, case: &Case, step: usize, caches: &mut [KvCache]) -> Vec<f32> {
    let steps: Vec<usize> = case.sequences.iter().map(|sequence| sequence.steps[step]).collect();
    let lengths = steps.iter().zip(&*caches).map(|(rows, cache)| RunLength { queries: *rows, past: cache.len() });
    let shared = e.step(case.tables_of(step), &lengths.collect::<Vec<_>>(), case.spec.window);
    let qkv = [0, 1, 2].map(|part| {
        let width = case.widths()[part];
        rows(e, &case.of_step(step, width, |sequence| &sequence.qkv[part]), width)
    });
    let runs = caches.iter_mut().zip(&steps).map(|(cache, rows)| Run { cache, rows: *rows });
    e.values(e.causal_attention(attention.heads(), qkv, &shared, &mut runs.collect::<Vec<_>>()))
}

fn check<E: Engine>(e: &E, weights: &Weights, case: &Case, start: &KvCache) {
    let attention = Attention::load(weights, &case.spec).unwrap();
    let expected: Vec<_> = case.sequences.iter().map(|sequence| case.expected(sequence, weights)).collect();
    let mut caches = vec![start.clone(); expected.len()];
    for step in 0..case.sequences[0].steps.len() {
        let y = attend(e, &attention, case, step, &mut caches);
        let each = case.sequences.iter().zip(&expected);
        let rows = each.flat_map(|(sequence, expected)| &expected[sequence.rows_of(step)]);
        assert_near(&y, &rows.flatten().copied().collect::<Vec<_>>(), &format!("step {step} of {:?}", case.spec));
    }
}

/// Sizes of a layer: one head of keys and values serves one or more heads of queries.
fn specs(
    largest_group: usize,
    largest_half: usize,
    window: impl Strategy<Value = Option<usize>>,
) -> impl Strategy<Value = AttentionSpec> {
    let head_norm = prop::option::of(prop::sample::select(vec![1e-6, 0.5]));
    let sizes = (1..3usize, 1..=largest_group, 1..=largest_half, head_norm, window);
    sizes.prop_map(|(kv_heads, group, half, head_norm, window)| AttentionSpec {
        width: 1,
        heads: kv_heads * group,
        kv_heads,
        head_dim: 2 * half,
        head_norm,
        window,
    })
}

fn any_window() -> impl Strategy<Value = Option<usize>> {
    prop::option::of(1..7usize)
}

fn draw(stored: &Stored, spec: AttentionSpec, steps: Vec<Vec<usize>>) -> Case {
    for (name, heads) in [("q_proj", spec.heads), ("k_proj", spec.kv_heads), ("v_proj", spec.kv_heads)] {
        stored.matrix(&format!("{name}.weight"), [heads * spec.head_dim, spec.width]);
    }
    stored.matrix("o_proj.weight", [spec.width, spec.heads * spec.head_dim]);
    let norms = ["q_norm", "k_norm"].map(|name| stored.vector(&format!("{name}.weight"), spec.head_dim));
    let sequences = steps.into_iter().map(|steps| Sequence::draw(stored, &spec, steps)).collect();
    Case { spec, norms, sequences }
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn runs_with_caches(
        spec in specs(3, 16, any_window()), steps in prop::collection::vec(prop::collection::vec(1..11usize, 3), 1..4),
        seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let case = draw(&stored, spec, steps);
        on_each_engine!(stored, |e, weights| check(e, weights, &case, &KvCache::default()));
    }

    /// Caches give the pages back that their window has left behind, and no others.
    #[test]
    fn runs_longer_than_a_page(
        spec in specs(1, 4, (1..20usize).prop_map(Some)),
        steps in prop::collection::vec(prop::collection::vec(1..60usize, 4), 1..3),
        seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let case = draw(&stored, spec, steps);
        on_each_engine!(stored, |e, weights| check(e, weights, &case, &KvCache::default()));
    }

    /// Runs of one step, as in training: the device engine computes them as one padded batch.
    #[test]
    fn runs_that_keep_nothing(
        spec in specs(3, 16, any_window()), lengths in prop::collection::vec(4..9usize, 1..4), seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let case = draw(&stored, spec, lengths.into_iter().map(|length| vec![length]).collect());
        on_each_engine!(stored, |e, weights| check(e, weights, &case, &KvCache::discarding()));
    }
}
