use checkpoint::{Checkpoint, CheckpointError};
use serde::{Deserialize, Serialize};

/// The file that holds the decoder, beside the checkpoint that holds its encoder.
pub const DECODER_FILE: &str = "aut-decoder.safetensors";

/// Sizes of the text decoder; heads and widths are the encoder's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutDecoderConfig {
    /// Ids of the vocabulary `V`.
    pub vocab_size: usize,
    /// Number of layers.
    pub layers: usize,
}

impl AutDecoderConfig {
    /// Takes the number of layers from the tensors of a decoder's file.
    ///
    /// # Errors
    /// [`CheckpointError::Shard`] naming the file, if it holds no layers of a decoder.
    pub fn of_file(file: &Checkpoint, vocab_size: usize) -> Result<Self, CheckpointError> {
        let layer = |name: &String| name.strip_prefix("decoder.layers.")?.split('.').next()?.parse::<usize>().ok();
        let layers = file.tensors().keys().filter_map(layer).max().map_or(0, |last| last.saturating_add(1));
        // A layer beyond the number of tensors is a damaged name.
        match (1..=file.tensors().len()).contains(&layers) {
            true => Ok(Self { vocab_size, layers }),
            false => {
                let reason = "expected the layers of a text decoder, `decoder.layers.0.…`".into();
                Err(CheckpointError::Shard { path: file.directory().to_owned(), reason, source: None })
            }
        }
    }
}
