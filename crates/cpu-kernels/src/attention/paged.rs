//! The KV cache of one attention layer, in pages.

use std::sync::Arc;

use crate::buffer::size;
use crate::simd::narrow;

/// Heads are padded to a multiple of this width.
const LANES: usize = 8;

/// Tokens of one page.
pub(super) const PAGE: usize = 64;

/// KV cache of one attention layer, stored in pages: growing copies nothing, and clones share pages until one is written to.
#[derive(Debug, Clone)]
pub struct PagedKv {
    pub(super) heads: usize,
    /// Padded width, a multiple of 8; the padding of keys and values is zero.
    pub(super) width: usize,
    /// Width of a key or value without padding.
    pub(super) given: usize,
    pub(super) bf16: bool,
    pub(super) tokens: usize,
    pub(super) pages: Vec<Arc<Page>>,
}

/// Keys `[width, PAGE]` and values `[PAGE, width]` of each head, as the kernels read them.
#[derive(Debug, Clone)]
pub(super) enum Page {
    F32 { keys: Vec<f32>, values: Vec<f32> },
    Bf16 { keys: Vec<u16>, values: Vec<u16> },
}

impl PagedKv {
    /// Creates an empty cache for `heads` KV heads of `width`, in bf16 if `bf16`, otherwise in f32.
    ///
    /// # Panics
    /// If there are no heads, or they have no width, or a page would be too large for any memory.
    pub fn new(heads: usize, width: usize, bf16: bool) -> Self {
        assert!(heads > 0 && width > 0, "a cache of {heads} heads of width {width}");
        let (given, width) = (width, width.next_multiple_of(LANES));
        size([heads, width, PAGE, 2 * size_of::<f32>()]);
        Self { heads, width, given, bf16, tokens: 0, pages: Vec::new() }
    }

    /// Number of tokens held.
    pub fn len(&self) -> usize {
        self.tokens
    }

    /// True before the first token.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> usize {
        self.pages.len() * 2 * self.heads * self.width * PAGE * if self.bf16 { 2 } else { 4 }
    }

    /// Appends one token's keys and values, each `[heads, width]`.
    ///
    /// # Panics
    /// If the lengths differ from that.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) {
        let (heads, width) = (self.heads, self.width);
        assert!(keys.len() == heads * self.given && values.len() == keys.len(), "keys, values [heads, width]");
        let (page, at) = (self.tokens / PAGE, self.tokens % PAGE);
        if page == self.pages.len() {
            let size = heads * width * PAGE;
            self.pages.push(Arc::new(match self.bf16 {
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

    /// Keeps the first `tokens` tokens; later pages are freed.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn truncate(&mut self, tokens: usize) {
        assert!(tokens <= self.tokens, "a cache of {} tokens cut to {tokens}", self.tokens);
        self.tokens = tokens;
        self.pages.truncate(tokens.div_ceil(PAGE));
    }

    /// Drops whole pages that no later query with this window sees. Tokens are then counted from the first key that is left.
    pub fn forget_before(&mut self, window: usize) {
        // The next query sees the `window - 1` keys before it.
        let unseen = (self.tokens + 1).saturating_sub(window) / PAGE;
        if unseen > 0 {
            self.pages.drain(..unseen);
            self.tokens -= unseen * PAGE;
        }
    }

    /// Drops all tokens but keeps the first page allocated.
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
