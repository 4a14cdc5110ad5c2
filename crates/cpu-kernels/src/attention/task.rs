//! Tasks of paged attention: the queries of one run that share a KV head, computed in tiles.
#![allow(unsafe_code)] // SIMD over raw pointers, and tasks that write disjoint columns of the same rows.

use super::paged::{PAGE, Page, PagedKv};
use crate::activation::exp;
use crate::buffer::DisjointCols;
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Instructions, Scalar, Simd, Stored};

/// Queries of a tile, which are computed together.
pub(super) const QUERIES: usize = 8;

/// Buffers of a task: kept, since fresh memory costs time.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[width, QUERIES]`.
    queries: Vec<f32>,
    /// `[QUERIES, PAGE]`.
    scores: Vec<f32>,
    /// `[PAGE, QUERIES]`.
    shares: Vec<f32>,
    /// `[QUERIES, width]`.
    sums: Vec<f32>,
}

/// The queries of one run that share a KV head.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) q: &'a [f32],
    pub(super) cache: &'a PagedKv,
    pub(super) rows: usize,
    /// The run's first row among the rows of all runs.
    pub(super) first_row: usize,
    pub(super) heads: usize,
    /// Index of the KV head.
    pub(super) head: usize,
    pub(super) window: Option<usize>,
    pub(super) y: &'a DisjointCols<'a>,
}

impl<'a> Task<'a> {
    /// Query heads per KV head.
    fn group(&self) -> usize {
        self.heads / self.cache.heads
    }

    pub(super) fn queries(&self) -> usize {
        self.rows * self.group()
    }

    /// Row and first column of a query.
    pub(super) fn place(&self, query: usize) -> (usize, usize) {
        let group = self.group();
        (self.first_row + query / group, (self.head * group + query % group) * self.cache.width)
    }

    pub(super) fn query(&self, query: usize) -> &'a [f32] {
        let ((row, column), width) = (self.place(query), self.cache.width);
        &self.q[row * self.heads * width + column..][..width]
    }

    /// The last key that a query sees.
    pub(super) fn last(&self, query: usize) -> usize {
        self.cache.tokens - self.rows + query / self.group()
    }

    pub(super) fn tile(self, instructions: Instructions, tile: usize, memory: &mut Scratch) {
        match instructions {
            // SAFETY: the instructions were found, or there would be no `Found`.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) if self.cache.width.is_multiple_of(32) => unsafe { self.avx512(tile, memory) },
            // SAFETY: as above; AVX-512 is only found where there are AVX2 and FMA, too.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) | Instructions::Avx2(_) if self.cache.width.is_multiple_of(16) => unsafe {
                self.avx2(tile, memory);
            },
            // SAFETY: as for the first. Heads are padded to eight numbers, which are two vectors.
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(_) => unsafe { self.neon(tile, memory) },
            // SAFETY: needs no instructions of its own.
            _ => unsafe { self.run::<Scalar, 1>(tile, memory) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn avx512(self, tile: usize, memory: &mut Scratch) {
        // SAFETY: this function has the instructions.
        unsafe { self.run::<Avx512, 2>(tile, memory) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(self, tile: usize, memory: &mut Scratch) {
        // SAFETY: this function has the instructions.
        unsafe { self.run::<Avx2, 1>(tile, memory) }
    }

    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon")]
    unsafe fn neon(self, tile: usize, memory: &mut Scratch) {
        // SAFETY: this function has the instructions.
        unsafe { self.run::<Neon, 2>(tile, memory) }
    }

    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    unsafe fn run<V: Simd, const VECTORS: usize>(self, tile: usize, memory: &mut Scratch) {
        let Self { cache, head, window, y, .. } = self;
        let width = cache.width;
        let first = tile * QUERIES;
        let count = QUERIES.min(self.queries() - first);
        let last = |query: usize| self.last(first + query);
        let Scratch { queries, scores, shares, sums } = memory;
        queries.resize(width * QUERIES, 0.0);
        scores.resize(QUERIES * PAGE, 0.0);
        shares.resize(PAGE * QUERIES, 0.0);
        sums.clear();
        sums.resize(QUERIES * width, 0.0);
        queries.fill(0.0);
        let scale = 1.0 / (width as f32).sqrt();
        for query in 0..count {
            let q = self.query(first + query);
            queries[query..].iter_mut().step_by(QUERIES).zip(q).for_each(|(to, q)| *to = q * scale);
        }
        let (mut greatest, mut totals) = ([f32::NEG_INFINITY; QUERIES], [0.0; QUERIES]);
        let oldest = |query: usize| window.map_or(0, |window| (last(query) + 1).saturating_sub(window));
        let pages = oldest(0) / PAGE..last(count - 1) / PAGE + 1;
        let size = width * PAGE;
        for page in pages {
            // SAFETY: the caller has the instructions.
            unsafe {
                match &*cache.pages[page] {
                    Page::F32 { keys, .. } => {
                        product::<V, f32, VECTORS>(queries, &keys[head * size..][..size], PAGE, scores, false);
                    }
                    Page::Bf16 { keys, .. } => {
                        product::<V, u16, VECTORS>(queries, &keys[head * size..][..size], PAGE, scores, false);
                    }
                }
            }
            for query in 0..count {
                let scores = &mut scores[query * PAGE..][..PAGE];
                let seen = oldest(query).saturating_sub(page * PAGE).min(PAGE)
                    ..(last(query) + 1).saturating_sub(page * PAGE).min(PAGE);
                scores[..seen.start].fill(f32::NEG_INFINITY);
                scores[seen.end.max(seen.start)..].fill(f32::NEG_INFINITY);
                let most = scores.iter().fold(greatest[query], |most, score| if *score > most { *score } else { most });
                if most == f32::NEG_INFINITY {
                    shares[query..].iter_mut().step_by(QUERIES).for_each(|share| *share = 0.0);
                    continue;
                }
                // `exp` far below its range is about 1e-38: nothing beside a sum of at least 1.
                let former = exp::<false>(greatest[query] - most);
                let mut parts = [0.0; 16];
                for chunk in scores.as_chunks_mut::<16>().0 {
                    for i in 0..16 {
                        chunk[i] = if chunk[i] == f32::NEG_INFINITY { 0.0 } else { exp::<false>(chunk[i] - most) };
                        parts[i] += chunk[i];
                    }
                }
                totals[query] = totals[query] * former + parts.into_iter().sum::<f32>();
                if former != 1.0 {
                    sums[query * width..][..width].iter_mut().for_each(|sum| *sum *= former);
                }
                greatest[query] = most;
                shares[query..].iter_mut().step_by(QUERIES).zip(&*scores).for_each(|(share, score)| *share = *score);
            }
            // SAFETY: the caller has the instructions.
            unsafe {
                match &*cache.pages[page] {
                    Page::F32 { values, .. } => {
                        product::<V, f32, VECTORS>(shares, &values[head * size..][..size], width, sums, true);
                    }
                    Page::Bf16 { values, .. } => {
                        product::<V, u16, VECTORS>(shares, &values[head * size..][..size], width, sums, true);
                    }
                }
            }
        }
        for query in 0..count {
            let (row, column) = self.place(first + query);
            // SAFETY: these columns of this row are this task's alone, and the piece is dropped before the next.
            let y = unsafe { y.piece(row, column..column + width) };
            let share = 1.0 / totals[query];
            y.iter_mut().zip(&sums[query * width..]).for_each(|(y, sum)| *y = sum * share);
        }
    }
}

/// Computes `y (+)= xᵀ m`: `x` `[depth, QUERIES]`, `m` `[depth, width]`, `y` `[QUERIES, width]`.
///
/// # Panics
/// If the lengths differ, or the width is not a multiple of `VECTORS` vectors.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn product<V: Simd, T: Stored, const VECTORS: usize>(
    x: &[f32],
    m: &[T],
    width: usize,
    y: &mut [f32],
    add: bool,
) {
    let depth = m.len() / width;
    assert!(
        m.len() == depth * width
            && x.len() == depth * QUERIES
            && y.len() == QUERIES * width
            && width.is_multiple_of(VECTORS * V::LANES)
    );
    for column in (0..width).step_by(VECTORS * V::LANES) {
        // SAFETY: the caller has the instructions. `m` has `depth` rows and `y` `QUERIES` rows of `width` numbers, of which the
        // columns are a part since the width is a multiple of them; `x` has `QUERIES` numbers for each of the depth (asserted).
        unsafe {
            let mut sums = [[V::zero(); VECTORS]; QUERIES];
            for at in 0..depth {
                let m = m.as_ptr().add(at * width + column);
                let m: [V::Float; VECTORS] = std::array::from_fn(|i| T::load::<V>(m.add(i * V::LANES)));
                let x = x.as_ptr().add(at * QUERIES);
                for query in 0..QUERIES {
                    let x = V::splat(*x.add(query));
                    for i in 0..VECTORS {
                        sums[query][i] = V::multiply_add(x, m[i], sums[query][i]);
                    }
                }
            }
            for (query, sums) in sums.into_iter().enumerate() {
                for (i, sum) in sums.into_iter().enumerate() {
                    let y = y.as_mut_ptr().add(query * width + column + i * V::LANES);
                    let sum = if add { V::multiply_add(V::splat(1.0), V::load(y), sum) } else { sum };
                    V::store(y, sum);
                }
            }
        }
    }
}
