//! States of the text decoder: the keys and values of a text, and of the sound that it writes down.

use nn::KvCache;

/// What one text carries from token to token: keys and values of its sound and of its tokens so far. A clone shares them until one
/// of both goes on.
#[derive(Debug, Clone)]
pub struct AutDecoderState {
    pub(super) layers: Vec<LayerState>,
    /// Tokens so far.
    pub(super) tokens: usize,
}

/// Keys and values of one layer.
#[derive(Debug, Clone)]
pub(super) struct LayerState {
    /// Those of the text so far.
    pub(super) text: KvCache,
    /// Those of the sound, which stay as they are.
    pub(super) sound: KvCache,
}

/// New tokens of one text.
#[derive(Debug)]
pub struct AutDecoderRun<'a> {
    /// The text's state.
    pub state: &'a mut AutDecoderState,
    /// One or more new ids.
    pub ids: &'a [u32],
}

impl AutDecoderState {
    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}
