use std::ops::Range;

use burn::tensor::Tensor;
use cpu_kernels::PagedKv;

/// Keys and values of one attention layer of one run, in the form of the engine that first added to it.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    store: Store,
}

#[derive(Debug, Clone, Default)]
#[allow(clippy::large_enum_variant)] // One per layer and state; a box would cost each step a jump.
enum Store {
    #[default]
    Empty,
    Paged(PagedKv),
    Tensors(TensorKv),
    /// Nothing is kept: the run ends after its first step.
    Discarded,
}

impl KvCache {
    /// A cache of a run that ends after its first step, as in training: nothing is kept.
    pub fn discarding() -> Self {
        Self { store: Store::Discarded }
    }

    /// Whether nothing is kept.
    pub(crate) fn discards(&self) -> bool {
        matches!(self.store, Store::Discarded)
    }

    /// Number of keys held that a later query can still see.
    pub fn len(&self) -> usize {
        match &self.store {
            Store::Empty | Store::Discarded => 0,
            Store::Paged(pages) => pages.len(),
            Store::Tensors(tensors) => tensors.seen(),
        }
    }

    /// True before the first step.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, memory allocated ahead included.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::Empty | Store::Discarded => 0,
            Store::Paged(pages) => pages.bytes(),
            Store::Tensors(tensors) => tensors.bytes(),
        }
    }

    /// Drops all but the first `length` keys of a cache without a window.
    ///
    /// # Panics
    /// If the cache holds fewer keys, or keeps only a window.
    pub fn truncate(&mut self, length: usize) {
        match &mut self.store {
            Store::Empty | Store::Discarded => assert_eq!(length, 0, "an empty cache cut to {length} keys"),
            Store::Paged(pages) => pages.truncate(length),
            Store::Tensors(tensors) => tensors.truncate(length),
        }
    }

    /// Drops the keys but keeps the memory of the first page.
    pub fn clear(&mut self) {
        match &mut self.store {
            Store::Empty | Store::Discarded => {}
            Store::Paged(pages) => pages.clear(),
            Store::Tensors(tensors) => tensors.clear(),
        }
    }

    /// The paged keys and values, for the host engine.
    ///
    /// # Panics
    /// If another engine made the cache.
    pub(crate) fn paged(&mut self, heads: usize, head_dim: usize, bf16: bool) -> &mut PagedKv {
        if let Store::Empty | Store::Discarded = self.store {
            self.store = Store::Paged(PagedKv::new(heads, head_dim, bf16));
        }
        match &mut self.store {
            Store::Paged(pages) => pages,
            _ => panic!("a cache on a device was handed to the engine of host memory"),
        }
    }

    /// Whether there are tensors to write new keys into: not before the first step.
    pub(crate) fn grows(&self) -> bool {
        matches!(&self.store, Store::Tensors(TensorKv { store: Some(_), .. }))
    }

    /// The keys and values as tensors, for the device engine.
    ///
    /// # Panics
    /// If another engine made the cache.
    pub(crate) fn tensors(&mut self, window: Option<usize>) -> &mut TensorKv {
        if let Store::Empty | Store::Discarded = self.store {
            self.store = Store::Tensors(TensorKv { window, ..TensorKv::default() });
        }
        match &mut self.store {
            Store::Tensors(tensors) => tensors,
            _ => panic!("a cache in host memory was handed to the engine of a device"),
        }
    }
}

/// Keys and values as tensors.
///
/// They are allocated ahead, so that a decode step writes one row in place. When they are full, what a later query can still see is
/// copied to larger ones: all keys, or with a window the last ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct TensorKv {
    store: Option<[Tensor<4>; 2]>,
    /// Keys held, with those that lie before the window.
    length: usize,
    window: Option<usize>,
}

const FIRST_CAPACITY: usize = 64;

impl TensorKv {
    /// Bytes held, memory allocated ahead included.
    fn bytes(&self) -> usize {
        self.store.iter().flatten().map(|store| store.shape().num_elements() * store.dtype().size()).sum()
    }

    /// Drops the keys but keeps the memory.
    fn clear(&mut self) {
        self.length = 0;
    }

    /// Keys that the next query can see.
    fn seen(&self) -> usize {
        self.window.map_or(self.length, |window| self.length.min(window - 1))
    }

    /// Drops all but the first `length` keys of a growing cache.
    ///
    /// # Panics
    /// If the cache holds fewer keys, or keeps only a window.
    fn truncate(&mut self, length: usize) {
        assert!(self.window.is_none() && length <= self.length, "a cache of {} keys cut to {length}", self.length);
        self.length = length;
    }

    /// Appends keys and values of new tokens; returns all that the new tokens may see.
    ///
    /// # Shapes
    /// in `[B, K, T, Dh]`, out `[B, K, S, Dh]`.
    pub(crate) fn append(&mut self, keys: Tensor<4>, values: Tensor<4>) -> [Tensor<4>; 2] {
        let (rows, seen) = (keys.dims()[2], self.seen());
        let Some((store, held)) = self.take_with_room(rows) else {
            return self.begin([keys, values]);
        };
        // The tensors are uniquely owned here, so the rows are written in place.
        self.put_back(gpu_kernels::write_rows(store, [keys, values], held), rows);
        self.last(seen + rows)
    }

    /// Takes the keys and values of the first step.
    fn begin(&mut self, all: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        self.length = all[0].dims()[2];
        let (seen, length) = (self.seen(), self.length);
        // Nothing is allocated ahead, because a run may end after its first step. Of a step much longer than the window, only the keys
        // that a later query can see are held.
        let held = match self.window {
            Some(window) if length > 4 * window => {
                self.length = seen;
                all.clone().map(|store| moved(store, length - seen..length, (2 * window).max(FIRST_CAPACITY)))
            }
            _ => all.clone(),
        };
        self.store = Some(held);
        all
    }

    /// All keys and values held that a later query can see.
    ///
    /// # Shapes
    /// `[B, K, S, Dh]` each.
    ///
    /// # Panics
    /// If nothing was appended yet.
    pub(crate) fn all(&self) -> [Tensor<4>; 2] {
        self.last(self.seen())
    }

    fn last(&self, count: usize) -> [Tensor<4>; 2] {
        let store = self.store.clone().expect("keys were appended");
        store.map(|held| held.narrow(2, self.length - count, count))
    }

    /// Takes the tensors out of the cache, with room for `rows` more keys behind those they hold, and the number of those;
    /// [`TensorKv::put_back`] brings the tensors back. `None` if nothing was appended yet.
    pub(crate) fn take_with_room(&mut self, rows: usize) -> Option<([Tensor<4>; 2], usize)> {
        let mut store = self.store.take()?;
        if store[0].dims()[2] < self.length + rows {
            let seen = self.seen();
            // With a window, room for `window` more keys: they are then moved once per window, not in each step.
            let needed = seen + rows + self.window.unwrap_or(0);
            let capacity = needed.next_power_of_two().max(FIRST_CAPACITY);
            store = store.map(|store| moved(store, self.length - seen..self.length, capacity));
            self.length = seen;
        }
        Some((store, self.length))
    }

    /// Takes back the tensors after `rows` more keys were written into them.
    pub(crate) fn put_back(&mut self, store: [Tensor<4>; 2], rows: usize) {
        self.length += rows;
        self.store = Some(store);
    }
}

/// Copies a range of the keys to the beginning of a new tensor.
fn moved(old: Tensor<4>, keys: Range<usize>, capacity: usize) -> Tensor<4> {
    let [batch, heads, _, width] = old.dims();
    let fresh = Tensor::zeros([batch, heads, capacity, width], (&old.device(), old.dtype()));
    match keys.len() {
        0 => fresh,
        count => fresh.slice_assign([0..batch, 0..heads, 0..count, 0..width], old.narrow(2, keys.start, count)),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn rows(values: std::ops::Range<i64>) -> Tensor<4> {
        let n = values.clone().count();
        Tensor::<1, burn::tensor::Int>::arange(values, &Device::flex()).float().reshape([1, 1, n, 1])
    }

    fn values(tensor: &Tensor<4>) -> Vec<f32> {
        tensor.to_data().try_to_vec_as().unwrap()
    }

    #[test]
    fn a_growing_cache_returns_everything_in_order() {
        let mut cache = TensorKv::default();
        let mut at = 0;
        for step in [3, 1, 70, 1, 200] {
            let [keys, vals] = cache.append(rows(at..at + step), rows(at..at + step));
            at += step;
            let expected: Vec<f32> = (0..at).map(|x| x as f32).collect();
            assert_eq!(values(&keys), expected, "after {step} more");
            assert_eq!(values(&vals), expected);
            assert_eq!(cache.length, at as usize);
        }
        cache.truncate(2);
        assert_eq!(values(&cache.append(rows(7..9), rows(7..9))[0]), [0.0, 1.0, 7.0, 8.0]);
        cache.clear();
        assert_eq!(values(&cache.append(rows(7..9), rows(7..9))[0]), [7.0, 8.0]);
    }

    #[test]
    fn a_window_cache_keeps_what_the_next_query_sees() {
        let mut cache = TensorKv { window: Some(4), ..TensorKv::default() };
        assert_eq!(values(&cache.append(rows(0..6), rows(0..6))[0]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        // More keys than are allocated, so that they are moved several times.
        for at in 6..400 {
            let [keys, _] = cache.append(rows(at..at + 1), rows(at..at + 1));
            assert_eq!(values(&keys), (at - 3..=at).map(|at| at as f32).collect::<Vec<_>>());
            assert_eq!(cache.seen(), 3);
        }
        let room = |cache: &TensorKv| cache.store.as_ref().unwrap()[0].dims()[2];
        assert_eq!(room(&cache), FIRST_CAPACITY);
        cache.append(rows(400..1400), rows(400..1400));
        assert_eq!(values(&cache.append(rows(1400..1401), rows(1400..1401))[0]), [1397.0, 1398.0, 1399.0, 1400.0]);
        cache.clear();
        assert_eq!(values(&cache.append(rows(7..9), rows(7..9))[0]), [7.0, 8.0]);
        let mut long = TensorKv { window: Some(4), ..TensorKv::default() };
        assert_eq!(long.append(rows(0..1000), rows(0..1000))[0].dims()[2], 1000);
        assert_eq!((long.seen(), room(&long)), (3, FIRST_CAPACITY));
        assert_eq!(values(&long.append(rows(1000..1001), rows(1000..1001))[0]), [997.0, 998.0, 999.0, 1000.0]);
        let mut own = TensorKv { window: Some(1), ..TensorKv::default() };
        for at in 0..70 {
            assert_eq!(values(&own.append(rows(at..at + 1), rows(at..at + 1))[0]), [at as f32]);
        }
    }
}
