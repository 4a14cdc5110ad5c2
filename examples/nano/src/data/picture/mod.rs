//! Pictures and films, and what is asked of them.

pub mod ask;
pub mod clips;
pub mod film;
pub mod media;
pub mod mp4;
pub mod paint;
pub mod pictures;
pub mod scene;
