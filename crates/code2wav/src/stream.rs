use omni_core::Result;

use crate::{Code2Wav, VocoderRun};
use serde::{Deserialize, Serialize};

/// The reference's chunked decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chunking {
    /// Frames per chunk.
    pub frames: usize,
    /// Frames before a chunk that are decoded with it and dropped.
    pub left_context: usize,
}

impl Default for Chunking {
    /// 300 frames, 25 of context: what the reference uses.
    fn default() -> Self {
        Self { frames: 300, left_context: 25 }
    }
}

impl Code2Wav {
    /// Decodes all frames `[F, Q]` at once: `F * samples_per_frame - lookahead` samples.
    ///
    /// # Errors
    /// The errors of [`Code2Wav::forward`].
    pub fn decode(&self, frames: &[Vec<u32>]) -> Result<Vec<f32>> {
        self.forward(vec![VocoderRun { state: &mut self.start(), frames }]).remove(0)
    }

    /// Decodes as the reference's `generate` does: in separate chunks, each with a left context that is dropped.
    ///
    /// Every chunk lacks the lookahead at its end, so sound jumps a little at each boundary. Offered for parity only; a stream of
    /// [`Code2Wav::forward`] has no such boundaries and needs less memory.
    ///
    /// # Shapes
    /// `[F, Q]` → `F * samples_per_frame - chunks * lookahead` samples.
    ///
    /// # Errors
    /// The errors of [`Code2Wav::forward`].
    pub fn decode_chunked(&self, frames: &[Vec<u32>], chunking: Chunking) -> Result<Vec<f32>> {
        if frames.is_empty() {
            return self.decode(frames);
        }
        let mut samples = Vec::new();
        for start in (0..frames.len()).step_by(chunking.frames.max(1)) {
            let context = start.min(chunking.left_context);
            let end = frames.len().min(start + chunking.frames.max(1));
            let chunk = self.decode(&frames[start - context..end])?;
            samples.extend_from_slice(&chunk[context * self.samples_per_frame()..]);
        }
        Ok(samples)
    }
}
