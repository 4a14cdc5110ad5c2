//! Paged attention: causal attention of new rows over a KV cache.
#![allow(unsafe_code)] // SIMD over raw pointers, and tasks that write disjoint columns of the same rows.

use std::cell::RefCell;

use rayon::prelude::*;

use super::paged::PagedKv;
#[cfg(target_arch = "x86_64")]
use super::paged_bf16;
use super::task::{QUERIES, Scratch, Task};
use crate::buffer::{DisjointCols, size, total};
use crate::gemm::Precision;
use crate::gemm::SIDE;
#[cfg(target_arch = "x86_64")]
use crate::simd::Bf16Instructions;
use crate::simd::Processor;

/// New rows of one run, whose keys and values are already in its cache. The rows of several runs are concatenated in their order.
#[derive(Debug, Clone, Copy)]
pub struct CachedRun<'a> {
    /// The KV cache, with the keys and values of the new rows.
    pub cache: &'a PagedKv,
    /// Number of new rows; they are the last tokens of the cache.
    pub rows: usize,
}

/// Computes causal attention of new rows over their caches: `softmax(q kᵀ / √width) v`. Each row sees the keys up to its own; with
/// `window`, only the last `window` of them. With [`Precision::Bf16`], many rows over a bf16 cache are rounded to bf16 as well.
///
/// # Shapes
/// `q`, `y` `[rows, heads, width]`, where `rows` is the sum over the runs; query heads are divided evenly among the KV heads.
///
/// # Panics
/// If the lengths do not agree.
pub fn cached_attention(
    q: &[f32],
    runs: &[CachedRun],
    heads: usize,
    window: Option<usize>,
    precision: Precision,
    y: &mut [f32],
) {
    attend(Processor::best(), q, runs, heads, window, precision, y);
}

/// Pads heads to whole vectors if the cache does, and attends.
fn attend(
    processor: Processor,
    q: &[f32],
    runs: &[CachedRun],
    heads: usize,
    window: Option<usize>,
    precision: Precision,
    y: &mut [f32],
) {
    let [given, width] = runs.first().map_or([0; 2], |run| [run.cache.given, run.cache.width]);
    if given == width {
        return attend_padded(processor, q, runs, heads, window, precision, y);
    }
    let length = size([total(runs.iter().map(|run| run.rows)), heads, given]);
    assert!(q.len() == length && y.len() == length, "q, y [rows, heads, width]");
    assert!(runs.iter().all(|run| run.cache.given == given), "widths of the caches");
    // Scores are divided by the root of the padded width; this makes it that of the given one.
    let scale = (width as f32 / given as f32).sqrt();
    let mut padded = vec![0.0; length / given * width];
    for (padded, q) in padded.chunks_exact_mut(width).zip(q.chunks_exact(given)) {
        padded.iter_mut().zip(q).for_each(|(padded, q)| *padded = q * scale);
    }
    let mut sums = vec![0.0; padded.len()];
    attend_padded(processor, &padded, runs, heads, window, precision, &mut sums);
    for (y, sums) in y.chunks_exact_mut(given).zip(sums.chunks_exact(width)) {
        y.copy_from_slice(&sums[..given]);
    }
}

fn attend_padded(
    processor: Processor,
    q: &[f32],
    runs: &[CachedRun],
    heads: usize,
    window: Option<usize>,
    precision: Precision,
    y: &mut [f32],
) {
    let width = runs.first().map_or(0, |run| run.cache.width);
    let all_rows = total(runs.iter().map(|run| run.rows));
    let length = size([all_rows, heads, width]);
    assert!(q.len() == length && y.len() == length, "q, y [rows, heads, width], for {all_rows} rows of all runs");
    if length == 0 {
        return;
    }
    let columns = DisjointCols::new(y, heads * width);
    let mut tasks = Vec::new();
    // Runs are consecutive, so that no two have the same rows.
    let mut first_row = 0;
    for CachedRun { cache, rows } in runs.iter().copied() {
        let kv_heads = cache.heads;
        assert!(cache.width == width && heads.is_multiple_of(kv_heads), "heads and widths of the caches");
        assert!(rows <= cache.tokens, "{rows} rows over a cache of {} tokens", cache.tokens);
        let queries = rows * (heads / kv_heads);
        let bf16 = in_bf16(processor, cache, queries, window, precision);
        let tiles = queries.div_ceil(if bf16.is_some() { SIDE } else { QUERIES });
        // In long prompts a task takes several tiles: one page of keys then serves them all.
        for first in (0..tiles).step_by(TILES) {
            let task = |head| Task { q, cache, rows, first_row, heads, head, window, y: &columns };
            tasks.extend((0..kv_heads).map(|head| (task(head), bf16, first..(first + TILES).min(tiles))));
        }
        first_row += rows;
    }
    tasks.into_par_iter().for_each(|(task, bf16, tiles)| match bf16 {
        #[cfg(target_arch = "x86_64")]
        Some(bf16) => {
            let mut memory = BF16_SCRATCH.take();
            // SAFETY: all features that the bf16 kernels are compiled with were found, or there would be no
            // `Bf16Instructions`.
            unsafe { paged_bf16::run(bf16, task, tiles, &mut memory) };
            BF16_SCRATCH.set(memory);
        }
        _ => {
            let mut memory = MEMORY.take();
            tiles.for_each(|tile| task.tile(processor.instructions, tile, &mut memory));
            MEMORY.set(memory);
        }
    });
}

#[cfg(not(target_arch = "x86_64"))]
type Bf16Instructions = std::convert::Infallible;

/// The bf16 instructions to multiply the queries of a run with, if that is possible and worth it.
fn in_bf16(
    processor: Processor,
    cache: &PagedKv,
    queries: usize,
    window: Option<usize>,
    precision: Precision,
) -> Option<Bf16Instructions> {
    #[cfg(target_arch = "x86_64")]
    let instructions = processor.bf16;
    #[cfg(not(target_arch = "x86_64"))]
    let (instructions, _) = (None, processor);
    let worth = queries >= SIDE || queries >= SIDE / 8 && cache.tokens >= LONG;
    let fits = cache.bf16 && window.is_none() && cache.width.is_multiple_of(SIDE);
    instructions.filter(|_| precision == Precision::Bf16 && worth && fits)
}

/// Tokens of a cache from which on even a few queries are worth packing its keys and values for bf16 GEMM.
const LONG: usize = 1024;
/// Tiles of queries in one task.
const TILES: usize = 16;

thread_local! {
    static MEMORY: RefCell<Scratch> = RefCell::default();
    #[cfg(target_arch = "x86_64")]
    static BF16_SCRATCH: RefCell<paged_bf16::Scratch> = RefCell::default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;
    use crate::simd::tests::{cases, up_to};
    use crate::simd::{narrow, widen};
    use proptest::prelude::*;

    /// Largest error against attention in f64.
    #[allow(clippy::too_many_arguments)] // All that the kernels distinguish.
    fn error(
        processor: Processor,
        past: usize,
        rows: usize,
        [heads, kv]: [usize; 2],
        width: usize,
        bf16: bool,
        window: Option<usize>,
        precision: Precision,
    ) -> f64 {
        let tokens = past + rows;
        let [keys, values] = [5, 9].map(|seed| numbers(tokens * kv * width, seed));
        let mut cache = PagedKv::new(kv, width, bf16);
        // A cache that was truncated and grows again.
        cache.append(&values[..kv * width], &keys[..kv * width]);
        cache.truncate(0);
        for token in 0..tokens {
            let range = token * kv * width..(token + 1) * kv * width;
            cache.append(&keys[range.clone()], &values[range]);
        }
        let q: Vec<f32> = numbers(rows * heads * width, 3).iter().map(|q| q * 3.0).collect();
        let mut y = vec![0.0; q.len()];
        attend(processor, &q, &[CachedRun { cache: &cache, rows }], heads, window, precision, &mut y);
        let stored = |x: f32| f64::from(if bf16 { widen(narrow(x)) } else { x });
        let mut worst = 0.0_f64;
        for (row, head) in (0..rows).flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let at = |x: &[f32], token: usize, i: usize| stored(x[(token * kv + head * kv / heads) * width + i]);
            let last = past + row;
            let seen = window.map_or(0, |window| (last + 1).saturating_sub(window))..last + 1;
            let q = &q[(row * heads + head) * width..][..width];
            let score = |t| q.iter().enumerate().map(|(i, q)| f64::from(*q) * at(&keys, t, i)).sum::<f64>();
            let shares: Vec<f64> = seen.clone().map(|t| (score(t) / (width as f64).sqrt()).exp()).collect();
            let total: f64 = shares.iter().sum();
            for i in 0..width {
                let expected: f64 = shares.iter().zip(seen.clone()).map(|(s, t)| s / total * at(&values, t, i)).sum();
                worst = worst.max((expected - f64::from(y[(row * heads + head) * width + i])).abs());
            }
        }
        worst
    }

    proptest! {
        #![proptest_config(cases(128))]
        #[test]
        fn any_cache_is_right(
            past in 0..up_to(150), rows in 1..up_to(20), group in 1..5usize, kv in 1..3usize,
            width in prop::sample::select(vec![1, 6, 8, 12, 16, 24, 32, 64]), bf16: bool,
            window in prop::sample::select(vec![None, Some(1), Some(72)]),
        ) {
            for processor in Processor::all() {
                let worst = error(processor, past, rows, [group * kv, kv], width, bf16, window, Precision::F32);
                prop_assert!(worst < 1e-5, "{processor:?}: {worst}");
            }
        }

        #[test]
        fn runs_beside_each_other_get_what_each_gets_alone(
            runs in prop::collection::vec((0..up_to(100), 0..up_to(up_to(40))), 1..up_to(5).max(3)), group in 1..4usize, kv in 1..3usize,
            width in prop::sample::select(vec![16, 32]), same: bool,
        ) {
            let heads = group * kv;
            let caches: Vec<PagedKv> = runs
                .iter()
                .enumerate()
                .map(|(at, (past, rows))| {
                    let mut cache = PagedKv::new(kv, width, true);
                    let [keys, values] = [1, 2].map(|seed| numbers((past + rows) * kv * width, 2 * at + seed));
                    keys.chunks(kv * width).zip(values.chunks(kv * width)).for_each(|(k, v)| cache.append(k, v));
                    cache
                })
                .collect();
            // In some cases, the first cache serves the first run twice.
            let mut all: Vec<CachedRun> =
                caches.iter().zip(&runs).map(|(cache, (_, rows))| CachedRun { cache, rows: *rows }).collect();
            all.extend(same.then(|| all[0]));
            let length = |run: &CachedRun| run.rows * heads * width;
            let q = numbers(all.iter().map(length).sum(), 77);
            for (processor, precision) in
                Processor::all().flat_map(|processor| [(processor, Precision::F32), (processor, Precision::Bf16)])
            {
                let mut y = vec![f32::NAN; q.len()];
                attend(processor, &q, &all, heads, None, precision, &mut y);
                let mut first = 0;
                for run in &all {
                    let range = first..first + length(run);
                    let mut alone = vec![f32::NAN; range.len()];
                    attend(processor, &q[range.clone()], &[*run], heads, None, precision, &mut alone);
                    prop_assert_eq!(&y[range.clone()], &alone[..], "{:?}, {:?}", processor, precision);
                    first = range.end;
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    proptest! {
        #![proptest_config(cases(48))]
        #[test]
        fn many_rows_in_bf16_are_right(
            past in 0..500usize, rows in 1..60usize, group in 1..9usize, kv in 1..3usize,
            width in prop::sample::select(vec![32, 64, 96]),
        ) {
            for (processor, _) in Processor::with_bf16() {
                let worst = error(processor, past, rows, [group * kv, kv], width, true, None, Precision::Bf16);
                prop_assert!(worst < 0.01, "{processor:?}: {worst}");
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn one_row_over_a_long_cache_in_bf16_is_right() {
        for (processor, _) in Processor::with_bf16() {
            let worst = error(processor, LONG + 300, 1, [16, 2], 64, true, None, Precision::Bf16);
            assert!(worst < 0.01, "{processor:?}: {worst}");
        }
    }

    #[test]
    #[should_panic(expected = "for 2 rows of all runs")]
    fn rows_that_no_run_has_are_a_bug() {
        let mut cache = PagedKv::new(1, 8, false);
        cache.append(&[1.0; 8], &[1.0; 8]);
        let run = CachedRun { cache: &cache, rows: 1 };
        cached_attention(&[0.0; 24], &[run, run], 1, None, Precision::F32, &mut [0.0; 24]);
    }

    #[test]
    #[should_panic(expected = "add up to too large a size")]
    fn runs_whose_sum_wraps_are_a_bug() {
        let cache = PagedKv::new(1, 8, false);
        let runs = [usize::MAX, 2].map(|rows| CachedRun { cache: &cache, rows });
        cached_attention(&[0.0; 8], &runs, 1, None, Precision::F32, &mut [0.0; 8]);
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn a_page_that_fits_no_memory_is_a_bug() {
        PagedKv::new(usize::MAX / 64, 8, false);
    }

    #[test]
    fn a_clone_keeps_its_own_tokens() {
        let mut a = PagedKv::new(1, 8, false);
        a.append(&[1.0; 8], &[1.0; 8]);
        let b = a.clone();
        a.append(&[1.0; 8], &[5.0; 8]);
        let attend = |cache: &PagedKv| {
            let mut y = [0.0; 8];
            cached_attention(&[0.0; 8], &[CachedRun { cache, rows: 1 }], 1, None, Precision::F32, &mut y);
            y[0]
        };
        assert_eq!([attend(&a), attend(&b)], [3.0, 1.0]);
        assert_eq!((a.len(), b.len()), (2, 1));
    }
}
