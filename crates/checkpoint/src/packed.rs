//! The arithmetic of packed integer weights, in the layout `compressed-tensors` calls `pack-quantized`.
//!
//! A value is `(q − zero) · scale` with `q` in `−2^(bits−1) … 2^(bits−1) − 1`. Stored is `q + 2^(bits−1)`, several to a
//! 32-bit word, lowest bits first, along the inputs; zero points are packed the same way, but along the outputs.

use half::bf16;

/// How the values of a matrix are quantised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheme {
    /// Bits of a value: 4 or 8.
    pub bits: u32,
    /// Inputs that share a scale; `None` if all inputs of an output share one.
    pub group: Option<usize>,
    /// Whether zero is the middle of the range; otherwise each group has a zero point.
    pub symmetric: bool,
}

impl Scheme {
    /// Inputs per scale in a row of `inputs` inputs.
    pub fn group_in(&self, inputs: usize) -> usize {
        self.group.unwrap_or(inputs)
    }

    /// Scales per row of `inputs` inputs.
    pub fn groups_in(&self, inputs: usize) -> usize {
        self.group.map_or(1, |group| inputs.div_ceil(group.max(1)))
    }

    /// Words per row of `values` values.
    pub fn words_in(&self, values: usize) -> usize {
        values.div_ceil(self.per_word())
    }

    fn per_word(&self) -> usize {
        per_word(self.bits)
    }

    /// Smallest and largest integer.
    fn range(&self) -> (f32, f32) {
        let half = (1u32 << (self.bits - 1)) as f32;
        (-half, half - 1.0)
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "int{} ", self.bits)?;
        match self.group {
            Some(group) => write!(f, "group {group}")?,
            None => f.write_str("per channel")?,
        }
        f.write_str(if self.symmetric { "" } else { " with zero points" })
    }
}

fn per_word(bits: u32) -> usize {
    (u32::BITS / bits) as usize
}

/// A quantised matrix in its stored form.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedMatrix {
    /// `[out, words per row]`.
    pub words: Vec<i32>,
    /// `[out, groups]`.
    pub scales: Vec<bf16>,
    /// `[words per column, groups]`; `None` for a symmetric scheme.
    pub zeros: Option<Vec<i32>>,
}

/// Quantises a matrix `[out, in]`, each group by its own largest value.
///
/// The scale is rounded to bf16 first and the values are divided by the rounded scale, so that the integers fit the scale that is
/// stored. Group sizes must divide the inputs.
///
/// # Panics
/// If the number of weights is not `out · in`, or the group does not divide the inputs.
pub fn quantize(weight: &[f32], [outputs, inputs]: [usize; 2], scheme: &Scheme) -> PackedMatrix {
    assert_eq!(weight.len(), outputs * inputs, "a weight of [{outputs}, {inputs}]");
    let group = scheme.group_in(inputs);
    assert!(group > 0 && inputs.is_multiple_of(group), "groups of {group} do not divide {inputs} inputs");
    let groups = outputs * (inputs / group);
    let mut values = vec![0i8; weight.len()];
    let (mut scales, mut zeros) = (Vec::with_capacity(groups), Vec::with_capacity(groups));
    for (from, to) in weight.chunks_exact(group).zip(values.chunks_exact_mut(group)) {
        let (scale, zero) = scale_and_zero(from, scheme);
        round(from, to, scale.to_f32(), zero, scheme);
        scales.push(scale);
        zeros.push(zero as i8);
    }
    let words = pack(&values, [outputs, inputs], scheme.bits);
    let zeros = (!scheme.symmetric).then(|| pack_zeros(&zeros, [outputs, inputs / group], scheme.bits));
    PackedMatrix { words, scales, zeros }
}

/// Scale and zero point of a group, by the rule of `compressed-tensors`: the range always contains 0, which must be representable.
fn scale_and_zero(values: &[f32], scheme: &Scheme) -> (bf16, f32) {
    let (low, high) = scheme.range();
    let (min, max) = bounds(values);
    let scale = if scheme.symmetric { max.max(-min) / ((high - low) / 2.0) } else { (max - min) / (high - low) };
    // The zero point follows from the scale before it is rounded.
    let zero =
        if scheme.symmetric || scale == 0.0 { 0.0 } else { (low - min / scale).clamp(low, high).round_ties_even() };
    let rounded = bf16::from_f32(scale);
    // A scale of 0, for a group of zeros, would be divided by.
    (if rounded == bf16::ZERO { bf16::from_f32(f32::EPSILON) } else { rounded }, zero)
}

/// The smallest and the largest of the values and zero, in eight parts that the compiler vectorises.
fn bounds(values: &[f32]) -> (f32, f32) {
    let (mut min, mut max) = ([0f32; 8], [0f32; 8]);
    let (lanes, rest) = values.as_chunks::<8>();
    for lane in lanes {
        for (index, value) in lane.iter().enumerate() {
            min[index] = if *value < min[index] { *value } else { min[index] };
            max[index] = if *value > max[index] { *value } else { max[index] };
        }
    }
    (min.iter().chain(rest).fold(0.0, |a, b| b.min(a)), max.iter().chain(rest).fold(0.0, |a, b| b.max(a)))
}

fn round(from: &[f32], to: &mut [i8], scale: f32, zero: f32, scheme: &Scheme) {
    let (low, high) = scheme.range();
    // The sum has no bits for fractions: it is rounded, ties to even, and the integer is in its low bits. `round_ties_even` would
    // be a call per value on plain x86-64.
    const NO_FRACTIONS: f32 = 12_582_912.0;
    for (value, rounded) in from.iter().zip(to) {
        let sum = (value / scale + zero).clamp(low, high) + NO_FRACTIONS;
        *rounded = sum.to_bits() as i8;
    }
}

/// Packs rows of integers into words; the last word of a row is filled with zero bits.
pub fn pack(values: &[i8], [_, columns]: [usize; 2], bits: u32) -> Vec<i32> {
    match bits {
        4 => pack_rows::<8>(values, columns),
        _ => pack_rows::<4>(values, columns),
    }
}

/// Packs `N` values to a word, a constant for the compiler.
fn pack_rows<const N: usize>(values: &[i8], columns: usize) -> Vec<i32> {
    let mut words = Vec::with_capacity(values.len().div_ceil(N));
    for row in values.chunks_exact(columns.max(1)) {
        let (whole, rest) = row.as_chunks::<N>();
        words.extend(whole.iter().map(|values| pack_word::<N>(values)));
        words.extend((!rest.is_empty()).then(|| pack_word::<N>(rest)));
    }
    words
}

fn pack_word<const N: usize>(values: &[i8]) -> i32 {
    let (bits, offset) = (32 / N, 1i32 << (32 / N - 1));
    let stored = |value: &i8| (i32::from(*value) + offset) as u32;
    values.iter().enumerate().fold(0, |word, (index, value)| word | (stored(value) << (index * bits))) as i32
}

/// Unpacks rows of words to integers `[rows, columns]`.
///
/// # Panics
/// If there are fewer words than the rows need.
pub fn unpack(words: &[i32], [rows, columns]: [usize; 2], bits: u32) -> Vec<i8> {
    let per_row = columns.div_ceil(per_word(bits));
    assert!(words.len() >= rows * per_row, "{} words for {rows} rows of {per_row}", words.len());
    match bits {
        4 => unpack_rows::<8>(words, [rows, columns]),
        _ => unpack_rows::<4>(words, [rows, columns]),
    }
}

fn unpack_rows<const N: usize>(words: &[i32], [rows, columns]: [usize; 2]) -> Vec<i8> {
    let mut values = vec![0; rows * columns];
    for (row, words) in values.chunks_exact_mut(columns.max(1)).zip(words.chunks_exact(columns.div_ceil(N).max(1))) {
        let (whole, rest) = row.as_chunks_mut::<N>();
        whole.iter_mut().zip(words).for_each(|(values, word)| *values = unpack_word(*word));
        rest.copy_from_slice(&unpack_word::<N>(words[words.len() - 1])[..rest.len()]);
    }
    values
}

fn unpack_word<const N: usize>(word: i32) -> [i8; N] {
    let (bits, offset) = (32 / N, 1i32 << (32 / N - 1));
    std::array::from_fn(|index| (((word as u32 >> (index * bits)) & ((1 << bits) - 1)) as i32 - offset) as i8)
}

/// Packs zero points `[out, groups]` along the outputs: `[words, groups]`.
pub fn pack_zeros(zeros: &[i8], [outputs, groups]: [usize; 2], bits: u32) -> Vec<i32> {
    let packed = pack(&transposed(zeros, [outputs, groups]), [groups, outputs], bits);
    transposed(&packed, [groups, outputs.div_ceil(per_word(bits))])
}

/// Unpacks the zero points `[out, groups]` from words packed along the outputs.
///
/// # Panics
/// If the number of words is not exactly what that takes.
pub fn unpack_zeros(words: &[i32], [outputs, groups]: [usize; 2], bits: u32) -> Vec<i8> {
    let per_column = outputs.div_ceil(per_word(bits));
    let columns = unpack(&transposed(words, [per_column, groups]), [groups, outputs], bits);
    transposed(&columns, [groups, outputs])
}

fn transposed<T: Copy>(values: &[T], [rows, columns]: [usize; 2]) -> Vec<T> {
    assert_eq!(values.len(), rows * columns, "a table of [{rows}, {columns}]");
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Which scale belongs to an input.
#[derive(Debug, Clone, Copy)]
pub enum Groups<'a> {
    /// This number of neighbouring inputs share a scale.
    Consecutive(usize),
    /// The index of each input's scale.
    Listed(&'a [u32]),
}

/// Dequantises a packed matrix to `[out, in]`.
///
/// The result is exact in f32 for 16-bit scales; rounded to the type of the scales it is what `compressed-tensors` computes.
///
/// # Panics
/// If the tables do not fit each other.
pub fn dequantize(
    words: &[i32],
    [outputs, inputs]: [usize; 2],
    bits: u32,
    groups: Groups<'_>,
    (scales, zeros): (&[f32], Option<&[i8]>),
) -> Vec<f32> {
    let mut values = Vec::with_capacity(outputs * inputs);
    let per_row = scales.len() / outputs.max(1);
    for (row, integers) in unpack(words, [outputs, inputs], bits).chunks_exact(inputs.max(1)).enumerate() {
        let zero = |at: usize| zeros.map_or(0, |zeros| i32::from(zeros[at]));
        let value = |q: &i8, zero: i32, scale: f32| (i32::from(*q) - zero) as f32 * scale;
        match groups {
            Groups::Consecutive(size) => {
                for (group, integers) in integers.chunks(size).enumerate() {
                    let (zero, scale) = (zero(row * per_row + group), scales[row * per_row + group]);
                    values.extend(integers.iter().map(|q| value(q, zero, scale)));
                }
            }
            Groups::Listed(of_input) => {
                let listed = integers.iter().zip(of_input).map(|(q, group)| (q, row * per_row + *group as usize));
                values.extend(listed.map(|(q, at)| value(q, zero(at), scales[at])));
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(bits: u32, group: Option<usize>, symmetric: bool) -> Scheme {
        Scheme { bits, group, symmetric }
    }

    #[test]
    fn rows_that_do_not_fill_their_last_word_come_back() {
        for (bits, columns) in [(4, 1), (4, 9), (4, 16), (8, 3), (8, 5)] {
            let limit = 1i32 << (bits - 1);
            let values: Vec<i8> = (0..3 * columns as i32).map(|i| ((i * 7) % (2 * limit) - limit) as i8).collect();
            let words = pack(&values, [3, columns], bits);
            assert_eq!(words.len(), 3 * columns.div_ceil(32 / bits as usize));
            assert_eq!(unpack(&words, [3, columns], bits), values);
            let zeros = pack_zeros(&values, [3, columns], bits);
            assert_eq!(unpack_zeros(&zeros, [3, columns], bits), values);
        }
    }

    #[test]
    fn a_group_of_zeros_has_a_positive_scale_and_stays_zero() {
        for symmetric in [true, false] {
            let scheme = scheme(4, Some(8), symmetric);
            let packed = quantize(&[0.0; 16], [1, 16], &scheme);
            assert!(packed.scales.iter().all(|scale| scale.to_f32() == f32::EPSILON));
            let zeros = packed.zeros.map(|zeros| unpack_zeros(&zeros, [1, 2], 4));
            let scales = [f32::EPSILON; 2];
            let back = dequantize(&packed.words, [1, 16], 4, Groups::Consecutive(8), (&scales, zeros.as_deref()));
            assert_eq!(back, [0.0; 16]);
        }
        // Too small for bf16: the scale must not become zero either.
        let packed = quantize(&[1e-45; 8], [1, 8], &scheme(8, None, true));
        assert!(packed.scales[0].to_f32() > 0.0);
    }

    #[test]
    fn no_value_is_further_off_than_half_a_step() {
        let weight: Vec<f32> = (0..4 * 64).map(|i| ((i * 37 % 101) as f32 - 40.0) / 50.0).collect();
        for (bits, symmetric) in [(4, true), (4, false), (8, true), (8, false)] {
            let packed = quantize(&weight, [4, 64], &scheme(bits, Some(32), symmetric));
            let scales: Vec<f32> = packed.scales.iter().map(|scale| scale.to_f32()).collect();
            let zeros = packed.zeros.map(|zeros| unpack_zeros(&zeros, [4, 2], bits));
            let back = dequantize(&packed.words, [4, 64], bits, Groups::Consecutive(32), (&scales, zeros.as_deref()));
            for (index, (a, b)) in weight.iter().zip(&back).enumerate() {
                let step = scales[index / 32];
                // At the upper end there is half a step less room, and the scale itself was rounded.
                assert!((a - b).abs() <= step * 1.02, "{bits} bits, {a} became {b}, step {step}");
            }
        }
    }

    #[test]
    fn listed_groups_choose_the_scale_of_each_input() {
        let values = [1i8, 2, 3, 4, 5, 6, 7, -8];
        let words = pack(&values, [1, 8], 4);
        let order = [1, 0, 1, 0, 1, 0, 1, 0];
        let back = dequantize(&words, [1, 8], 4, Groups::Listed(&order), (&[1.0, 10.0], None));
        assert_eq!(back, [10.0, 2.0, 30.0, 4.0, 50.0, 6.0, 70.0, -8.0]);
    }

    #[test]
    fn schemes_are_named() {
        assert_eq!(scheme(4, Some(32), true).to_string(), "int4 group 32");
        assert_eq!(scheme(8, None, false).to_string(), "int8 per channel with zero points");
    }
}
