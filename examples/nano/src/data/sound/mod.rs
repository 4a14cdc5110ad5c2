//! Recordings: voices, what surrounds them, and lines that are heard or spoken.

pub mod captions;
pub mod heard;
pub mod listen;
pub mod resample;
pub mod spoken;
pub mod studio;
pub mod surroundings;
pub mod tone;
pub mod voices;
pub mod wave;
