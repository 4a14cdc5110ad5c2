//! Draws random weights in place of those of a file.

use std::collections::BTreeMap;
use std::rc::Rc;

use burn::tensor::{Distribution, Tensor};
use omni_core::Dtype;

use super::Weights;
use super::buffer::Buffer;
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

impl Weights<'_> {
    pub(super) fn draw<const D: usize>(&self, shape: [usize; D], (low, high): (f32, f32)) -> Tensor<D> {
        self.count(shape.iter().product::<usize>() * self.tensor_dtype().size());
        let values = Distribution::Uniform(low.into(), high.into());
        Tensor::random(shape, values, (self.device(), self.tensor_dtype().into()))
    }

    pub(super) fn draw_matrix(&self, shape: [usize; 2], scheme: Option<&Scheme>, seed: u64) -> StoredMatrix {
        let bound = random_range("weight", &shape).1;
        let mut random = xorshift(seed);
        let Some(scheme) = scheme else {
            let elements = shape[0] * shape[1];
            let mut buffer = Buffer::new(self.matrix_type(), elements);
            for _ in 0..elements {
                buffer.extend_from_f32(&[((random() >> 40) as f32 / (1 << 23) as f32 - 1.0) * bound]);
            }
            self.count(elements * self.matrix_type().size());
            return buffer.matrix(shape, &mut self.arena.borrow_mut());
        };
        let group =
            if shape[1].is_multiple_of(scheme.group_in(shape[1])) { scheme.group_in(shape[1]) } else { shape[1] };
        let words: Vec<u64> = (0..(shape[0] * scheme.words_in(shape[1])).div_ceil(2)).map(|_| random()).collect();
        let words = &bytemuck::cast_slice(&words)[..shape[0] * scheme.words_in(shape[1]) * 4];
        let mut scales = Buffer::new(Dtype::Bf16, 0);
        let scale = bound / (1u32 << (scheme.bits - 1)) as f32;
        scales.extend_from_f32(&vec![scale; shape[0] * shape[1].div_ceil(group)]);
        self.count(words.len() + shape[0] * shape[1].div_ceil(group) * 2);
        let sizes = [scheme.bits as usize, group];
        let arena = &mut self.arena.borrow_mut();
        StoredMatrix::packed(shape, sizes, Bytes::kept(words, arena), (scales.bytes(arena), true), None)
    }
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
