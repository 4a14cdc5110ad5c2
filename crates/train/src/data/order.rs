//! Permutations that depend only on seed and counters, so that resuming needs no state of a random generator.

use crate::random::{Draws, Purpose};

/// A permutation of `0..length` that depends on the keys only (Fisher–Yates).
pub(super) fn permutation(length: u32, purpose: Purpose, keys: &[u64]) -> Vec<u32> {
    let (mut order, mut draws): (Vec<u32>, _) = ((0..length).collect(), Draws::new(purpose, keys));
    for last in (1..order.len()).rev() {
        order.swap(last, draws.below(last + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_holds_every_number_once_and_depends_on_every_key() {
        let order = |purpose, keys: &[u64]| permutation(1000, purpose, keys);
        let mut sorted = order(Purpose::Lines, &[0, 0, 0]);
        assert_eq!(sorted, order(Purpose::Lines, &[0, 0, 0]));
        for other in [[1, 0, 0], [0, 1, 0], [0, 0, 1]] {
            assert_ne!(sorted, order(Purpose::Lines, &other));
        }
        assert_ne!(sorted, order(Purpose::Batches, &[0, 0, 0]));
        sorted.sort();
        assert!(sorted.into_iter().eq(0..1000));
    }

    #[test]
    fn numbers_below_a_limit_are_even_and_depend_on_every_key() {
        let mut counts = [0_u32; 5];
        (0..5000).for_each(|key| counts[Draws::new(Purpose::Cut, &[7, key]).below(5)] += 1);
        // 1000 expected, with a standard deviation of 28.
        assert!(counts.iter().all(|count| (860..1140).contains(count)), "{counts:?}");
        let wide = |keys: &[u64]| Draws::new(Purpose::Cut, keys).below(1 << 40);
        assert!(wide(&[1, 2]) != wide(&[1, 3]) && wide(&[1, 2]) != wide(&[2, 2]));
    }

    #[test]
    fn every_number_comes_to_every_place_about_as_often() {
        let mut counts = [[0_u32; 5]; 5];
        for seed in 0..5000 {
            permutation(5, Purpose::Lines, &[seed]).iter().enumerate().for_each(|(at, n)| counts[at][*n as usize] += 1);
        }
        // 1000 expected, with a standard deviation of 28.
        assert!(counts.as_flattened().iter().all(|count| (860..1140).contains(count)), "{counts:?}");
    }
}
