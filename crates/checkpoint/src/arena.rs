use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};

/// Bytes requested from the operating system at a time.
const CHUNK: usize = 256 << 20;
/// Size of a huge page.
const HUGE: usize = 2 << 20;
/// Alignment: a cache line, which is more than any number type needs.
const ALIGNMENT: usize = 64;

/// Memory for matrices that cannot stay in a file, in huge pages where the operating system has them: repeated reads of all of it
/// are a good third faster than in pages of 4 KiB.
#[derive(Default)]
pub(crate) struct Arena {
    chunk: Option<Arc<MmapRaw>>,
    used: usize,
}

impl Arena {
    /// Copies the bytes into the arena; `None` if the operating system cannot map memory.
    pub(crate) fn store(&mut self, bytes: &[u8]) -> Option<Stored> {
        let fits = self.chunk.as_ref().filter(|chunk| chunk.len() - self.used >= bytes.len());
        let chunk = match fits {
            Some(chunk) => chunk.clone(),
            None => {
                let chunk =
                    Arc::new(MmapRaw::from(MmapMut::map_anon(bytes.len().next_multiple_of(HUGE).max(CHUNK)).ok()?));
                advise(&chunk);
                self.used = 0;
                self.chunk.insert(chunk).clone()
            }
        };
        let start = self.used;
        // SAFETY: the range lies in the chunk, by the test above, and in no `Stored`: `used` only grows while a chunk is kept.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), chunk.as_mut_ptr().add(start), bytes.len());
        }
        self.used = (start + bytes.len()).next_multiple_of(ALIGNMENT).min(chunk.len());
        Some(Stored { chunk, start, length: bytes.len() })
    }
}

/// Bytes in an [`Arena`], which they may outlive. They are aligned to 64 bytes.
#[derive(Clone)]
pub(crate) struct Stored {
    chunk: Arc<MmapRaw>,
    start: usize,
    length: usize,
}

impl Stored {
    pub(crate) fn get(&self) -> &[u8] {
        // SAFETY: the range was written before this value was made, and nothing writes there again.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.chunk.as_ptr().add(self.start), self.length)
        }
    }
}

/// Asks for huge pages; without them everything works, only slower.
fn advise(chunk: &MmapRaw) {
    #[cfg(target_os = "linux")]
    let _ = chunk.advise(memmap2::Advice::HugePage);
    #[cfg(not(target_os = "linux"))]
    let _ = chunk;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_stays_as_more_is_stored_and_after_the_arena() {
        let mut arena = Arena::default();
        let pieces: Vec<Vec<u8>> = (0..40usize).map(|i| (0..i * 1000).map(|k| (k * 7 + i) as u8).collect()).collect();
        let mut stored: Vec<Stored> = pieces.iter().map(|piece| arena.store(piece).unwrap()).collect();
        stored.push(arena.store(&vec![9; CHUNK + 1]).unwrap());
        drop(arena);
        for (piece, stored) in pieces.iter().zip(&stored) {
            assert_eq!(piece, stored.get());
            assert_eq!(stored.get().as_ptr().align_offset(ALIGNMENT), 0);
        }
        assert!(stored[40].get().iter().all(|byte| *byte == 9) && stored[40].get().len() == CHUNK + 1);
    }
}
