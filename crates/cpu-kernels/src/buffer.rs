//! Buffers: checked sizes, cache-line alignment, matrices whose columns several threads write at once, and prefetching.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// Multiplies sizes, checking for overflow: a product that wraps would allocate less memory than is then read.
///
/// Sizes that were compared with a slice's length are smaller than the address space by some bits, so that rounding them up to
/// tiles, or adding a few of them, needs no further check.
///
/// # Panics
/// If the product overflows.
#[track_caller]
#[inline]
pub(crate) fn size<const N: usize>(sizes: [usize; N]) -> usize {
    if sizes.contains(&0) {
        return 0;
    }
    let product = sizes.into_iter().try_fold(1usize, usize::checked_mul);
    product.unwrap_or_else(|| panic!("sizes {sizes:?} are too large"))
}

/// Adds lengths, checking for overflow.
///
/// # Panics
/// If the sum overflows.
#[track_caller]
pub(crate) fn total(lengths: impl IntoIterator<Item = usize>) -> usize {
    let sum = lengths.into_iter().try_fold(0usize, usize::checked_add);
    sum.unwrap_or_else(|| panic!("lengths add up to too large a size"))
}

/// A row-major matrix `[rows, width]` shared by tasks that each write a disjoint set of its columns.
pub(crate) struct DisjointCols<'a> {
    values: *mut f32,
    rows: usize,
    width: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is only followed by `piece`, whose caller promises that no two threads touch the same element.
unsafe impl Sync for DisjointCols<'_> {}

impl<'a> DisjointCols<'a> {
    pub(crate) fn new(values: &'a mut [f32], width: usize) -> Self {
        let rows = values.len().checked_div(width).unwrap_or(0);
        Self { values: values.as_mut_ptr(), rows, width, owner: PhantomData }
    }

    /// Borrows `columns` of one row.
    ///
    /// # Safety
    /// No other piece that is alive, in this or another thread, may hold any of these elements.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // The reason of this type; see the promise above.
    pub(crate) unsafe fn piece(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: the range lies in the matrix (just asserted; `rows * width` is at most the length of the slice it was made
        // of), which `owner` keeps borrowed, and the caller promises that it is held once.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(row * self.width + columns.start), columns.len()) }
    }

    /// Writes one element.
    ///
    /// # Safety
    /// No other thread touches it, and no piece that is alive holds it.
    #[inline(always)]
    pub(crate) unsafe fn set(&self, row: usize, column: usize, value: f32) {
        assert!(row < self.rows && column < self.width);
        // SAFETY: it lies in the matrix (just asserted), which `owner` keeps borrowed; the caller promises the rest.
        unsafe { self.values.add(row * self.width + column).write(value) }
    }

    /// A writable view of the rows from `row` on and the columns from `column` on.
    ///
    /// # Safety
    /// While the target is alive, no other thread touches what is written through it, and no piece that is alive holds it.
    #[inline(always)]
    pub(crate) unsafe fn target(&self, row: usize, column: usize) -> Target<'_> {
        Target { columns: self, row, column }
    }
}

/// A view of some rows and columns of a matrix that only its holder writes.
pub(crate) struct Target<'a> {
    columns: &'a DisjointCols<'a>,
    row: usize,
    column: usize,
}

impl Target<'_> {
    /// The first `length` numbers of one row.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize, length: usize) -> &mut [f32] {
        let Self { columns, row: first, column } = *self;
        // SAFETY: whoever made the target promised that nobody else touches these, and `self` is borrowed until the piece is
        // dropped.
        unsafe { columns.piece(first + row, column..column + length) }
    }

    /// Prefetches the first `length` numbers of one row to the L1 cache.
    #[inline(always)]
    pub(crate) fn prefetch(&self, row: usize, length: usize) {
        let DisjointCols { values, width, .. } = self.columns;
        let first = self.row.wrapping_add(row).wrapping_mul(*width).wrapping_add(self.column);
        for at in (0..length).step_by(LINE) {
            prefetch_line::<NEAR, _>(values.wrapping_add(first.wrapping_add(at)));
        }
    }
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Borrows `length` numbers of a vector, which grows as needed, beginning at a cache line: a load that crosses two lines costs
/// two.
pub(crate) fn aligned<T: Copy + Default>(values: &mut Vec<T>, length: usize) -> &mut [T] {
    let line = LINE / size_of::<T>();
    let needed = total([length, line]);
    if values.len() < needed {
        values.resize(needed, T::default());
    }
    let skip = values.as_ptr().align_offset(LINE).min(line);
    &mut values[skip..skip + length]
}

/// A vector whose first element is aligned to a cache line, so that no load crosses two lines.
pub(crate) struct AlignedVec<T> {
    lines: Vec<Line>,
    length: usize,
    numbers: PhantomData<T>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]); // Read as numbers.

/// A number type for which any bits are a valid value.
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

impl<T> AlignedVec<T> {
    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }
}

impl<T> Default for AlignedVec<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), length: 0, numbers: PhantomData }
    }
}

impl<T> std::fmt::Debug for AlignedVec<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers", self.length)
    }
}

impl<T: Bits> AlignedVec<T> {
    /// Resizes to `length` numbers; former contents are left as they are.
    pub(crate) fn resize(&mut self, length: usize) -> &mut [T] {
        let lines = size([length, size_of::<T>()]).div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.length = length;
        // SAFETY: the lines hold `length` numbers (their bytes were just rounded up to lines), which may have any bits; a line is
        // aligned for any of them, and `self` is borrowed as long as they are.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), length) }
    }
}

impl<T: Bits> std::ops::Deref for AlignedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: as in `resize`, which set the length; lines are never taken away.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

/// Reads all words at memory bandwidth and returns their wrapping sum.
pub fn read_all(words: &[u64]) -> u64 {
    let mut sums = [0u64; LINE];
    let (pieces, rest) = words.as_chunks::<LINE>();
    for piece in pieces {
        prefetch_ahead(piece.as_ptr());
        prefetch_ahead(piece[LINE / 2..].as_ptr());
        (0..LINE).for_each(|i| sums[i] = sums[i].wrapping_add(piece[i]));
    }
    sums.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

/// Prefetch hint: to the L1 cache.
const NEAR: i32 = 3;
/// Prefetch hint: to the L2 cache.
const NEARER: i32 = 2;

/// Prefetches the cache line at an address, which need not be valid.
#[inline(always)]
fn prefetch_line<const HINT: i32, T>(at: *const T) {
    // Miri knows no such instruction.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every x86-64 processor has the instruction; it reads nothing that a program could see, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<HINT>(at.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Distance in bytes between what is read and what is prefetched.
const AHEAD: usize = 8 << 10;

/// Prefetches what lies [`AHEAD`] of `at`. Memory is fastest where lines are asked for one after the other, so code that reads several rows
/// at once goes through their lines here in the order in which they lie, not in that in which it reads them.
#[inline(always)]
pub(crate) fn prefetch_ahead<T>(at: *const T) {
    prefetch_line::<NEAR, _>(at.cast::<i8>().wrapping_add(AHEAD));
}

/// Prefetches these values to the L2 cache.
#[inline(always)]
pub(crate) fn prefetch(values: &[f32]) {
    values.chunks(LINE).for_each(|line| prefetch_line::<NEARER, _>(line.as_ptr()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_multiplied_unless_they_are_too_large() {
        assert_eq!((size([2, 3, 4]), size([usize::MAX, 2, 0]), size([])), (24, 0, 1));
        assert_eq!(total([2, 3]), 5);
        assert!(std::panic::catch_unwind(|| size([usize::MAX / 2, 3])).is_err());
        assert!(std::panic::catch_unwind(|| total([usize::MAX, 1])).is_err());
    }

    #[test]
    fn aligned_numbers_begin_with_a_line_and_keep_what_they_were() {
        let mut values = Vec::new();
        aligned(&mut values, 40).fill(1.0);
        let again = aligned(&mut values, 40);
        assert!(again.as_ptr().addr().is_multiple_of(64) && again.len() == 40 && again.iter().all(|x| *x == 1.0));
    }

    #[test]
    fn lines_hold_what_is_written_to_them() {
        let mut lines = AlignedVec::<i32>::default();
        assert!(lines.is_empty() && lines.resize(0).is_empty());
        lines.resize(17).copy_from_slice(&[7; 17]);
        lines.resize(3)[0] = 8;
        assert!(lines[..] == [8, 7, 7] && lines.as_ptr().addr().is_multiple_of(64));
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn more_bytes_than_a_size_can_count_are_no_lines() {
        AlignedVec::<i32>::default().resize(usize::MAX / 2);
    }

    #[test]
    fn tasks_write_beside_each_other() {
        let mut values = [0.0; 6];
        let columns = DisjointCols::new(&mut values, 3);
        // SAFETY: other columns.
        let (a, b) = unsafe { (columns.piece(1, 0..1), columns.piece(1, 1..3)) };
        (a[0], b[1]) = (1.0, 3.0);
        // SAFETY: another row.
        unsafe { columns.target(0, 1) }.row(0, 2).fill(2.0);
        // SAFETY: no piece is alive.
        unsafe { columns.set(1, 1, 4.0) };
        assert_eq!(values, [0.0, 2.0, 2.0, 1.0, 4.0, 3.0]);
    }

    #[test]
    #[should_panic(expected = "columns.end <= self.width")]
    fn a_piece_beyond_its_row_is_a_bug() {
        let mut values = [0.0; 6];
        // SAFETY: nothing else holds it.
        unsafe { DisjointCols::new(&mut values, 3).piece(0, 2..4) };
    }
}
