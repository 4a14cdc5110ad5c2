use std::path::Path;
use std::time::Duration;

use omni_core::Result;

use super::reply::Reply;
use super::wav::WavFile;

/// An event of a stream: thinking text if the model thinks, then text and sound as they are made, then one `Done`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A piece of thinking text, before the answer; split only at character boundaries.
    Thinking(String),
    /// A piece of the answer's text, split only at character boundaries.
    Text(String),
    /// A piece of sound that follows the previous one without a gap.
    Audio(Audio),
    /// The answer is complete.
    Done(Box<Reply>),
}

/// Sound: one channel, between −1 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Audio {
    /// Samples.
    pub samples: Vec<f32>,
    /// Samples per second (24,000).
    pub sample_rate: u32,
}

impl Audio {
    /// Duration of the samples.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.samples.len() as f64 / f64::from(self.sample_rate))
    }

    /// Writes a 16-bit WAV file; an existing file is replaced only when the new one is complete.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] naming the path; nothing half-written is left.
    pub fn save_wav(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut file = WavFile::create(path.as_ref(), self.sample_rate)?;
        file.write(&self.samples)?;
        file.finish()
    }
}
