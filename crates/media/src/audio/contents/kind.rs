//! Kinds of sound files, as far as they are treated differently.

use super::matroska::Ending;

/// The kinds of file, as far as they are treated differently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Flac,
    /// Matroska or WebM, with how it ends.
    Matroska(Ending),
    Mp4,
    /// MPEG audio of layer 1, 2 or 3, with whether it states its length.
    Mpeg {
        states_length: bool,
    },
    Ogg,
    Other,
}

/// Message for what is not read here.
pub(crate) const KNOWN: &str = "expected WAV, FLAC, MP3 (or MP1, MP2), OGG, M4A, WebM, Matroska, AIFF, AU or CAF with a codec that is decoded here";
