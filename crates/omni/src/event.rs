use std::fmt;
use std::path::Path;
use std::time::Duration;

use moe_talker::SpeechStop;
use omni_core::Result;

use crate::wav::WavFile;

/// What a stream hands out, in order: thinking if the model does, text, then sound, then one `Done`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A piece of thinking text, before the answer; cut only at character boundaries.
    Thinking(String),
    /// A piece of the answer's text, cut only at character boundaries.
    Text(String),
    /// A piece of sound, directly after the one before.
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
    /// Length in time.
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

/// Why the text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextStop {
    /// The model closed its turn.
    End,
    /// The limit on tokens was reached.
    Limit,
    /// The model's context is full.
    Context,
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The text, special tokens left out; what stands after the last `</think>` if the model was thinking.
    pub text: String,
    /// What the model thought before it answered.
    pub thinking: Option<String>,
    /// Ids of all that was written, thinking included, without the end token.
    pub token_ids: Vec<u32>,
    /// Why the text ended.
    pub text_stop: TextStop,
    /// What was spoken; `None` if there was nothing to say or no speech was asked for.
    pub speech: Option<Speech>,
    /// Counts.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// The spoken side of an answer.
#[derive(Debug, Clone)]
pub struct Speech {
    /// The whole sound. Only `generate` fills it; a stream has handed it out in pieces and leaves it empty.
    pub audio: Audio,
    /// Codes of each frame, first codebook first.
    pub codes: Vec<Vec<u32>>,
    /// Why the speech ended.
    pub stop: SpeechStop,
}

/// Counts of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer, without the end token.
    pub text_tokens: usize,
    /// Codec frames (80 ms each in the released model).
    pub frames: usize,
    /// Length of the sound.
    pub audio: Duration,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} prompt tokens, {} text tokens", self.prompt_tokens, self.text_tokens)?;
        match self.frames {
            0 => Ok(()),
            frames => write!(f, ", {frames} frames ({:.2} s of speech)", self.audio.as_secs_f64()),
        }
    }
}

/// Where the time went. On a GPU, work is queued and a stage's time is counted where its result is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// From the request to the first piece of text.
    pub first_text: Duration,
    /// From the request to the first piece of sound.
    pub first_audio: Option<Duration>,
    /// The audio and vision encoders.
    pub encoders: Duration,
    /// The thinker: prompt and text.
    pub thinker: Duration,
    /// The talker, without the code predictor.
    pub talker: Duration,
    /// The code predictor.
    pub code_predictor: Duration,
    /// The vocoder.
    pub vocoder: Duration,
    /// From the request to the end.
    pub total: Duration,
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        write!(f, "first text {:.0} ms", ms(self.first_text))?;
        if let Some(first_audio) = self.first_audio {
            write!(f, ", first sound {:.0} ms", ms(first_audio))?;
        }
        if !self.encoders.is_zero() {
            write!(f, "; encoders {:.0} ms", ms(self.encoders))?;
        }
        write!(f, "; thinker {:.0} ms", ms(self.thinker))?;
        if self.first_audio.is_some() {
            let [talker, predictor, vocoder] = [self.talker, self.code_predictor, self.vocoder].map(ms);
            write!(f, ", talker {talker:.0} ms, code predictor {predictor:.0} ms, vocoder {vocoder:.0} ms")?;
        }
        write!(f, "; {:.0} ms in all", ms(self.total))
    }
}
