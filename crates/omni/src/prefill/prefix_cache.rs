//! What a session keeps from turn to turn, and how much of it a new turn can use.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use moe_talker::TalkerState;
use moe_thinker::ThinkerState;
use omni_core::{Encoded, Positions};

use crate::model::Model;
use crate::prompt::{Feature, Prompt};

/// What the stages of one session's answers take and put back.
#[derive(Clone, Default)]
pub(crate) struct PrefixCache {
    prefixes: Arc<Mutex<Prefixes>>,
}

#[derive(Default)]
struct Prefixes {
    thinker: Option<ThinkerPrefix>,
    talker: Option<TalkerPrefix>,
}

/// The thinker's keys and values, and what they were made of.
pub(crate) struct ThinkerPrefix {
    pub(crate) state: ThinkerState,
    /// One per token that the state holds.
    pub(crate) tokens: Vec<TokenKey>,
    /// `[M, D]`: states of the accepted layer at the media rows among the tokens.
    pub(crate) tap: Option<Tensor<2>>,
}

/// The talker's keys and values of the user part.
pub(crate) struct TalkerPrefix {
    pub(crate) state: TalkerState,
    pub(crate) tokens: Vec<TokenKey>,
}

/// What decides the keys and values of a token, together with the tokens before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenKey {
    id: u32,
    /// What a media row was made from; 0 for text.
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

    /// Bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        let thinker = prefixes.thinker.as_ref().map_or(0, |prefix| prefix.state.bytes());
        thinker + prefixes.talker.as_ref().map_or(0, |prefix| prefix.state.bytes())
    }
}

impl TokenKey {
    /// Tokens with the digests of their contents and their positions.
    pub(crate) fn all(ids: impl IntoIterator<Item = u32>, digests: &[u64], positions: &Positions) -> Vec<Self> {
        let token = |(at, id): (usize, u32)| Self {
            id,
            content: digests[at],
            position: [0, 1, 2].map(|axis| positions.axis(axis)[at].to_bits()),
        };
        ids.into_iter().enumerate().map(token).collect()
    }

    /// A token of text on one position of all axes.
    pub(crate) fn text(id: u32, position: f32) -> Self {
        Self { id, content: 0, position: [position.to_bits(); 3] }
    }
}

/// How many tokens of a new run are those of an old one; one at least is left to be fed.
pub(crate) fn common_prefix(old: &[TokenKey], new: &[TokenKey]) -> usize {
    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    same.min(new.len().saturating_sub(1))
}

/// For each token of the prompt what its row is made from, text being 0.
pub(crate) fn content_digests(model: &Model, prompt: &Prompt) -> Vec<u64> {
    let ids = prompt.layout.ids;
    let audio_rows = |frames: usize| model.config.thinker.audio.tokens(frames);
    let chunk = model.encoders.as_ref().and_then(|encoders| encoders.audio.chunk_frames()).unwrap_or(usize::MAX);
    // A third party's encoder may make any row of any frame.
    let window = model.encoders.as_ref().and_then(|encoders| encoders.audio.window_frames()).unwrap_or(usize::MAX);
    // Chunks are padded to the longest of the call, which shows in items that are all shorter.
    let raw_frames = prompt.audio.iter().filter_map(|item| match item {
        Feature::Raw(mel) => Some(mel.frames()),
        Feature::Encoded(_) => None,
    });
    let longest = raw_frames.max().unwrap_or(0).min(chunk);
    let mut audio = prompt.audio.iter().flat_map(|item| match item {
        Feature::Raw(mel) => {
            let windows = mel.values().chunks(window.saturating_mul(mel.bins()));
            windows
                .flat_map(|frames| vec![digest(frames, [longest, 0, 0]); audio_rows(frames.len() / mel.bins())])
                .collect()
        }
        Feature::Encoded(encoded) => encoded_digests(encoded),
    });
    let merged =
        |grid: [usize; 3]| grid.iter().product::<usize>() / model.config.thinker.vision.spatial_merge_size.pow(2);
    let mut image = prompt.image.iter().flat_map(|item| match item {
        Feature::Raw(patches) => vec![digest(patches.values(), patches.grid()); merged(patches.grid())],
        Feature::Encoded(encoded) => encoded_digests(encoded),
    });
    let mut video = prompt.video.iter().flat_map(|item| match item {
        Feature::Raw(clip) => {
            let grid = clip.patches().grid();
            vec![digest(clip.patches().values(), grid); merged(grid)]
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

/// Rows of somebody else's encoder are known by their numbers.
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
    // 0 stands for text.
    hasher.finish().max(1)
}

/// Contents of rows that depend on all tokens before them, as the states of a layer do.
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
    fn what_is_common_ends_at_the_first_difference_and_leaves_one_token() {
        assert_eq!(common_prefix(&tokens(&[1, 2, 3]), &tokens(&[1, 2, 4, 5])), 2);
        assert_eq!(common_prefix(&tokens(&[1, 2, 3]), &tokens(&[1, 2])), 1);
        assert_eq!(common_prefix(&[], &tokens(&[1])), 0);
        assert_eq!(common_prefix(&tokens(&[1]), &[]), 0);
        // The same id at another place, or with another content, is another token.
        assert_eq!(common_prefix(&[TokenKey::text(1, 0.0)], &[TokenKey::text(1, 1.0), TokenKey::text(1, 2.0)]), 0);
        let media = |content| TokenKey { content, ..TokenKey::text(7, 0.0) };
        assert_eq!(common_prefix(&[media(1)], &[media(2), media(3)]), 0);
    }

    #[test]
    fn states_of_media_are_known_by_all_that_stands_before() {
        let media = TokenKey { content: 5, ..TokenKey::text(7, 1.0) };
        let of = |first: u32| chained_digests(&[TokenKey::text(first, 0.0), media]);
        assert_eq!(of(1), of(1));
        assert_eq!(of(1)[0], 0);
        assert_ne!(of(1)[1], of(2)[1]);
    }
}
