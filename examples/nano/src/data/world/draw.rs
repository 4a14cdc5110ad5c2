//! Random draws that a name and a number decide, so that nothing depends on the order in which things are made.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A stream of draws.
#[derive(Debug)]
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream of a name and a number under a seed.
    pub fn new(seed: u64, name: &str, number: u64) -> Self {
        let mut key = [0; 32];
        for (part, value) in key.chunks_exact_mut(8).zip([seed, hash(name), number]) {
            part.copy_from_slice(&value.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// True with a probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }

    /// A number below another.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// A whole number, both ends included.
    pub fn whole(&mut self, low: i32, high: i32) -> i32 {
        self.0.random_range(low..=high)
    }

    /// A real number.
    pub fn real(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.random::<f32>()
    }

    /// A number of the normal distribution, nearly: a sum of uniform ones.
    pub fn normal(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| self.0.random::<f32>() - 0.5).sum();
        sum * 3f32.sqrt()
    }

    /// One of a list, each as likely.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// One of a list by weight.
    pub fn weighted<T: Copy>(&mut self, from: &[(u32, T)]) -> T {
        let total: u32 = from.iter().map(|(weight, _)| weight).sum();
        let mut at = self.0.random_range(0..total);
        for (weight, item) in from {
            if at < *weight {
                return *item;
            }
            at -= weight;
        }
        from[from.len() - 1].1
    }

    /// Brings a list into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}

/// FNV-1a with its halves mixed, the same on every machine.
pub fn hash(text: &str) -> u64 {
    let full = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    full ^ (full >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_number_decide_the_stream() {
        let first = |seed, name, number| Draw::new(seed, name, number).below(1 << 30);
        assert_eq!(first(7, "a", 1), first(7, "a", 1));
        let others = [first(8, "a", 1), first(7, "b", 1), first(7, "a", 2)];
        assert!(others.iter().all(|other| *other != first(7, "a", 1)));
    }

    #[test]
    fn normal_numbers_have_a_deviation_of_one() {
        let mut draw = Draw::new(1, "normal", 0);
        let square: f32 = (0..20_000).map(|_| draw.normal().powi(2)).sum();
        assert!((square / 20_000.0 - 1.0).abs() < 0.03);
    }
}
