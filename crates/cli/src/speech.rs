//! Where speech goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use qwen3_omni::{Audio, Error, Omni, Result, WavFile};
use weights_tools::commands::note;

#[cfg(feature = "live")]
use crate::live::Speakers;

/// Flags of speech.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Speech")]
pub struct SpeechArguments {
    /// Speak the answer, into this WAV file
    #[arg(long, value_name = "FILE.wav")]
    pub out: Option<PathBuf>,
    /// Speak the answer, through the speakers
    #[cfg(feature = "live")]
    #[arg(long)]
    pub play: bool,
    /// Voice, by name
    #[arg(long, value_name = "NAME")]
    pub speaker: Option<String>,
}

impl SpeechArguments {
    /// Whether anything is to be heard.
    pub fn is_wanted(&self) -> bool {
        self.out.is_some() || self.plays()
    }

    /// Refuses a voice that nobody would hear.
    ///
    /// # Errors
    /// [`Error::Request`] if the answer is not spoken.
    pub fn check(&self) -> Result<()> {
        match &self.speaker {
            Some(name) if !self.is_wanted() => {
                Err(Error::Request(format!("--speaker {name} needs --out: the answer is not spoken")))
            }
            _ => Ok(()),
        }
    }

    fn plays(&self) -> bool {
        #[cfg(feature = "live")]
        return self.play;
        #[cfg(not(feature = "live"))]
        false
    }

    /// Opens what the flags name; `out` stands in for the file's own name.
    ///
    /// # Errors
    /// [`qwen3_omni::Error::Io`] naming a file that cannot be written, [`qwen3_omni::Error::Device`] without speakers.
    pub fn open(&self, omni: &Omni, out: Option<&Path>) -> Result<Speech> {
        let create = |path: &Path| WavFile::create(path, omni.sample_rate()).map(|file| (file, path.to_owned()));
        let file = out.map(create).transpose()?;
        #[cfg(feature = "live")]
        let speakers = self.play.then(Speakers::open).transpose()?;
        Ok(Speech {
            file,
            #[cfg(feature = "live")]
            speakers,
            spoken: Duration::ZERO,
        })
    }
}

/// A file and speakers that take speech as it is made. The file appears under its name when it is whole.
pub struct Speech {
    file: Option<(WavFile, PathBuf)>,
    #[cfg(feature = "live")]
    speakers: Option<Speakers>,
    spoken: Duration,
}

/// What became of speech.
#[derive(Debug, Clone)]
pub struct Spoken {
    /// Duration of the sound.
    pub duration: Duration,
    /// The file it is in.
    pub file: Option<PathBuf>,
}

impl Speech {
    /// Whether nobody hears it.
    pub fn is_silent(&self) -> bool {
        #[cfg(feature = "live")]
        return self.file.is_none() && self.speakers.is_none();
        #[cfg(not(feature = "live"))]
        self.file.is_none()
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// [`qwen3_omni::Error::Io`] naming the file.
    pub fn write(&mut self, audio: &Audio) -> Result<()> {
        self.spoken += audio.duration();
        if let Some((file, _)) = &mut self.file {
            file.write(&audio.samples)?;
        }
        #[cfg(feature = "live")]
        if let Some(speakers) = &self.speakers {
            speakers.queue(audio)?;
        }
        Ok(())
    }

    /// Completes the file, and waits until all was played unless `stopped` says otherwise. `None` if there was no sound.
    ///
    /// # Errors
    /// [`qwen3_omni::Error::Io`] naming the file.
    pub fn finish(self, stopped: &dyn Fn() -> bool) -> Result<Option<Spoken>> {
        #[cfg(feature = "live")]
        if let Some(speakers) = &self.speakers {
            speakers.wait(&mut || stopped());
        }
        #[cfg(not(feature = "live"))]
        let _ = stopped;
        if self.spoken.is_zero() {
            if let Some((_, path)) = self.file {
                note(format_args!("nothing was said, so {} was not written", path.display()));
            }
            return Ok(None);
        }
        let file = self.file.map(|(file, path)| file.finish().map(|()| path)).transpose()?;
        Ok(Some(Spoken { duration: self.spoken, file }))
    }
}
