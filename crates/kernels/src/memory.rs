//! Memory as the products use it: a matrix whose columns are written by several threads at once, and prefetching.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// Room for a row-major matrix `[rows, width]`, shared by tasks that each own other columns of it.
pub(crate) struct Columns<'a> {
    values: *mut f32,
    rows: usize,
    width: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is only followed by `piece`, whose caller promises that no two threads touch the same element.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    pub(crate) fn new(values: &'a mut [f32], width: usize) -> Self {
        let rows = values.len().checked_div(width).unwrap_or(0);
        Self { values: values.as_mut_ptr(), rows, width, owner: PhantomData }
    }

    /// The given columns of one row.
    ///
    /// # Safety
    /// No other piece that is alive, in this or another thread, may hold any of these elements.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // The reason of this type; see the promise above.
    pub(crate) unsafe fn piece(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: the range lies in the matrix (just asserted), which `owner` keeps borrowed, and the caller promises that it
        // is held once.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(row * self.width + columns.start), columns.len()) }
    }

    /// Sets one element.
    ///
    /// # Safety
    /// No other thread touches it, and no piece that is alive holds it.
    #[inline(always)]
    pub(crate) unsafe fn set(&self, row: usize, column: usize, value: f32) {
        assert!(row < self.rows && column < self.width);
        // SAFETY: it lies in the matrix (just asserted), which `owner` keeps borrowed; the caller promises the rest.
        unsafe { self.values.add(row * self.width + column).write(value) }
    }

    /// Asks for some columns of one row to be near.
    #[inline(always)]
    pub(crate) fn prefetch(&self, row: usize, columns: Range<usize>) {
        for column in columns.step_by(LINE) {
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                let at = self.values.wrapping_add(row * self.width + column);
                // SAFETY: as in `prefetch`.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = (row, column);
        }
    }
}

/// Numbers in one line of the cache.
const LINE: usize = 16;

/// So many values of the vector, which grows as needed, from the beginning of a cache line on: a load that crosses two lines
/// costs two.
pub(crate) fn aligned(values: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if values.len() < length + LINE {
        values.resize(length + LINE, 0.0);
    }
    let skip = values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    &mut values[skip..skip + length]
}

/// Numbers that begin at a cache line, for the same reason.
pub(crate) struct Lines<T> {
    lines: Vec<Line>,
    length: usize,
    numbers: PhantomData<T>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]); // read as numbers

/// What any bits are a value of.
///
/// # Safety
/// Any bits must be a value, without padding, aligned within a line.
pub(crate) unsafe trait Bits: Copy {}

// SAFETY: numbers.
unsafe impl Bits for i8 {}
// SAFETY: as above.
unsafe impl Bits for i32 {}
// SAFETY: as above.
unsafe impl Bits for f32 {}

impl<T> Lines<T> {
    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), length: 0, numbers: PhantomData }
    }
}

impl<T> std::fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers", self.length)
    }
}

impl<T: Bits> Lines<T> {
    /// Room for so many numbers; what they were is left.
    pub(crate) fn resize(&mut self, length: usize) -> &mut [T] {
        let lines = (length * size_of::<T>()).div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.length = length;
        // SAFETY: the lines hold so many numbers, which may have any bits.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), length) }
    }
}

impl<T: Bits> std::ops::Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: as in `resize`, which set the length.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

/// Reads all words, as fast as memory gives them; their sum.
pub fn read_all(words: &[u64]) -> u64 {
    let mut sums = [0u64; LINE];
    let (pieces, rest) = words.as_chunks::<LINE>();
    for piece in pieces {
        prefetch_ahead(piece.as_ptr(), AHEAD);
        prefetch_ahead(piece[LINE / 2..].as_ptr(), AHEAD);
        (0..LINE).for_each(|i| sums[i] = sums[i].wrapping_add(piece[i]));
    }
    sums.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

/// Asks for what lies so many bytes behind a place to be on its way from memory: weights are read from one end to the other.
#[inline(always)]
pub(crate) fn prefetch_ahead<T>(at: *const T, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: as in `prefetch`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(bytes)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, bytes);
}

/// Bytes that should lie at least between a place that is read and the one that is asked for.
const AHEAD: usize = 4 << 10;

/// How far ahead to ask where rows are read several at a time: so that the same place of later rows is meant, not of those that
/// are being read.
#[inline(always)]
pub(crate) fn ahead(bytes_at_a_time: usize) -> usize {
    bytes_at_a_time * AHEAD.div_ceil(bytes_at_a_time.max(1))
}

/// Asks for these values to be on their way from memory, as far as the second cache.
#[inline(always)]
pub(crate) fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction; it reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
