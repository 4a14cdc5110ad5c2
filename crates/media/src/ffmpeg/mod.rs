//! The program `ffmpeg`, where it is installed: what nothing here decodes.

mod input;
mod messages;
mod run;
mod sound;

pub(crate) use input::Input;
pub(crate) use messages::{UNKNOWN_OPTION, absent, failed, no_such_track};
#[cfg(feature = "image")]
pub(crate) use messages::{no_decoder, not_started};
pub(crate) use run::{Run, arguments};
pub(crate) use sound::{Interleaved, sound};
