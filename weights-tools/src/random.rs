//! Random bytes and numbers in bulk, on all cores, as fast as a disk takes them.

use omni_core::{Dtype, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::source::{hash, to_bytes};

/// Bytes of one stream: each piece has a generator of its own, so that pieces can be made at once, in any order.
const PIECE: usize = 1 << 20;

/// Pieces between two writes.
const PIECES: usize = 16;

/// The random values of one tensor. They depend on the seed and the tensor's name, not on the shards.
pub(crate) struct Random {
    seed: u64,
}

impl Random {
    pub(crate) fn new(seed: u64, tensor: &str) -> Self {
        Self { seed: seed ^ hash(tensor) }
    }

    /// Writes `count` random bytes, in order.
    pub(crate) fn bytes(&self, count: usize, write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.pieces(count, |bytes| bytes, write)
    }

    /// Writes `count` uniform numbers of a type, as bytes, in order. Each is one of 65536 values between the two bounds.
    pub(crate) fn uniform(
        &self,
        (low, high): (f32, f32),
        dtype: Dtype,
        count: usize,
        write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let step = (high - low) / f32::from(u16::MAX);
        let number = |bytes: &[u8; 2]| low + step * f32::from(u16::from_le_bytes(*bytes));
        let numbers =
            |bytes: Vec<u8>| to_bytes(&bytes.as_chunks::<2>().0.iter().map(number).collect::<Vec<f32>>(), dtype);
        self.pieces(2 * count, numbers, write)
    }

    fn pieces(
        &self,
        count: usize,
        convert: impl Fn(Vec<u8>) -> Vec<u8> + Sync,
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let pieces = count.div_ceil(PIECE);
        for first in (0..pieces).step_by(PIECES) {
            let batch = first..(first + PIECES).min(pieces);
            let piece = |index| convert(self.piece(index, PIECE.min(count - index * PIECE)));
            let made: Vec<Vec<u8>> = batch.into_par_iter().map(piece).collect();
            made.iter().try_for_each(|bytes| write(bytes))?;
        }
        Ok(())
    }

    fn piece(&self, index: usize, count: usize) -> Vec<u8> {
        let mut random =
            SmallRng::seed_from_u64(self.seed.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let mut bytes = vec![0; count];
        random.fill_bytes(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &str, count: usize) -> Vec<f32> {
        let mut values = Vec::new();
        let keep = |bytes: &[u8]| {
            values.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
            Ok(())
        };
        Random::new(3, tensor).uniform((-1.0, 1.0), Dtype::F32, count, keep).unwrap();
        values
    }

    #[test]
    fn numbers_are_uniform_and_belong_to_the_tensor() {
        let found = values("a", 1_200_000);
        assert_eq!(found.len(), 1_200_000);
        assert_eq!(found, values("a", 1_200_000));
        assert_ne!(found[..10], values("b", 10)[..]);
        assert!(found.iter().all(|value| (-1.0..=1.0).contains(value)));
        for part in [&found[..600_000], &found[600_000..]] {
            let mean = part.iter().map(|value| f64::from(*value)).sum::<f64>() / part.len() as f64;
            let square = part.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / part.len() as f64;
            assert!(mean.abs() < 0.005 && (square - 1.0 / 3.0).abs() < 0.005, "{mean} {square}");
        }
    }
}
