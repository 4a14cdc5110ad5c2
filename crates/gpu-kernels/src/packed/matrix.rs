//! Packed matrices, as checkpoints store them.

use burn::tensor::{Int, Tensor};
#[cfg(cube)]
use burn_cubecl::tensor::CubeTensor;

#[cfg(cube)]
use crate::launch::{floats, integers};

/// A matrix `[out, in]`, or several one below the other, of packed integers: `scale · (integer - zero)` with a scale per group of inputs.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// Bits of an integer: 4 or 8.
    pub bits: usize,
    /// `[out, words]`, 32 bits each, the first integer in the lowest bits.
    pub words: &'a Tensor<2, Int>,
    /// `[out, groups]`.
    pub scales: &'a Tensor<2>,
    /// `[out, groups]`: the integer that stands for zero; without it the middle one does.
    pub zeros: Option<&'a Tensor<2>>,
}

impl Packed<'_> {
    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        let [output, words] = self.words.dims();
        [output, words * 32 / self.bits]
    }

    /// Whether kernels can read it: integers of a size they know, and groups that fill the rows.
    #[cfg(cube)]
    pub(crate) fn is_whole(&self) -> bool {
        let ([_, words], [_, groups]) = (self.words.dims(), self.scales.dims());
        let fits = |zeros: &Tensor<2>| zeros.dims() == self.scales.dims() && zeros.dtype() == self.scales.dtype();
        groups > 0 && words.is_multiple_of(groups) && [4, 8].contains(&self.bits) && self.zeros.is_none_or(fits)
    }

    /// The values `[out, in]`: the reference of every product.
    pub fn numbers(&self) -> Tensor<2> {
        let [output, input] = self.shape();
        let (per_word, mask) = (32 / self.bits, (1i64 << self.bits) - 1);
        let dtype = self.scales.dtype();
        let integers = (0..per_word).map(|place| {
            let shifted = self.words.clone().bitwise_right_shift_scalar((place * self.bits) as i64);
            shifted.bitwise_and_scalar(mask).unsqueeze_dim::<3>(2) // [out, words, 1]
        });
        let integers: Tensor<3, Int> = Tensor::cat(integers.collect(), 2); // [out, words, per word]
        let groups = self.scales.dims()[1];
        let values = integers.float().cast(dtype).reshape([output, groups, input / groups]);
        let centred = match self.zeros {
            Some(zeros) => values - zeros.clone().unsqueeze_dim::<3>(2),
            None => values - (1u32 << (self.bits - 1)) as f32,
        };
        (centred * self.scales.clone().unsqueeze_dim::<3>(2)).reshape([output, input])
    }
}

/// Words, scales and zeros on the device; without zeros, which then nothing reads, the scales stand in.
#[cfg(cube)]
pub(crate) fn buffers(matrix: &Packed) -> Option<[CubeTensor; 3]> {
    let scales = floats(matrix.scales)?;
    let zeros = matrix.zeros.map_or(Some(scales.clone()), floats)?;
    Some([integers(matrix.words)?, scales, zeros])
}
