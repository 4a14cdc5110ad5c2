use burn::tensor::Tensor;

use crate::Result;

/// Rows of pictures and video among the tokens of one prefill, with their deepstack features (paper, section 2.2).
#[derive(Debug, Clone)]
pub struct VisualRows {
    /// Indices of these rows among the tokens, in order.
    pub indices: Vec<usize>,
    /// `[rows, D]` each; feature `i` is added to these rows after layer `i`.
    pub deepstack: Vec<Tensor<2>>,
}

/// Turns codec frames into samples; a third party implements it to replace Code2Wav.
pub trait Vocoder: Send + Sync {
    /// Samples per second.
    fn sample_rate(&self) -> u32;

    /// Samples per codec frame.
    fn samples_per_frame(&self) -> usize;

    /// Samples at the end of a frame that are ready only with the next frame.
    fn lookahead(&self) -> usize {
        0
    }

    /// Starts a fresh stream.
    fn start(&self) -> Box<dyn VocoderStream>;
}

/// One stream of a [`Vocoder`], fed in pieces of any size.
pub trait VocoderStream: Send {
    /// Takes new frames, each with one code per codebook, and returns the samples that are finished, between −1 and 1.
    ///
    /// # Errors
    /// [`crate::Error::Request`] for codes outside the table or another number of codebooks; [`crate::Error::Device`] if it fails.
    fn step(&mut self, frames: &[Vec<u32>]) -> Result<Vec<f32>>;

    /// Returns the samples still held back, once the speech has ended.
    ///
    /// # Errors
    /// The errors of [`VocoderStream::step`].
    fn finish(&mut self) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }
}
