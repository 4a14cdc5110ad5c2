//! What is told of a file, in words and in JSON.

use std::fmt;
use std::path::Path;

use qwen3_omni::media::Result;
use serde::Serialize;

/// One file.
#[derive(Debug, Serialize)]
pub struct Entry {
    file: String,
    #[serde(flatten)]
    content: Content,
}

/// What a file holds, or why it cannot be read.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Content {
    Audio(Sound),
    Image(Picture),
    Video(Video),
    Error { error: String },
}

/// Sound at 16 kHz, one channel.
#[derive(Debug, Serialize)]
pub struct Sound {
    pub samples: usize,
    pub seconds: f64,
    pub root_mean_square: f64,
    pub tokens: usize,
}

/// A picture: its own size when upright, and the size it is read at.
#[derive(Debug, Serialize)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub read_width: usize,
    pub read_height: usize,
    pub tokens: usize,
}

/// A video as it is read: the frames taken, how many for each second, and the seconds from one step of the grid to the next.
#[derive(Debug, Serialize)]
pub struct Video {
    pub read_width: usize,
    pub read_height: usize,
    pub frames: usize,
    pub fps: f64,
    pub step: f32,
    /// Those of the frames.
    pub tokens: usize,
    pub sound: Option<Sound>,
}

impl Entry {
    /// An entry for a file that was read, or not.
    pub fn new(file: &Path, content: Result<Content>) -> Self {
        let file = file.display().to_string();
        let content = content.unwrap_or_else(|error| {
            let error = error.to_string();
            Content::Error { error: if error.contains(&file) { error } else { format!("{file}: {error}") } }
        });
        Self { file, content }
    }

    /// Whether the file could not be read.
    pub fn is_error(&self) -> bool {
        matches!(self.content, Content::Error { .. })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Audio(sound) => write!(f, "{}: sound, {sound}", self.file),
            Content::Image(picture) => write!(f, "{}: picture, {picture}", self.file),
            Content::Video(video) => write!(f, "{}: video, {video}", self.file),
            // It names the file.
            Content::Error { error } => write!(f, "error: {error}"),
        }
    }
}

impl fmt::Display for Sound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, seconds, root_mean_square, tokens } = self;
        write!(f, "{seconds:.2} s ({samples} samples), root mean square {root_mean_square:.4}, {tokens} tokens")
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, height, read_width, read_height, tokens } = self;
        write!(f, "{width} × {height}, read as {read_width} × {read_height}, {tokens} tokens")
    }
}

impl fmt::Display for Video {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read_width, read_height, frames, fps, step, tokens, sound } = self;
        write!(
            f,
            "{frames} frames at {fps:.2} a second, read as {read_width} × {read_height}, a step each {step:.2} s, {tokens} tokens"
        )?;
        match sound {
            Some(sound) => write!(f, "; its sound: {sound}"),
            None => write!(f, "; no sound"),
        }
    }
}
