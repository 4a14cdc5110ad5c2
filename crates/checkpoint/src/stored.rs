use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cpu_kernels::{Packed, Scales, Weight};
use memmap2::Mmap;

use crate::arena::{self, Arena};

/// Shared bytes: part of a mapped file, or memory. They are aligned for the numbers that are read from them.
#[derive(Clone)]
pub(crate) struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    File(Arc<Mmap>),
    Arena(arena::Stored),
    Words(Arc<Vec<u64>>),
}

impl Bytes {
    pub(crate) fn mapped(file: Arc<Mmap>, range: Range<usize>) -> Self {
        Self { owner: Owner::File(file), range }
    }

    /// Copies the bytes to memory of their own.
    pub(crate) fn copied(bytes: &[u8]) -> Self {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self { owner: Owner::Words(words.into()), range: 0..bytes.len() }
    }

    /// Copies the bytes to memory; to the arena if they are large.
    pub(crate) fn kept(bytes: &[u8], arena: &mut Arena) -> Self {
        const LARGE: usize = 64 << 10;
        match (bytes.len() >= LARGE).then(|| arena.store(bytes)).flatten() {
            Some(stored) => Self { owner: Owner::Arena(stored), range: 0..bytes.len() },
            None => Self::copied(bytes),
        }
    }

    fn get(&self) -> &[u8] {
        let all: &[u8] = match &self.owner {
            Owner::File(map) => map,
            Owner::Arena(stored) => stored.get(),
            Owner::Words(words) => bytemuck::cast_slice(words),
        };
        &all[self.range.clone()]
    }

    /// Bytes in this process's own memory, not in a mapped file.
    fn own(&self) -> usize {
        if matches!(self.owner, Owner::File(_)) { 0 } else { self.range.len() }
    }

    /// Returns itself if numbers of `size` bytes can be read in place, otherwise a copy.
    fn aligned(self, size: usize) -> Self {
        if self.get().as_ptr().align_offset(size) == 0 { self } else { Self::copied(self.get()) }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = if matches!(self.owner, Owner::File(_)) { "mapped" } else { "in memory" };
        write!(f, "{} bytes {owner}", self.range.len())
    }
}

/// A matrix `[out, in]` in host memory, in the number type it is stored in; in the mapped file itself where alignment allows.
///
/// Clones share the memory. Two processes that map the same file share it as well.
#[derive(Clone, Debug)]
pub struct StoredMatrix {
    shape: [usize; 2],
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    F32(Bytes),
    Bf16(Bytes),
    Packed { bits: usize, group: usize, words: Bytes, scales: Bytes, bf16_scales: bool, zeros: Option<Arc<[i8]>> },
}

impl StoredMatrix {
    pub(crate) fn f32(shape: [usize; 2], bytes: Bytes) -> Self {
        Self { shape, form: Form::F32(bytes.aligned(4)) }
    }

    pub(crate) fn bf16(shape: [usize; 2], bytes: Bytes) -> Self {
        Self { shape, form: Form::Bf16(bytes.aligned(2)) }
    }

    /// Makes a packed matrix; `scales` are bf16 if `bf16_scales`, otherwise f32.
    pub(crate) fn packed(
        shape: [usize; 2],
        [bits, group]: [usize; 2],
        words: Bytes,
        (scales, bf16_scales): (Bytes, bool),
        zeros: Option<Vec<i8>>,
    ) -> Self {
        let scales = scales.aligned(if bf16_scales { 2 } else { 4 });
        let form =
            Form::Packed { bits, group, words: words.aligned(4), scales, bf16_scales, zeros: zeros.map(Arc::from) };
        Self { shape, form }
    }

    /// Shape `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Whether the values are packed integers.
    pub fn is_packed(&self) -> bool {
        matches!(self.form, Form::Packed { .. })
    }

    /// The values, as the kernels of the `cpu-kernels` crate take them.
    pub fn weight(&self) -> Weight<'_> {
        match &self.form {
            Form::F32(bytes) => Weight::F32(bytemuck::cast_slice(bytes.get())),
            Form::Bf16(bytes) => Weight::Bf16(bytemuck::cast_slice(bytes.get())),
            Form::Packed { bits, group, words, scales, bf16_scales, zeros } => Weight::Packed(Packed {
                bits: *bits,
                group: *group,
                words: bytemuck::cast_slice(words.get()),
                scales: match bf16_scales {
                    true => Scales::Bf16(bytemuck::cast_slice(scales.get())),
                    false => Scales::F32(bytemuck::cast_slice(scales.get())),
                },
                zeros: zeros.as_deref(),
            }),
        }
    }

    /// Bytes in this process's own memory, not in a mapped file.
    pub fn bytes_in_memory(&self) -> usize {
        match &self.form {
            Form::F32(bytes) | Form::Bf16(bytes) => bytes.own(),
            Form::Packed { words, scales, zeros, .. } => {
                words.own() + scales.own() + zeros.as_ref().map_or(0, |z| z.len())
            }
        }
    }
}
