//! Recordings, decoded.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use qwen3_omni::AudioInput;
use qwen3_omni::media::audio::read_at;

use crate::error::{Error, Result};
use crate::item::Sound;
use crate::recogniser::Clip;

/// Decodes recordings, and caches the last one that segments were cut from: the segments of a long recording follow each other.
#[derive(Debug)]
pub(super) struct Sounds {
    sample_rate: u32,
    last: Mutex<Option<(PathBuf, Arc<[f32]>)>>,
}

impl Sounds {
    /// Decodes to `sample_rate` samples per second.
    pub(super) fn at(sample_rate: u32) -> Self {
        Self { sample_rate, last: Mutex::default() }
    }

    /// Decodes a recording, or a part of one.
    pub(super) fn clip(&self, sound: &Sound) -> Result<Clip> {
        let Some((begin, end)) = sound.span else {
            let samples = self.decode(&sound.file)?;
            return Ok(Clip { samples, sample_rate: self.sample_rate, file: Some(sound.file.clone()) });
        };
        let whole = self.whole(&sound.file)?;
        let at = |seconds: f64| (seconds * f64::from(self.sample_rate)).round() as usize;
        let part = whole.get(at(begin)..at(end).min(whole.len())).filter(|part| !part.is_empty());
        let seconds = whole.len() as f64 / f64::from(self.sample_rate);
        let outside =
            || Error::data(&sound.file, None, format!("it has {seconds:.2} s, but {begin} to {end} s are asked"));
        Ok(Clip { samples: part.ok_or_else(outside)?.into(), sample_rate: self.sample_rate, file: None })
    }

    fn whole(&self, file: &Path) -> Result<Arc<[f32]>> {
        // Held while a file is decoded, so that it is decoded once.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, samples)) = last.as_ref().filter(|(path, _)| path == file) {
            return Ok(samples.clone());
        }
        let samples = self.decode(file)?;
        *last = Some((file.to_owned(), samples.clone()));
        Ok(samples)
    }

    fn decode(&self, file: &Path) -> Result<Arc<[f32]>> {
        Ok(read_at(&AudioInput::from(file), self.sample_rate)?.into())
    }
}
