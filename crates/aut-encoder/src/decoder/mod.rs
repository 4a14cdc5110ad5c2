//! A causal text decoder behind the encoder: what the audio encoder is trained with (paper, section 2.2; its figure 3), and a
//! recogniser of speech.
//!
//! The released model has none, and its form is not published; this one is Whisper's. Its weights lie in a file of their own,
//! [`DECODER_FILE`], beside those of the model.

mod attention;
mod config;
mod layer;
mod model;
mod search;
mod state;

pub use config::{AutDecoderConfig, DECODER_FILE};
pub use model::AutDecoder;
pub use search::SearchOptions;
pub use state::{AutDecoderRun, AutDecoderState};
