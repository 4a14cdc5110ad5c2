//! Recognisers of speech: a model, its audio encoder with a text decoder, or any program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use qwen3_omni::{Audio, AudioInput, AutOptions, AutRecogniser, GenerateOptions, Message, Omni};
use tempfile::TempDir;

use crate::error::{Error, Result};

/// Sound that is to be put into words.
#[derive(Debug, Clone)]
pub struct Clip {
    /// Samples of one channel, between −1 and 1.
    pub samples: Arc<[f32]>,
    /// Samples per second.
    pub sample_rate: u32,
    /// A file that holds the same sound, if there is one.
    pub file: Option<PathBuf>,
}

impl Clip {
    /// Duration in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sample_rate.max(1))
    }
}

/// Puts speech into words. Several threads call it at once.
pub trait Recogniser: Sync {
    /// Puts a clip into words.
    ///
    /// # Errors
    /// If the sound cannot be recognised; silence is an empty text.
    fn transcribe(&self, clip: &Clip) -> Result<String>;
}

/// A model that is asked for a transcript.
#[derive(Debug, Clone)]
pub struct ModelRecogniser {
    omni: Omni,
    prompt: String,
    prefix: String,
    options: GenerateOptions,
}

impl ModelRecogniser {
    /// Asks `omni` with `prompt` behind each clip; an empty one asks with the clip alone.
    pub fn new(omni: Omni, prompt: impl Into<String>, options: GenerateOptions) -> Self {
        Self { omni, prompt: prompt.into(), prefix: String::new(), options: options.text_only() }
    }

    /// Sets the words that the model says before each transcript; they are removed from it.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

impl Recogniser for ModelRecogniser {
    fn transcribe(&self, clip: &Clip) -> Result<String> {
        let mut question = Message::user().audio(AudioInput::samples(clip.samples.clone(), clip.sample_rate, 1));
        if !self.prompt.is_empty() {
            question = question.text(&self.prompt);
        }
        let text = self.omni.generate(&[question], &self.options)?.text;
        Ok(text.strip_prefix(&self.prefix).unwrap_or(&text).trim().to_owned())
    }
}

/// An audio encoder with a text decoder.
#[derive(Debug)]
pub struct AutClipRecogniser {
    aut: AutRecogniser,
    options: AutOptions,
}

impl AutClipRecogniser {
    /// Recognises every clip with the same options.
    pub fn new(aut: AutRecogniser, options: AutOptions) -> Self {
        Self { aut, options }
    }
}

impl Recogniser for AutClipRecogniser {
    fn transcribe(&self, clip: &Clip) -> Result<String> {
        let sound = AudioInput::samples(clip.samples.clone(), clip.sample_rate, 1);
        Ok(self.aut.recognise(&sound, &self.options)?)
    }
}

/// A program that prints what it hears.
#[derive(Debug)]
pub struct CommandRecogniser {
    command: String,
    words: Vec<String>,
    folder: TempDir,
}

/// Stands for the sound file in a command.
const WAV: &str = "{wav}";

impl CommandRecogniser {
    /// Makes a recogniser of a command line in which `{wav}` stands for a sound file. Words are told apart as a shell does, but no shell
    /// runs.
    ///
    /// # Errors
    /// [`Error::Recogniser`] for a command without `{wav}`, or with an open quote; [`Error::Io`] without a place for temporary files.
    pub fn new(command: impl Into<String>) -> Result<Self> {
        let command = command.into();
        let refuse = |reason: &str| Error::Recogniser { command: command.clone(), reason: reason.into() };
        let words = shlex::split(&command).ok_or_else(|| refuse("a quote is not closed"))?;
        match words.first() {
            None => return Err(refuse("it is empty")),
            Some(_) if !words.iter().any(|word| word.contains(WAV)) => {
                return Err(refuse("expected {wav} in it, which stands for the sound file"));
            }
            Some(_) => {}
        }
        let folder = TempDir::new().map_err(|source| Error::io(&std::env::temp_dir(), source))?;
        Ok(Self { command, words, folder })
    }

    fn run(&self, wav: &Path) -> Result<String> {
        let wav = wav.to_string_lossy();
        let mut words = self.words.iter().map(|word| word.replace(WAV, &wav));
        let program = words.next().unwrap_or_default();
        let failed = |reason: String| Error::Recogniser { command: self.command.clone(), reason };
        let output = Command::new(program).args(words).stdin(Stdio::null()).output();
        let output = output.map_err(|error| failed(format!("it does not run: {error}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.trim().lines().last().unwrap_or("and said nothing");
            return Err(failed(format!("it ended with {} for {wav}: {last}", output.status)));
        }
        let text = String::from_utf8(output.stdout);
        Ok(text.map_err(|_| failed(format!("what it printed for {wav} is no UTF-8")))?.trim().to_owned())
    }
}

impl Recogniser for CommandRecogniser {
    fn transcribe(&self, clip: &Clip) -> Result<String> {
        if let Some(file) = &clip.file {
            return self.run(file);
        }
        let wav = tempfile::Builder::new().suffix(".wav").tempfile_in(self.folder.path());
        let wav = wav.map_err(|source| Error::io(self.folder.path(), source))?.into_temp_path();
        Audio { samples: clip.samples.to_vec(), sample_rate: clip.sample_rate }.save_wav(&wav)?;
        self.run(&wav)
    }
}
