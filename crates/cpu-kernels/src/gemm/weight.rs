//! Weights as they are stored in a file: f32, bf16, or packed integers with their scales.

use std::ops::Range;

use crate::buffer::{size, total};
use crate::simd::widen;

/// A row-major matrix `[output, input]` in the number type it is stored in.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// f32 numbers.
    F32(&'a [f32]),
    /// bf16 numbers: the upper halves of f32 numbers.
    Bf16(&'a [u16]),
    /// Packed integers with scales.
    Packed(Packed<'a>),
}

/// Integers of 4 or 8 bits with one scale per group of inputs.
///
/// A value is `(q - 2^(bits-1) - zero) * scale`, where `q` is the unsigned integer in the words.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// 4 or 8.
    pub bits: usize,
    /// Inputs that share a scale; the last group of a row may be shorter.
    pub group: usize,
    /// `[output, input * bits / 32]`, rows rounded up to whole words, lowest bits first.
    pub words: &'a [u32],
    /// `[output, groups]`.
    pub scales: Scales<'a>,
    /// `[output, groups]`; absent if all are zero.
    pub zeros: Option<&'a [i8]>,
}

/// Scales in the number type they are stored in.
#[derive(Debug, Clone, Copy)]
pub enum Scales<'a> {
    /// f32 numbers.
    F32(&'a [f32]),
    /// bf16 numbers: the upper halves of f32 numbers.
    Bf16(&'a [u16]),
}

impl Scales<'_> {
    /// The scale at an index, as f32.
    #[inline(always)]
    pub(crate) fn at(&self, index: usize) -> f32 {
        match self {
            Scales::F32(scales) => scales[index],
            Scales::Bf16(scales) => widen(scales[index]),
        }
    }

    fn len(&self) -> usize {
        match self {
            Scales::F32(scales) => scales.len(),
            Scales::Bf16(scales) => scales.len(),
        }
    }
}

/// A weight with its shape. The lengths were checked against the shape, so that everything within it may be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    weight: Weight<'a>,
    output: usize,
    input: usize,
}

impl<'a> Matrix<'a> {
    /// # Panics
    /// If the lengths do not match the shape.
    pub(crate) fn new(weight: Weight<'a>, [output, input]: [usize; 2]) -> Self {
        let numbers = |length| assert_eq!(length, size([output, input]), "weight [output, input]");
        match weight {
            Weight::F32(values) => numbers(values.len()),
            Weight::Bf16(values) => numbers(values.len()),
            Weight::Packed(packed) => {
                packed.assert_form();
                let words = size([output, packed.words_per_row(input)]);
                assert_eq!(packed.words.len(), words, "words [output, words of a row]");
                let groups = size([output, input.div_ceil(packed.group)]);
                assert_eq!(packed.scales.len(), groups, "scales [output, groups]");
                assert!(packed.zeros.is_none_or(|zeros| zeros.len() == groups), "zeros [output, groups]");
            }
        }
        Self { weight, output, input }
    }

    pub(crate) fn weight(&self) -> &Weight<'a> {
        &self.weight
    }

    /// `[output, input]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.output, self.input]
    }
}

/// The range of part of a row in a matrix whose rows are `width` long; it does not reach beyond its row.
///
/// # Panics
/// If the row has no such part.
#[inline(always)]
fn part(row: usize, width: usize, start: usize, length: usize) -> Range<usize> {
    assert!(start <= width && length <= width - start, "{length} numbers from {start} on of a row of {width}");
    let start = total([size([row, width]), start]);
    start..start + length
}

impl Weight<'_> {
    /// Bytes that one use of the whole matrix reads.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::F32(values) => size_of_val(*values),
            Weight::Bf16(values) => size_of_val(*values),
            Weight::Packed(packed) => {
                let scale = if matches!(packed.scales, Scales::F32(_)) { 4 } else { 2 };
                size_of_val(packed.words) + packed.scales.len() * scale + packed.zeros.map_or(0, <[i8]>::len)
            }
        }
    }

    /// Dequantises a packed row whose inputs are in no order of groups: `groups` names the group of each input.
    ///
    /// # Panics
    /// If the weight is not packed, has no such row or group, or the lengths differ.
    pub fn row_with_groups(&self, row: usize, groups: &[u32], out: &mut [f32]) {
        let Weight::Packed(packed) = self else { panic!("only packed weights have groups") };
        assert_eq!(groups.len(), out.len(), "groups [input], out [input]");
        packed.assert_form();
        let Packed { bits, group, words, .. } = *packed;
        let (per_word, count) = (32 / bits, out.len().div_ceil(group));
        let words = &words[part(row, packed.words_per_row(out.len()), 0, packed.words_per_row(out.len()))];
        let first = part(row, count, 0, count).start;
        for (column, (out, group)) in out.iter_mut().zip(groups).enumerate() {
            let group = *group as usize;
            assert!(group < count, "group {group} of {count}");
            let q = (words[column / per_word] >> (column % per_word * bits)) & ((1 << bits) - 1);
            let zero = (1 << (bits - 1)) + packed.zeros.map_or(0, |zeros| i32::from(zeros[first + group]));
            *out = (q as i32 - zero) as f32 * packed.scales.at(first + group);
        }
    }

    /// Reads part of a row as f32, of a matrix with `input` columns.
    ///
    /// # Panics
    /// If the row has no such part.
    #[inline(always)]
    pub fn read(&self, row: usize, input: usize, start: usize, out: &mut [f32]) {
        let range = part(row, input, start, out.len());
        match self {
            Weight::F32(values) => out.copy_from_slice(&values[range]),
            Weight::Bf16(values) => out.iter_mut().zip(&values[range]).for_each(|(out, value)| *out = widen(*value)),
            Weight::Packed(packed) => packed.read(row, input, start, out),
        }
    }
}

impl Packed<'_> {
    fn assert_form(&self) {
        assert!(matches!(self.bits, 4 | 8) && self.group > 0, "4 or 8 bits, groups of at least one input");
    }

    /// Words of one row.
    #[inline(always)]
    pub(crate) fn words_per_row(&self, input: usize) -> usize {
        match self.bits {
            4 => input.div_ceil(8),
            8 => input.div_ceil(4),
            bits => panic!("integers of {bits} bits"),
        }
    }

    #[inline(always)]
    pub(crate) fn read(&self, row: usize, input: usize, start: usize, out: &mut [f32]) {
        self.assert_form();
        let Packed { bits, group, .. } = *self;
        let (words, groups) = (self.words_per_row(input), input.div_ceil(group));
        let words = &self.words[part(row, words, 0, words)];
        let first = part(row, groups, 0, groups).start;
        let (middle, mask) = (1 << (bits - 1), (1u32 << bits) - 1);
        let per_word = 32 / bits;
        let mut done = 0;
        while done < out.len() {
            let column = start + done;
            let at = column / group;
            let length = (group - column % group).min(out.len() - done);
            let index = first + at;
            let (scale, zero) = (self.scales.at(index), middle + self.zeros.map_or(0, |zeros| i32::from(zeros[index])));
            for (out, column) in out[done..done + length].iter_mut().zip(column..) {
                let q = (words[column / per_word] >> (column % per_word * bits)) & mask;
                *out = (q as i32 - zero) as f32 * scale;
            }
            done += length;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::simd::narrow;

    /// A packed matrix with pseudo-random contents.
    pub(crate) struct Sample {
        bits: usize,
        group: usize,
        words: Vec<u32>,
        wide: Vec<f32>,
        narrow: Vec<u16>,
        zeros: Option<Vec<i8>>,
        halved: bool,
    }

    impl Sample {
        pub(crate) fn new(bits: usize, group: usize, [output, input]: [usize; 2], zeros: bool, halved: bool) -> Self {
            let (words, groups) = ((input * bits).div_ceil(32), input.div_ceil(group));
            let mut state = 0x2545_F491_4F6C_DD1Du64 ^ (bits * 31 + group * 7 + output * 13 + input) as u64;
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 16) as u32
            };
            let words = (0..output * words).map(|_| random()).collect();
            let wide: Vec<f32> =
                (0..output * groups).map(|_| widen(narrow((random() % 97 + 1) as f32 / 5000.0))).collect();
            let narrow = wide.iter().map(|scale| narrow(*scale)).collect();
            let zeros = zeros.then(|| (0..output * groups).map(|_| (random() % 7) as i8 - 3).collect());
            Self { bits, group, words, wide, narrow, zeros, halved }
        }

        pub(crate) fn weight(&self) -> Weight<'_> {
            let scales = if self.halved { Scales::Bf16(&self.narrow) } else { Scales::F32(&self.wide) };
            let Self { bits, group, words, zeros, .. } = self;
            Weight::Packed(Packed { bits: *bits, group: *group, words, scales, zeros: zeros.as_deref() })
        }
    }

    #[test]
    fn a_packed_row_is_read_in_pieces_as_in_one() {
        for bits in [4, 8] {
            let sample = Sample::new(bits, 12, [3, 50], true, true);
            let mut whole = [0.0; 50];
            sample.weight().read(2, 50, 0, &mut whole);
            for start in [0, 3, 12, 31] {
                let mut piece = [0.0; 19];
                sample.weight().read(2, 50, start, &mut piece);
                assert_eq!(piece, whole[start..start + 19]);
            }
        }
    }

    #[test]
    fn nearest_bf16() {
        assert_eq!(widen(narrow(1.0)), 1.0);
        assert_eq!(narrow(f32::from_bits(0x3F80_8000)), 0x3F80);
        assert_eq!(narrow(f32::from_bits(0x3F81_8000)), 0x3F82);
    }

    #[test]
    fn shapes_of_other_lengths_are_no_matrices() {
        let refused =
            |weight: Weight, shape: [usize; 2]| std::panic::catch_unwind(|| _ = Matrix::new(weight, shape)).is_err();
        let values = [0.0; 6];
        assert!(!refused(Weight::F32(&values), [2, 3]));
        assert!(refused(Weight::F32(&values), [2, 4]));
        // Sizes whose product wraps to 0, and to 6.
        assert!(refused(Weight::F32(&[]), [usize::MAX / 2 + 1, 2]));
        assert!(refused(Weight::F32(&values), [usize::MAX / 2 + 4, 2]));
        let packed =
            |bits, group, words, scales| Packed { bits, group, words, scales: Scales::F32(scales), zeros: None };
        assert!(!refused(Weight::Packed(packed(8, 4, &[0; 4], &[0.0; 4])), [2, 8]));
        assert!(refused(Weight::Packed(packed(8, 4, &[0; 4], &[0.0; 3])), [2, 8]));
        assert!(refused(Weight::Packed(packed(8, 0, &[0; 4], &[0.0; 4])), [2, 8]));
        assert!(refused(Weight::Packed(packed(2, 4, &[0; 1], &[0.0; 4])), [2, 8]));
        assert!(refused(Weight::Packed(packed(0, 4, &[0; 4], &[0.0; 4])), [2, 8]));
        assert!(refused(Weight::Packed(packed(8, 4, &[], &[])), [usize::MAX / 2 + 1, 8]));
    }

    #[test]
    fn no_part_of_a_row_reaches_into_the_next() {
        let refused = |row, start, length| {
            let mut out = vec![0.0; length];
            std::panic::catch_unwind(move || Weight::F32(&[0.0; 6]).read(row, 3, start, &mut out)).is_err()
        };
        assert!(!refused(1, 1, 2));
        assert!(refused(0, 2, 2) && refused(2, 0, 1) && refused(usize::MAX / 3 + 1, 0, 1) && refused(0, usize::MAX, 2));
    }
}
