//! Speech to text without the thinker: the audio encoder with a text decoder behind it, as the training program makes it.

mod prompt;

use std::path::Path;

use aut_encoder::{AutDecoder, AutEncoder, SearchOptions};
use burn::tensor::{Tensor, TensorData};
use checkpoint::Checkpoint;
use media::audio::{AudioInput, Mel, log_mel_at_least};
use omni_core::{Dtype, Result};

pub use prompt::{AutPrompt, AutTask};

use crate::{Device, OmniConfig, Tokenizer};

/// Attention window of the audio encoder, in seconds.
const WINDOW: usize = 8;

/// Recognises speech with an audio encoder and its text decoder (AuT). Several threads may use it at once.
///
/// ```no_run
/// use qwen3_omni::{AudioInput, AutOptions, AutRecogniser, Device};
///
/// # fn main() -> qwen3_omni::Result<()> {
/// let recogniser = AutRecogniser::open("run/step-001000", &Device::cpu(), None)?;
/// println!("{}", recogniser.recognise(&AudioInput::from("q.wav"), &AutOptions::default())?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AutRecogniser {
    encoder: AutEncoder,
    decoder: AutDecoder,
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
}

/// How a sound is recognised. Each field has a setter of its name.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
#[non_exhaustive]
pub struct AutOptions {
    /// What is asked; to transcribe English by default.
    pub prompt: AutPrompt,
    /// Texts that are pursued at once; 1 takes the likeliest token each time.
    pub beam: usize,
    /// Texts are compared by their log-probability divided by this power of their length.
    pub length_penalty: f64,
}

impl Default for AutOptions {
    fn default() -> Self {
        Self { prompt: AutPrompt::default(), beam: 4, length_penalty: 1.0 }
    }
}

omni_core::setters! { AutOptions {
    prompt: AutPrompt,
    beam: usize,
    length_penalty: f64,
} }

impl AutRecogniser {
    /// Loads the audio encoder of a checkpoint directory, and the text decoder that lies there as `aut-decoder.safetensors`. `dtype` is
    /// the number type of the computation, by default the device's.
    ///
    /// # Errors
    /// [`omni_core::Error::Device`], and errors that name the file that is missing, damaged or does not fit the others.
    pub fn open(directory: impl AsRef<Path>, device: &Device, dtype: impl Into<Option<Dtype>>) -> Result<Self> {
        let directory = directory.as_ref();
        let checkpoint = Checkpoint::open(directory)?;
        let config = OmniConfig::of(checkpoint.config())?;
        let dtype = dtype.into().unwrap_or_else(|| device.dtype_for(config.top.dtype.as_deref()));
        // Before the weights, which take longest.
        let tokenizer = Tokenizer::from_directory(directory)?;
        let place = device.place(dtype)?;
        Ok(Self {
            encoder: AutEncoder::from_checkpoint(&checkpoint, &place, dtype)?.with_window(WINDOW)?,
            decoder: AutDecoder::from_checkpoint(&checkpoint, config.thinker.text.vocab_size, &place, dtype)?,
            tokenizer,
            start: config.turns.im_start,
            end: config.top.im_end_token_id,
        })
    }

    /// Puts a sound into words; silence may be an empty text. A text has at most 1.5 tokens for each of the encoder's rows (80 ms), and
    /// 16 more. The whole sound is held in memory.
    ///
    /// # Errors
    /// [`omni_core::Error::Media`] for a sound that cannot be read, [`omni_core::Error::Request`] for invalid options, [`omni_core::Error::NotFinite`].
    pub fn recognise(&self, sound: &AudioInput, options: &AutOptions) -> Result<String> {
        let prompt = options.prompt.ids(&self.tokenizer, self.start)?;
        let (beam, length_penalty) = (options.beam, options.length_penalty);
        let mut search = SearchOptions { beam, most_tokens: 0, end: self.end, length_penalty };
        // Before the sound is read.
        search.check()?;
        let mel = recognition_mel(sound, self.encoder.chunk_frames())?;
        let shape = [mel.frames(), mel.bins()];
        let device = self.encoder.device();
        let rows = Tensor::from_data(TensorData::new(mel.into_values(), shape), &device);
        let rows = self.encoder.hidden_states(&[rows], None)?; // [N, D]
        search.most_tokens = rows.dims()[0] * 3 / 2 + 16;
        let ids = self.decoder.search(&rows, &prompt, &search)?;
        Ok(self.tokenizer.decode(&ids, true).trim().to_owned())
    }
}

/// Makes the log-mel frames that a recogniser is trained on and reads. Sound shorter than a chunk of the encoder is padded with silence,
/// so that other sounds of the same call do not change its rows; frames are taken as they are.
///
/// # Errors
/// [`omni_core::Error::Media`] for a sound that cannot be read, or is too short for one frame.
pub fn recognition_mel(sound: &AudioInput, chunk_frames: usize) -> Result<Mel> {
    log_mel_at_least(sound, chunk_frames).map_err(|error| error.in_part("sound"))
}
