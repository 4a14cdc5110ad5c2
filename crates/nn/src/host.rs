//! Work that a device in host memory does on one core unless it is split.

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

/// Whether the device computes in host memory.
///
/// burn names devices only in their debug form to crates that enable no backend; a wrong answer costs time, not numbers.
pub(crate) fn is_host(device: &Device) -> bool {
    format!("{device:?}").contains("Flex")
}

/// `f(x)` for an `f` that treats the entries of the first axis apart from each other; on the CPU each core takes a part of
/// them, at least `smallest`. Elementwise operations run on one core there.
///
/// # Shapes
/// `[N, …]` → `[N, …]`.
pub fn in_parts<const D: usize, const E: usize>(
    x: Tensor<D>,
    smallest: usize,
    f: impl Fn(Tensor<D>) -> Tensor<E> + Sync,
) -> Tensor<E> {
    let entries = x.dims()[0];
    let parts = rayon::current_num_threads().min(entries / smallest.max(1));
    if parts < 2 || !is_host(&x.device()) {
        return f(x);
    }
    let size = entries.div_ceil(parts);
    let starts: Vec<usize> = (0..entries).step_by(size).collect();
    let part = |start: &usize| f(x.clone().narrow(0, *start, size.min(entries - start)));
    Tensor::cat(starts.par_iter().map(part).collect(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    #[test]
    fn the_cpu_is_recognised() {
        assert!(is_host(&Device::flex()));
    }

    #[test]
    fn parts_give_what_the_whole_gives() {
        for entries in [1, 2, 7, 64] {
            let x = Tensor::<2>::random([entries, 5], Distribution::Default, &Device::flex());
            let f = |x: Tensor<2>| (x * 2.0).sum_dim(1);
            let error = (in_parts(x.clone(), 1, f) - f(x)).abs().max().into_scalar::<f32>();
            assert_eq!(error, 0.0, "{entries}");
        }
    }
}
