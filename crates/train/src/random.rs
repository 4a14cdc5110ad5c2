//! Random numbers that depend only on what they are for, a seed and counters, so that resuming needs no state of a generator.

use checkpoint::param_id;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What numbers are drawn for; it is part of the seed, so that uses do not share numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// The order of a source's lines: seed, source, epoch.
    Lines,
    /// The order of a window's batches: seed, window.
    Batches,
    /// The attention window of a batch of sounds: seed, batch.
    AttentionWindow,
    /// How a sound is changed and what is masked in it: seed, batch, item.
    Masks,
    /// The order of a window's segments of recordings: seed, window.
    Segments,
    /// The place in a recording that a segment is cut from: seed, window, segment.
    Cut,
    /// Codebooks of the codec: seed, step.
    Codebooks,
}

/// A seed for each of a purpose's keys.
pub(crate) fn seed_of(purpose: Purpose, keys: &[u64]) -> u64 {
    Draws::new(purpose, keys).0
}

/// Numbers that depend on a purpose and keys only (SplitMix64).
#[derive(Debug)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(purpose: Purpose, keys: &[u64]) -> Self {
        Self(keys.iter().fold(purpose as u64, |state, key| output(state ^ key).wrapping_add(1)))
    }

    /// A number between −1 and 1.
    pub(crate) fn symmetric(&mut self) -> f64 {
        const STEPS: usize = 1 << 30;
        2.0 * (self.below(STEPS) as f64 + 0.5) / STEPS as f64 - 1.0
    }

    /// A normal number of mean 0 and deviation 1 (Box and Muller's method).
    pub(crate) fn normal(&mut self) -> f64 {
        // Half of an interval without its ends, whose logarithm is finite.
        let [radius, angle] = [self.symmetric(), self.symmetric()];
        (-2.0 * ((radius + 1.0) / 2.0).ln()).sqrt() * (std::f64::consts::PI * angle).cos()
    }

    /// One of the numbers `0..count`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        // The upper half of the product is below `count`, and even but for one part in 2^32.
        ((u128::from(output(self.0)) * count as u128) >> 64) as usize
    }
}

/// The output function of SplitMix64.
fn output(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Normal values that a seed and a parameter's name decide (Box and Muller's method).
pub(crate) fn normal(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ param_id(name).val());
    let mut one = || {
        // Above 0, whose logarithm is not finite.
        let [radius, angle] = [1.0 - random.random::<f64>(), random.random::<f64>()];
        ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos() * deviation) as f32
    };
    (0..count).map(|_| one()).collect()
}
