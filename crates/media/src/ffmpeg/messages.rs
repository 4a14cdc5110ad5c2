//! What ffmpeg says, and the errors that it stands for.

use std::io::ErrorKind;

use super::input::Input;
use crate::MediaError;
use crate::reason::Reason;

/// Messages of old versions that do not know one of the options that are tried.
pub(crate) const UNKNOWN_OPTION: [&str; 3] = ["fps_mode", "enc_time_base", "Invalid time base"];

/// Messages about a truncated file, after which ffmpeg nevertheless exits with success.
pub(super) const CUT_OFF: [&str; 4] = ["prematurely", "partial file", "Truncat", "truncated"];

/// Message about a track that is not there.
const NO_TRACK: &str = "matches no streams";

/// Messages about a kind of contents that this `ffmpeg` was built without.
const NO_DECODER: [&str; 2] = ["no decoder found", "not found for input stream"];

/// Message about a format that is not opened, since it may name other files.
const NOT_OPENED: &str = "not on whitelist";

/// Whether a message decides what is done next.
pub(super) fn is_clue(message: &str) -> bool {
    UNKNOWN_OPTION
        .iter()
        .chain(&CUT_OFF)
        .chain(&NO_DECODER)
        .chain([&NO_TRACK, &NOT_OPENED])
        .any(|clue| message.contains(clue))
}

/// The error where ffmpeg does not start; `why` is the reason why nothing else reads the source.
pub(crate) fn absent(input: &Input, why: &str, error: std::io::Error) -> MediaError {
    let reason = match error.kind() {
        ErrorKind::NotFound => "other formats need the program `ffmpeg` on PATH, which was not found".to_owned(),
        _ => format!("the program `ffmpeg` does not start: {error}"),
    };
    not_started(MediaError::unsupported(&input.origin, format!("{why}; {reason}")), error)
}

/// Adds why ffmpeg does not start. A program that is not there is no source: whoever looks for a missing file would take it for theirs.
pub(crate) fn not_started(refused: MediaError, error: std::io::Error) -> MediaError {
    if error.kind() == ErrorKind::NotFound { refused } else { refused.caused_by(error) }
}

/// Whether ffmpeg says that there is no track of the wanted kind.
pub(crate) fn no_such_track(messages: &str) -> bool {
    messages.contains(NO_TRACK)
}

/// Whether ffmpeg says that it was built without what the contents need.
pub(crate) fn no_decoder(messages: &str) -> bool {
    NO_DECODER.iter().any(|clue| messages.contains(clue))
}

/// The error that ffmpeg's messages stand for.
pub(crate) fn failed(input: &Input, messages: impl Into<Reason>) -> MediaError {
    let messages = messages.into();
    let unsupported = no_decoder(messages.text());
    let reason = messages.reworded(|messages| match messages.contains(NOT_OPENED) {
        true => "ffmpeg takes it for no sound, picture or video that stands alone".to_owned(),
        false => {
            let name = input.argument().to_string_lossy().into_owned();
            format!("ffmpeg cannot read it: {}", messages.replace(&name, "the file").trim())
        }
    });
    if unsupported {
        return MediaError::unsupported(&input.origin, reason);
    }
    MediaError::damaged(&input.origin, reason)
}
