//! Draws random weights in place of those of a file.

use std::collections::BTreeMap;
use std::rc::Rc;

use burn::tensor::{Device, Distribution, Tensor};
use omni_core::Dtype;

use super::buffer::Buffer;
use crate::arena::Arena;
use crate::random::random_range;
use crate::stored::Bytes;
use crate::{Scheme, StoredMatrix};

/// Which random matrices are packed.
#[derive(Clone)]
pub(super) enum Packing {
    /// All by one scheme, or none.
    All(Option<Scheme>),
    /// By module.
    Modules(Rc<BTreeMap<String, Scheme>>),
}

impl Packing {
    pub(super) fn of(&self, module: &str) -> Option<&Scheme> {
        match self {
            Packing::All(scheme) => scheme.as_ref(),
            Packing::Modules(schemes) => schemes.get(module),
        }
    }
}

/// Draws a tensor from a range of values.
pub(super) fn tensor<const D: usize>(
    shape: [usize; D],
    (low, high): (f32, f32),
    device: &Device,
    dtype: Dtype,
) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(low.into(), high.into()), (device, dtype.into()))
}

/// Draws a matrix `[out, in]` stored as `dtype`.
pub(super) fn matrix(shape: [usize; 2], dtype: Dtype, seed: u64, arena: &mut Arena) -> StoredMatrix {
    let bound = random_range("weight", &shape).1;
    let mut random = xorshift(seed);
    let mut buffer = Buffer::new(dtype, shape[0] * shape[1]);
    for _ in 0..shape[0] * shape[1] {
        buffer.extend_from_f32(&[((random() >> 40) as f32 / (1 << 23) as f32 - 1.0) * bound]);
    }
    buffer.matrix(shape, arena)
}

/// Draws a matrix `[out, in]` packed by a scheme, and returns its bytes of words and scales too.
pub(super) fn packed_matrix(shape: [usize; 2], scheme: &Scheme, seed: u64, arena: &mut Arena) -> (StoredMatrix, usize) {
    let [outputs, inputs] = shape;
    let mut random = xorshift(seed);
    let group = Some(scheme.group_in(inputs)).filter(|group| inputs.is_multiple_of(*group)).unwrap_or(inputs);
    let (word_count, scale_count) = (outputs * scheme.words_in(inputs), outputs * inputs.div_ceil(group));
    let words: Vec<u64> = (0..word_count.div_ceil(2)).map(|_| random()).collect();
    let words = &bytemuck::cast_slice(&words)[..4 * word_count];
    let mut scales = Buffer::new(Dtype::Bf16, 0);
    scales.extend_from_f32(&vec![random_range("weight", &shape).1 / (1u32 << (scheme.bits - 1)) as f32; scale_count]);
    let sizes = [scheme.bits as usize, group];
    let (words, scales) = (Bytes::kept(words, arena), scales.bytes(arena));
    (StoredMatrix::packed(shape, sizes, words, (scales, true), None), 4 * word_count + 2 * scale_count)
}

/// A fast source of random bits, good enough for stand-in weights.
pub(super) fn xorshift(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Hashes a name (FNV-1a).
pub(super) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
