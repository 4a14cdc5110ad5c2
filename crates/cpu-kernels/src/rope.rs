//! Rotary position embedding (RoPE) of queries and keys.

use rayon::prelude::*;

use crate::buffer::size;
use crate::simd::{Processor, Vectorized};

/// Rotates one head: `x * cos + rotate_half(x) * sin`. `cos` and `sin` cover the first half; the second half repeats them.
///
/// # Panics
/// If the head is not twice as long as the tables.
#[inline(always)]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    assert!(first.len() == second.len() && first.len() == sin.len(), "head [2 * half], cos, sin [half]");
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// Rotates the first `heads` heads of every row (see [`rotate`]). `cos` and `sin` are `[rows, half]`; rows of `x` begin `stride`
/// numbers apart.
///
/// # Panics
/// If `x` is not a whole number of rows, or `stride` is less than `heads` heads.
pub fn rotate_rows(x: &mut [f32], stride: usize, heads: usize, cos: &[f32], sin: &[f32]) {
    let rows = x.len().checked_div(stride).unwrap_or(0);
    let half = cos.len() / rows.max(1);
    assert!(x.len() == rows * stride && size([2, half, heads]) <= stride, "x [rows, stride]");
    assert!(cos.len() == rows * half && sin.len() == cos.len(), "cos, sin [rows, half]");
    if half == 0 || x.is_empty() {
        return;
    }
    let arch = Processor::best().arch;
    x.par_chunks_exact_mut(stride).enumerate().with_min_len(8).for_each(|(row, x)| {
        let of_row = row * half..(row + 1) * half;
        let (cos, sin) = (&cos[of_row.clone()], &sin[of_row]);
        arch.dispatch(Vectorized(
            #[inline(always)]
            || x[..2 * half * heads].chunks_exact_mut(2 * half).for_each(|head| rotate(head, cos, sin)),
        ));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_heads_of_a_row_turn() {
        let mut x = [1.0, 2.0, 5.0, 3.0, 4.0, 6.0];
        rotate_rows(&mut x, 3, 1, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(x, [-2.0, 1.0, 5.0, 3.0, 4.0, 6.0]);
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn more_heads_than_a_row_could_have_are_a_bug() {
        rotate_rows(&mut [0.0; 6], 3, usize::MAX / 2 + 1, &[0.0; 2], &[0.0; 2]);
    }

    #[test]
    fn a_quarter_turn() {
        let mut head = [1.0, 2.0, 3.0, 4.0];
        rotate(&mut head, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(head, [-3.0, 2.0, 1.0, 4.0]);
    }
}
