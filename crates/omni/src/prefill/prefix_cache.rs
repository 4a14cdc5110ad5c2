//! The prefix cache of a session: keys and values of earlier turns, and how many of them a new turn can use.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use moe_talker::TalkerState;
use moe_thinker::ThinkerState;
use omni_core::{Encoded, Positions};

use crate::model::Model;
use crate::prompt::{Feature, Prompt};

/// The prefix cache of one session. A stage takes its entry and puts it back when it ends.
#[derive(Clone, Default)]
pub(crate) struct PrefixCache {
    prefixes: Arc<Mutex<Prefixes>>,
}

#[derive(Default)]
struct Prefixes {
    thinker: Option<ThinkerPrefix>,
    talker: Option<TalkerPrefix>,
}

/// The thinker's keys and values, with the keys of their tokens.
pub(crate) struct ThinkerPrefix {
    pub(crate) state: ThinkerState,
    /// Keys of the tokens that the state holds.
    pub(crate) tokens: Vec<TokenKey>,
    /// `[M, D]`: states of the accepted layer at the media rows among the tokens.
    pub(crate) tap: Option<Tensor<2>>,
}

/// The talker's keys and values of the user part, with the keys of their tokens.
pub(crate) struct TalkerPrefix {
    pub(crate) state: TalkerState,
    pub(crate) tokens: Vec<TokenKey>,
}

/// The identity of a cached token. Its keys and values depend on this and on the tokens before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenKey {
    id: u32,
    /// Digest of what a media row was made from; 0 for text.
    content: u64,
    /// Bits of the position on each axis.
    position: [u32; 3],
}

impl PrefixCache {
    pub(crate) fn take_thinker(&self) -> Option<ThinkerPrefix> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).thinker.take()
    }

    pub(crate) fn put_thinker(&self, prefix: ThinkerPrefix) {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).thinker = Some(prefix);
    }

    pub(crate) fn take_talker(&self) -> Option<TalkerPrefix> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).talker.take()
    }

    pub(crate) fn put_talker(&self, prefix: TalkerPrefix) {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).talker = Some(prefix);
    }

    pub(crate) fn clear(&self) {
        *self.prefixes.lock().unwrap_or_else(PoisonError::into_inner) = Prefixes::default();
    }

    /// Bytes of all keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        let thinker = prefixes.thinker.as_ref().map_or(0, |prefix| prefix.state.bytes());
        thinker + prefixes.talker.as_ref().map_or(0, |prefix| prefix.state.bytes())
    }
}

impl TokenKey {
    /// Makes the keys of tokens from their ids, the digests of their contents, and their positions.
    pub(crate) fn all(ids: impl IntoIterator<Item = u32>, digests: &[u64], positions: &Positions) -> Vec<Self> {
        let token = |(at, id): (usize, u32)| Self {
            id,
            content: digests[at],
            position: [0, 1, 2].map(|axis| positions.axis(axis)[at].to_bits()),
        };
        ids.into_iter().enumerate().map(token).collect()
    }

    /// Makes the key of a text token, whose position is the same on all axes.
    pub(crate) fn text(id: u32, position: f32) -> Self {
        Self { id, content: 0, position: [position.to_bits(); 3] }
    }
}

/// Counts the tokens of the common prefix, but leaves at least one token of `new` to be computed.
pub(crate) fn common_prefix(old: &[TokenKey], new: &[TokenKey]) -> usize {
    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    same.min(new.len().saturating_sub(1))
}

/// Computes for each token of the prompt the digest of what its row is made from; 0 for text.
pub(crate) fn content_digests(model: &Model, prompt: &Prompt) -> Vec<u64> {
    let ids = prompt.layout.ids;
    let audio_rows = |frames: usize| model.config.audio.tokens(frames);
    let chunk = model.encoders.as_ref().and_then(|encoders| encoders.audio.chunk_frames()).unwrap_or(usize::MAX);
    // With a custom encoder any row may depend on any frame.
    let window = model.encoders.as_ref().and_then(|encoders| encoders.audio.window_frames()).unwrap_or(usize::MAX);
    // Chunks are padded to the longest of the call, which changes the rows of shorter ones.
    let raw_frames = prompt.audio().filter_map(|item| match item {
        Feature::Raw(mel) => Some(mel.frames()),
        Feature::Encoded(_) => None,
    });
    let longest = raw_frames.max().unwrap_or(0).min(chunk);
    let mut audio = prompt.audio().flat_map(|item| match item {
        Feature::Raw(mel) => {
            let windows = mel.values().chunks(window.saturating_mul(mel.bins()));
            windows
                .flat_map(|frames| vec![digest(frames, [longest, 0, 0]); audio_rows(frames.len() / mel.bins())])
                .collect()
        }
        Feature::Encoded(encoded) => encoded_digests(encoded),
    });
    let merged = |grid: [usize; 3]| grid.iter().product::<usize>() / model.config.vision.spatial_merge_size.pow(2);
    let mut image = prompt.images().flat_map(|item| match item {
        Feature::Raw(patches) => vec![digest_colours(patches.colours(), patches.grid()); merged(patches.grid())],
        Feature::Encoded(encoded) => encoded_digests(encoded),
    });
    let mut video = prompt.videos().flat_map(|item| match item {
        Feature::Raw(clip) => {
            let grid = clip.patches().grid();
            vec![digest_colours(clip.patches().colours(), grid); merged(grid)]
        }
        Feature::Encoded(encoded) => encoded_digests(encoded),
    });
    let content = |id: &u32| match *id {
        id if id == ids.audio => audio.next().unwrap_or(0),
        id if id == ids.image => image.next().unwrap_or(0),
        id if id == ids.video => video.next().unwrap_or(0),
        _ => 0,
    };
    prompt.ids().iter().map(content).collect()
}

/// Digests the values of rows of a custom encoder.
fn encoded_digests(encoded: &Encoded) -> Vec<u64> {
    let read = |tensor: &Tensor<2>| tensor.to_data().try_to_vec_as::<f32>().unwrap_or_default();
    let all: Vec<f32> = std::iter::once(&encoded.embeds).chain(&encoded.deepstack).flat_map(read).collect();
    vec![digest(&all, [0; 3]); encoded.embeds.dims()[0]]
}

fn digest(values: &[f32], also: [usize; 3]) -> u64 {
    let mut hasher = DefaultHasher::new();
    also.hash(&mut hasher);
    values.len().hash(&mut hasher);
    values.iter().for_each(|value| hasher.write_u32(value.to_bits()));
    // 0 means text.
    hasher.finish().max(1)
}

/// Computes the digest of colours.
fn digest_colours(colours: &[u8], also: [usize; 3]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (also, colours).hash(&mut hasher);
    // 0 means text.
    hasher.finish().max(1)
}

/// Computes digests for rows that depend on all tokens before them, as the states of a layer do.
pub(crate) fn chained_digests(tokens: &[TokenKey]) -> Vec<u64> {
    let mut hasher = DefaultHasher::new();
    let chain = |token: &TokenKey| {
        (token.id, token.content, token.position).hash(&mut hasher);
        if token.content == 0 { 0 } else { hasher.finish().max(1) }
    };
    tokens.iter().map(chain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Vec<TokenKey> {
        ids.iter().enumerate().map(|(at, id)| TokenKey::text(*id, at as f32)).collect()
    }

    #[test]
    fn the_common_prefix_ends_at_the_first_difference_and_leaves_one_token() {
        assert_eq!(common_prefix(&tokens(&[1, 2, 3]), &tokens(&[1, 2, 4, 5])), 2);
        assert_eq!(common_prefix(&tokens(&[1, 2, 3]), &tokens(&[1, 2])), 1);
        assert_eq!(common_prefix(&[], &tokens(&[1])), 0);
        assert_eq!(common_prefix(&tokens(&[1]), &[]), 0);
        // The same id at another position, or with another content, is another token.
        assert_eq!(common_prefix(&[TokenKey::text(1, 0.0)], &[TokenKey::text(1, 1.0), TokenKey::text(1, 2.0)]), 0);
        let media = |content| TokenKey { content, ..TokenKey::text(7, 0.0) };
        assert_eq!(common_prefix(&[media(1)], &[media(2), media(3)]), 0);
    }

    #[test]
    fn digests_of_states_depend_on_all_tokens_before() {
        let media = TokenKey { content: 5, ..TokenKey::text(7, 1.0) };
        let of = |first: u32| chained_digests(&[TokenKey::text(first, 0.0), media]);
        assert_eq!(of(1), of(1));
        assert_eq!(of(1)[0], 0);
        assert_ne!(of(1)[1], of(2)[1]);
    }
}
