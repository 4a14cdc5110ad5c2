//! Full attention inside windows of rows.

use omni_core::Dtype;
use proptest::prelude::*;
use qwen3_omni_nn::{Engine, Qkv};

use crate::approx::{Approx, assert_near, exact};
use crate::formula::{attention, rotated};
use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows};

/// Queries, keys and values `[N, H * Dh]`, and angles `[N, Dh / 2]`.
struct Inputs {
    qkv: [Vec<f32>; 3],
    heads: usize,
    head_dim: usize,
    windows: Vec<usize>,
    tables: [Vec<f32>; 2],
}

impl Inputs {
    fn draw(stored: &Stored, [heads, half]: [usize; 2], windows: Vec<usize>) -> Self {
        let rows: usize = windows.iter().sum();
        let qkv = [0, 1, 2].map(|_| stored.noise(rows * heads * 2 * half));
        let angles = stored.noise(rows * half);
        let tables = [f32::cos, f32::sin].map(|f| angles.iter().map(|angle| f(*angle)).collect());
        Self { qkv, heads, head_dim: 2 * half, windows, tables }
    }

    /// Queries, keys and values side by side in each row.
    fn joined(&self) -> Vec<f32> {
        let width = self.heads * self.head_dim;
        let row = |row: usize| self.qkv.iter().flat_map(move |x| &x[row * width..][..width]);
        (0..self.qkv[0].len() / width).flat_map(row).copied().collect()
    }

    /// One head of each row, rotated if asked for.
    fn head(&self, part: usize, head: usize, rotate: bool) -> Vec<Vec<Approx>> {
        let [cos, sin] = self.tables.each_ref().map(|table| table.chunks_exact(self.head_dim / 2));
        let rows = self.qkv[part].chunks_exact(self.heads * self.head_dim).zip(cos.zip(sin));
        let of_row = |(x, (cos, sin)): (&[f32], (&[f32], &[f32]))| {
            let x = exact(&x[head * self.head_dim..][..self.head_dim]);
            if rotate && part < 2 { rotated(&x, cos, sin) } else { x }
        };
        rows.map(of_row).collect()
    }

    fn expected(&self, rotate: bool, dtype: Dtype) -> Vec<Approx> {
        let heads: Vec<[_; 3]> =
            (0..self.heads).map(|head| [0, 1, 2].map(|part| self.head(part, head, rotate))).collect();
        let (mut y, mut start) = (Vec::new(), 0);
        for length in &self.windows {
            let window = start..start + length;
            for row in window.clone() {
                let attended =
                    heads.iter().map(|[q, k, v]| attention(&q[row], &k[window.clone()], &v[window.clone()], dtype));
                y.extend(attended.flatten());
            }
            start = window.end;
        }
        y
    }
}

fn check<E: Engine>(e: &E, inputs: &Inputs, dtype: Dtype) {
    let width = inputs.heads * inputs.head_dim;
    let count = inputs.windows.iter().sum();
    let rotation = e.rotation(inputs.tables.clone(), count);
    for rotate in [false, true] {
        let expected = inputs.expected(rotate, dtype);
        let split = Qkv::Split(inputs.qkv.each_ref().map(|x| rows(e, x, width)));
        for (qkv, form) in [(split, "split"), (Qkv::Joined(rows(e, &inputs.joined(), 3 * width)), "joined")] {
            let y = e.window_attention(qkv, inputs.heads, &inputs.windows, rotate.then_some(&rotation));
            assert_eq!(e.shape(&y), [count, width]);
            assert_near(&e.values(y), &expected, &format!("{form}, rotated: {rotate}"));
        }
    }
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn window_attention(
        heads in 1..4usize, half in 1..20usize, windows in prop::collection::vec(0..14usize, 1..5), seed: u16,
    ) {
        prop_assume!(windows.iter().any(|length| *length > 0));
        let stored = Stored::new(seed.into());
        let inputs = Inputs::draw(&stored, [heads, half], windows);
        on_each_engine!(stored, |e, weights| check(e, &inputs, weights.compute_dtype()));
    }
}
