//! Films as files, made by `ffmpeg`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::data::sound::studio::run;
use crate::data::sound::surroundings::RATE;
use crate::data::{Result, in_file};

/// Frames a second.
pub const PACE: usize = 2;

/// A film as it was taken.
#[derive(Debug)]
pub struct Take {
    /// Where it goes.
    pub path: PathBuf,
    /// Width and height.
    pub sides: [u32; 2],
    /// The pixels of all frames.
    pub pixels: Vec<u8>,
    /// Its sound, 16 bits at [`RATE`], as long as the frames.
    pub sound: Option<Vec<u8>>,
}

/// Writes MP4 files. One run makes all of them: most of its time would go into starting.
///
/// # Errors
/// Errors of files and of `ffmpeg`.
pub fn encode(takes: &[Take]) -> Result<()> {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-threads", "1"]);
    let mut written = Vec::new();
    let mut input = |path: PathBuf, bytes: &[u8], form: &[&str]| -> Result<usize> {
        fs::write(&path, bytes).map_err(in_file(&path))?;
        ffmpeg.args(form).arg("-i").arg(&path);
        written.push(path);
        Ok(written.len() - 1)
    };
    let mut inputs = Vec::new();
    for Take { path, sides: [width, height], pixels, sound } in takes {
        let (size, pace, rate) = (format!("{width}x{height}"), PACE.to_string(), RATE.to_string());
        let picture = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", &pace];
        let seen = input(path.with_extension("rgb"), pixels, &picture)?;
        let sound_form = ["-f", "s16le", "-ar", &rate, "-ac", "1"];
        let heard = sound.as_ref().map(|sound| input(path.with_extension("s16"), sound, &sound_form)).transpose()?;
        inputs.push((seen, heard));
    }
    for (Take { path, .. }, (seen, heard)) in takes.iter().zip(inputs) {
        ffmpeg.args(["-map", &format!("{seen}:v")]);
        if let Some(heard) = heard {
            ffmpeg.args(["-map", &format!("{heard}:a"), "-c:a", "aac", "-b:a", "64k"]);
        }
        ffmpeg.args(["-c:v", "libx264", "-preset", "veryfast", "-crf", "16", "-pix_fmt", "yuv420p", "-bf", "0"]);
        // One thread and nothing about the program in the file: the same bytes each time.
        ffmpeg.args(["-threads", "1", "-flags", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1"]).arg(path);
    }
    run(&mut ffmpeg, b"")?;
    written.into_iter().try_for_each(|path| fs::remove_file(&path).map_err(in_file(&path)))
}
