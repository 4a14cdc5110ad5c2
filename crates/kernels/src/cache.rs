//! Attention of new rows over the keys and values of everything before them.
#![allow(unsafe_code)] // Vectors over raw memory, and tasks that write other columns of the same rows.

use std::cell::RefCell;
use std::sync::Arc;

use rayon::prelude::*;

use crate::elementwise::exp;
#[cfg(target_arch = "x86_64")]
use crate::half::HalfInstructions;
#[cfg(target_arch = "x86_64")]
use crate::half_cache;
use crate::half_pairs::SIDE;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Instructions, Lanes, Plain, Stored};
use crate::level::Processor;
use crate::linear::Precision;
use crate::memory::{Columns, size, total};
use crate::weight::narrow;

/// Widths of heads are rounded up to whole vectors.
const LANES: usize = 8;

/// Tokens of one page.
pub(crate) const PAGE: usize = 64;
/// Queries that are computed together.
const QUERIES: usize = 8;

/// Keys and values of one attention layer, kept in pages: growing copies nothing, and clones share pages until one is
/// written to.
#[derive(Debug, Clone)]
pub struct KvPages {
    heads: usize,
    /// A multiple of 8: behind the numbers of a key or value there are zeros.
    pub(crate) width: usize,
    /// Numbers of a key or value.
    given: usize,
    half: bool,
    tokens: usize,
    pub(crate) pages: Vec<Arc<Page>>,
}

/// Per head, keys `[width, PAGE]` and values `[PAGE, width]`: as the products read them.
#[derive(Debug, Clone)]
pub(crate) enum Page {
    F32 { keys: Vec<f32>, values: Vec<f32> },
    Bf16 { keys: Vec<u16>, values: Vec<u16> },
}

impl KvPages {
    /// An empty cache for `heads` key/value heads of this width, in bf16 if `half`, otherwise in single precision.
    ///
    /// # Panics
    /// If there are no heads, or they have no width, or a page would be too large for any memory.
    pub fn new(heads: usize, width: usize, half: bool) -> Self {
        assert!(heads > 0 && width > 0, "a cache of {heads} heads of width {width}");
        let (given, width) = (width, width.next_multiple_of(LANES));
        size([heads, width, PAGE, 2 * size_of::<f32>()]);
        Self { heads, width, given, half, tokens: 0, pages: Vec::new() }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.tokens
    }

    /// True before the first token.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.pages.len() * 2 * self.heads * self.width * PAGE * if self.half { 2 } else { 4 }
    }

    /// Adds one token's keys and values, each `[heads, width]`.
    ///
    /// # Panics
    /// If the lengths differ from that.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) {
        let (heads, width) = (self.heads, self.width);
        assert!(keys.len() == heads * self.given && values.len() == keys.len(), "keys, values [heads, width]");
        let (page, at) = (self.tokens / PAGE, self.tokens % PAGE);
        if page == self.pages.len() {
            let size = heads * width * PAGE;
            self.pages.push(Arc::new(match self.half {
                true => Page::Bf16 { keys: vec![0; size], values: vec![0; size] },
                false => Page::F32 { keys: vec![0.0; size], values: vec![0.0; size] },
            }));
        }
        match Arc::make_mut(&mut self.pages[page]) {
            Page::F32 { keys: k, values: v } => write(k, v, keys, values, [self.given, width], at, |x| x),
            Page::Bf16 { keys: k, values: v } => write(k, v, keys, values, [self.given, width], at, narrow),
        }
        self.tokens += 1;
    }

    /// Forgets all but the first tokens; the memory of later pages is given back.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn truncate(&mut self, tokens: usize) {
        assert!(tokens <= self.tokens, "a cache of {} tokens cut to {tokens}", self.tokens);
        self.tokens = tokens;
        self.pages.truncate(tokens.div_ceil(PAGE));
    }

    /// Forgets whole pages that no later query with this window sees. What is left counts from its first key on.
    pub fn forget_before(&mut self, window: usize) {
        // The next query sees the `window - 1` keys before it.
        let unseen = (self.tokens + 1).saturating_sub(window) / PAGE;
        if unseen > 0 {
            self.pages.drain(..unseen);
            self.tokens -= unseen * PAGE;
        }
    }

    /// Forgets everything but keeps the memory of the first page.
    pub fn clear(&mut self) {
        self.tokens = 0;
        self.pages.truncate(1);
    }
}

fn write<T>(
    keys: &mut [T],
    values: &mut [T],
    new_keys: &[f32],
    new_values: &[f32],
    [given, width]: [usize; 2],
    at: usize,
    convert: impl Fn(f32) -> T,
) {
    let heads = new_keys.chunks_exact(given).zip(new_values.chunks_exact(given)).enumerate();
    for (head, (new_keys, new_values)) in heads {
        let (keys, values) = (&mut keys[head * width * PAGE..], &mut values[(head * PAGE + at) * width..]);
        keys[at..].iter_mut().step_by(PAGE).zip(new_keys).for_each(|(key, new)| *key = convert(*new));
        values.iter_mut().zip(new_values).for_each(|(value, new)| *value = convert(*new));
    }
}

/// New rows of one run, whose keys and values its cache holds already. Rows of several runs lie one behind the other, in their
/// order.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Keys and values, those of the rows included.
    pub cache: &'a KvPages,
    /// Rows; they are the last tokens of the cache.
    pub rows: usize,
}

/// Causal attention of new rows over their caches: `softmax(q kᵀ / √width) v`. Each row sees the keys up to its own; with
/// `window`, only the last so many. In half precision, many rows over a cache in bf16 are rounded to bf16 as well.
///
/// # Shapes
/// `q`, `y` `[rows, heads, width]`, where the runs' rows add up to `rows`; heads are shared out evenly among the caches' heads.
///
/// # Panics
/// If the lengths do not agree.
pub fn cached_attention(
    q: &[f32],
    runs: &[Run],
    heads: usize,
    window: Option<usize>,
    precision: Precision,
    y: &mut [f32],
) {
    attend(Processor::best(), q, runs, heads, window, precision, y);
}

/// Pads heads to whole vectors where the cache did, and attends.
fn attend(
    processor: Processor,
    q: &[f32],
    runs: &[Run],
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
    // Scores are divided by the root of the padded width.
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
    runs: &[Run],
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
    let columns = Columns::new(y, heads * width);
    let mut tasks = Vec::new();
    // Runs follow one another, so that no two have the same rows.
    let mut first_row = 0;
    for Run { cache, rows } in runs.iter().copied() {
        let kv_heads = cache.heads;
        assert!(cache.width == width && heads.is_multiple_of(kv_heads), "heads and widths of the caches");
        assert!(rows <= cache.tokens, "{rows} rows over a cache of {} tokens", cache.tokens);
        let queries = rows * (heads / kv_heads);
        let half = in_half(processor, cache, queries, window, precision);
        let tiles = queries.div_ceil(if half.is_some() { SIDE } else { QUERIES });
        // Long prompts: some tiles per task; a page of keys then serves them all.
        for first in (0..tiles).step_by(TILES) {
            let task = |head| Task { q, cache, rows, first_row, heads, head, window, y: &columns };
            tasks.extend((0..kv_heads).map(|head| (task(head), half, first..(first + TILES).min(tiles))));
        }
        first_row += rows;
    }
    tasks.into_par_iter().for_each(|(task, half, tiles)| match half {
        #[cfg(target_arch = "x86_64")]
        Some(half) => {
            let mut memory = HALF_MEMORY.take();
            // SAFETY: all features that functions of half precision are compiled with were found, or there would be no
            // `HalfInstructions`.
            unsafe { half_cache::run(half, task, tiles, &mut memory) };
            HALF_MEMORY.set(memory);
        }
        _ => {
            let mut memory = MEMORY.take();
            tiles.for_each(|tile| task.tile(processor.instructions, tile, &mut memory));
            MEMORY.set(memory);
        }
    });
}

#[cfg(not(target_arch = "x86_64"))]
type HalfInstructions = std::convert::Infallible;

/// With what the queries of a run are multiplied in half precision, if they are.
fn in_half(
    processor: Processor,
    cache: &KvPages,
    queries: usize,
    window: Option<usize>,
    precision: Precision,
) -> Option<HalfInstructions> {
    #[cfg(target_arch = "x86_64")]
    let instructions = processor.half;
    #[cfg(not(target_arch = "x86_64"))]
    let (instructions, _) = (None, processor);
    let worth = queries >= SIDE || queries >= SIDE / 8 && cache.tokens >= LONG;
    let fits = cache.half && window.is_none() && cache.width.is_multiple_of(SIDE);
    instructions.filter(|_| precision == Precision::Half && worth && fits)
}

/// From so many tokens on, a few queries are worth laying keys and values for products in half precision.
const LONG: usize = 1024;
/// Tiles of queries in one task.
const TILES: usize = 16;

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
    #[cfg(target_arch = "x86_64")]
    static HALF_MEMORY: RefCell<half_cache::Memory> = RefCell::default();
}

#[derive(Default)]
struct Memory {
    /// `[width, QUERIES]`.
    queries: Vec<f32>,
    /// `[QUERIES, PAGE]`.
    scores: Vec<f32>,
    /// `[PAGE, QUERIES]`.
    shares: Vec<f32>,
    /// `[QUERIES, width]`.
    sums: Vec<f32>,
}

/// The queries of one run that share a head of the cache.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    q: &'a [f32],
    pub(crate) cache: &'a KvPages,
    rows: usize,
    /// The run's first row among the rows of all runs.
    first_row: usize,
    heads: usize,
    /// Which of the cache's heads.
    pub(crate) head: usize,
    window: Option<usize>,
    pub(crate) y: &'a Columns<'a>,
}

impl<'a> Task<'a> {
    /// Query heads that share the cache's.
    fn group(&self) -> usize {
        self.heads / self.cache.heads
    }

    pub(crate) fn queries(&self) -> usize {
        self.rows * self.group()
    }

    /// Row and first column of a query.
    pub(crate) fn place(&self, query: usize) -> (usize, usize) {
        let group = self.group();
        (self.first_row + query / group, (self.head * group + query % group) * self.cache.width)
    }

    pub(crate) fn query(&self, query: usize) -> &'a [f32] {
        let ((row, column), width) = (self.place(query), self.cache.width);
        &self.q[row * self.heads * width + column..][..width]
    }

    /// The last key a query sees.
    pub(crate) fn last(&self, query: usize) -> usize {
        self.cache.tokens - self.rows + query / self.group()
    }

    fn tile(self, instructions: Instructions, tile: usize, memory: &mut Memory) {
        match instructions {
            // SAFETY: the instructions were found, or there would be no `Found`.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) if self.cache.width.is_multiple_of(32) => unsafe { self.avx512(tile, memory) },
            // SAFETY: as above; AVX-512 is only found where there are AVX2 and FMA, too.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) | Instructions::Avx2(_) if self.cache.width.is_multiple_of(16) => unsafe {
                self.avx2(tile, memory);
            },
            // SAFETY: needs no instructions of its own.
            _ => unsafe { self.run::<Plain, 1>(tile, memory) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn avx512(self, tile: usize, memory: &mut Memory) {
        // SAFETY: this function has the instructions.
        unsafe { self.run::<Avx512, 2>(tile, memory) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(self, tile: usize, memory: &mut Memory) {
        // SAFETY: this function has the instructions.
        unsafe { self.run::<Avx2, 1>(tile, memory) }
    }

    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    unsafe fn run<V: Lanes, const VECTORS: usize>(self, tile: usize, memory: &mut Memory) {
        let Self { cache, head, window, y, .. } = self;
        let width = cache.width;
        let first = tile * QUERIES;
        let count = QUERIES.min(self.queries() - first);
        let last = |query: usize| self.last(first + query);
        let Memory { queries, scores, shares, sums } = memory;
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
                // `exp` of far below its range is about 1e-38: nothing beside a sum of at least 1.
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

/// `y (+)= xᵀ m`: `x` `[depth, QUERIES]`, `m` `[depth, width]`, `y` `[QUERIES, width]`.
///
/// # Panics
/// If the lengths differ, or the width is no multiple of `VECTORS` vectors.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn product<V: Lanes, T: Stored, const VECTORS: usize>(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::few::tests::numbers;
    use crate::level::tests::{cases, up_to};
    use proptest::prelude::*;

    /// Largest distance from attention in f64.
    #[allow(clippy::too_many_arguments)] // All that the kernels tell apart.
    fn error(
        processor: Processor,
        past: usize,
        rows: usize,
        [heads, kv]: [usize; 2],
        width: usize,
        half: bool,
        window: Option<usize>,
        precision: Precision,
    ) -> f64 {
        let tokens = past + rows;
        let [keys, values] = [5, 9].map(|seed| numbers(tokens * kv * width, seed));
        let mut cache = KvPages::new(kv, width, half);
        // A cache that was cut and grows again.
        cache.append(&values[..kv * width], &keys[..kv * width]);
        cache.truncate(0);
        for token in 0..tokens {
            let range = token * kv * width..(token + 1) * kv * width;
            cache.append(&keys[range.clone()], &values[range]);
        }
        let q: Vec<f32> = numbers(rows * heads * width, 3).iter().map(|q| q * 3.0).collect();
        let mut y = vec![0.0; q.len()];
        attend(processor, &q, &[Run { cache: &cache, rows }], heads, window, precision, &mut y);
        let stored = |x: f32| f64::from(if half { crate::weight::widen(narrow(x)) } else { x });
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
            width in prop::sample::select(vec![1, 6, 8, 12, 16, 24, 32, 64]), half: bool,
            window in prop::sample::select(vec![None, Some(1), Some(72)]),
        ) {
            for processor in Processor::all() {
                let worst = error(processor, past, rows, [group * kv, kv], width, half, window, Precision::Full);
                prop_assert!(worst < 1e-5, "{processor:?}: {worst}");
            }
        }

        #[test]
        fn runs_beside_each_other_get_what_each_gets_alone(
            runs in prop::collection::vec((0..up_to(100), 0..up_to(up_to(40))), 1..up_to(5).max(3)), group in 1..4usize, kv in 1..3usize,
            width in prop::sample::select(vec![16, 32]), same: bool,
        ) {
            let heads = group * kv;
            let caches: Vec<KvPages> = runs
                .iter()
                .enumerate()
                .map(|(at, (past, rows))| {
                    let mut cache = KvPages::new(kv, width, true);
                    let [keys, values] = [1, 2].map(|seed| numbers((past + rows) * kv * width, 2 * at + seed));
                    keys.chunks(kv * width).zip(values.chunks(kv * width)).for_each(|(k, v)| cache.append(k, v));
                    cache
                })
                .collect();
            // Perhaps the first cache serves the first run twice.
            let mut all: Vec<Run> =
                caches.iter().zip(&runs).map(|(cache, (_, rows))| Run { cache, rows: *rows }).collect();
            all.extend(same.then(|| all[0]));
            let length = |run: &Run| run.rows * heads * width;
            let q = numbers(all.iter().map(length).sum(), 77);
            for (processor, precision) in
                Processor::all().flat_map(|processor| [(processor, Precision::Full), (processor, Precision::Half)])
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
        fn many_rows_in_half_precision_are_right(
            past in 0..500usize, rows in 1..60usize, group in 1..9usize, kv in 1..3usize,
            width in prop::sample::select(vec![32, 64, 96]),
        ) {
            for (processor, _) in Processor::halves() {
                let worst = error(processor, past, rows, [group * kv, kv], width, true, None, Precision::Half);
                prop_assert!(worst < 0.01, "{processor:?}: {worst}");
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn one_row_over_a_long_cache_in_half_precision_is_right() {
        for (processor, _) in Processor::halves() {
            let worst = error(processor, LONG + 300, 1, [16, 2], 64, true, None, Precision::Half);
            assert!(worst < 0.01, "{processor:?}: {worst}");
        }
    }

    #[test]
    #[should_panic(expected = "for 2 rows of all runs")]
    fn rows_that_no_run_has_are_a_bug() {
        let mut cache = KvPages::new(1, 8, false);
        cache.append(&[1.0; 8], &[1.0; 8]);
        let run = Run { cache: &cache, rows: 1 };
        cached_attention(&[0.0; 24], &[run, run], 1, None, Precision::Full, &mut [0.0; 24]);
    }

    #[test]
    #[should_panic(expected = "add up to too large a size")]
    fn runs_whose_sum_wraps_are_a_bug() {
        let cache = KvPages::new(1, 8, false);
        let runs = [usize::MAX, 2].map(|rows| Run { cache: &cache, rows });
        cached_attention(&[0.0; 8], &runs, 1, None, Precision::Full, &mut [0.0; 8]);
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn a_page_that_fits_no_memory_is_a_bug() {
        KvPages::new(usize::MAX / 64, 8, false);
    }

    #[test]
    fn a_clone_keeps_its_own_tokens() {
        let mut a = KvPages::new(1, 8, false);
        a.append(&[1.0; 8], &[1.0; 8]);
        let b = a.clone();
        a.append(&[1.0; 8], &[5.0; 8]);
        let attend = |cache: &KvPages| {
            let mut y = [0.0; 8];
            cached_attention(&[0.0; 8], &[Run { cache, rows: 1 }], 1, None, Precision::Full, &mut y);
            y[0]
        };
        assert_eq!([attend(&a), attend(&b)], [3.0, 1.0]);
        assert_eq!((a.len(), b.len()), (2, 1));
    }
}
