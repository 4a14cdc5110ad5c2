use burn::tensor::Tensor;

use crate::Result;

/// Rows of pictures and video among the tokens of one prefill, and what is added to them (paper, section 2.2; deepstack).
#[derive(Debug, Clone)]
pub struct VisualRows {
    /// Where the rows are among the tokens, in order.
    pub indices: Vec<usize>,
    /// `[rows, D]` each; feature `i` is added to these rows after layer `i`.
    pub deepstack: Vec<Tensor<2>>,
}

/// Codec frames in, samples out: what a vocoder of a third party implements to take Code2Wav's place.
pub trait Vocoder: Send + Sync {
    /// Samples per second.
    fn sample_rate(&self) -> u32;

    /// Samples one frame stands for.
    fn samples_per_frame(&self) -> usize;

    /// Samples of a frame that come only with the next one.
    fn lookahead(&self) -> usize {
        0
    }

    /// A fresh stream.
    fn start(&self) -> Box<dyn VocoderStream>;
}

/// One stream of a [`Vocoder`], fed in pieces of any size.
pub trait VocoderStream: Send {
    /// Takes the codes of some frames, each with one code per codebook, and returns the samples that are finished, between −1 and 1.
    ///
    /// # Errors
    /// [`crate::Error::Request`] for codes outside the table or another number of codebooks; [`crate::Error::Device`] if it fails.
    fn step(&mut self, frames: &[Vec<u32>]) -> Result<Vec<f32>>;

    /// The samples that are held back when the speech has ended.
    ///
    /// # Errors
    /// The errors of [`VocoderStream::step`].
    fn finish(&mut self) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }
}
