use std::path::Path;

use qwen3_omni::AudioInput;
use qwen3_omni::media::audio::read_at;
use serde_json::{Map, Value};

use super::fields::Fields;
use super::line::{SpeechTarget, speech};
use super::location::Location;
use crate::Result;

/// A line of which only the recordings are of interest: a conversation with spoken answers, or an object with `speech` alone.
#[derive(Debug, Clone)]
pub struct RecordingLine {
    /// The last answer, spoken.
    pub speech: Option<SpeechTarget>,
    /// A worse way to speak it.
    pub rejected_speech: Option<SpeechTarget>,
    /// The line as it is written.
    pub written: Map<String, Value>,
    /// The place of the line.
    pub location: Location,
}

impl RecordingLine {
    /// Understands one line. No file is opened.
    ///
    /// # Errors
    /// [`crate::Error::Data`] naming file, line and what was expected.
    pub fn parse(json: &str, location: &Location) -> Result<Self> {
        let written = Fields::parse(json, location)?.rest();
        let mut fields = Fields::parse(json, location)?;
        Ok(Self {
            speech: speech(&mut fields, "speech", "codes")?,
            rejected_speech: speech(&mut fields, "rejected_speech", "rejected_codes")?,
            written,
            location: location.clone(),
        })
    }
}

/// Decodes a recording of a line to one channel at `rate` samples per second.
///
/// # Errors
/// [`crate::Error::Data`] naming the line and the file.
pub fn read_recording(path: &Path, rate: u32, location: &Location) -> Result<Vec<f32>> {
    read_at(&AudioInput::from(path), rate).map_err(|error| location.refuse(error.to_string()))
}
