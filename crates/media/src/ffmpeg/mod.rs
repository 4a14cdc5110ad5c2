//! The program `ffmpeg`, where it is installed: what nothing here decodes.

mod input;
mod run;
mod sound;

pub(crate) use input::Input;
pub(crate) use run::{Run, arguments};
pub(crate) use sound::{Interleaved, sound};

use crate::MediaError;

/// Messages about a truncated file, after which ffmpeg nevertheless exits with success.
const CUT_OFF: [&str; 4] = ["prematurely", "partial file", "Truncat", "truncated"];

/// The error where ffmpeg does not start; `why` is the reason why nothing else reads the source.
pub(crate) fn absent(input: &Input, why: &str, error: std::io::Error) -> MediaError {
    if error.kind() != std::io::ErrorKind::NotFound {
        return MediaError::unsupported(&input.origin, format!("{why}; the program `ffmpeg` does not start: {error}"));
    }
    let reason = format!("{why}; other formats need the program `ffmpeg` on PATH, which was not found");
    MediaError::unsupported(&input.origin, reason)
}

/// Whether ffmpeg says that there is no track of the wanted kind.
pub(crate) fn no_such_track(messages: &str) -> bool {
    messages.contains("matches no streams")
}

/// The error that ffmpeg's messages stand for.
pub(crate) fn failed(input: &Input, messages: &str) -> MediaError {
    let name = input.argument().to_string_lossy().into_owned();
    let reason = format!("ffmpeg cannot read it: {}", messages.replace(&name, "the file").trim());
    if messages.contains("no decoder found") || messages.contains("not found for input stream") {
        return MediaError::unsupported(&input.origin, reason);
    }
    MediaError::damaged(&input.origin, reason)
}
