//! Chunked prefill of thinker and talker, and the prefix cache, whose tokens are not computed again.

mod encode;
mod prefix_cache;

use std::ops::Range;
use std::time::{Duration, Instant};

use burn::tensor::{Tensor, TensorData};
use moe_thinker::{Logits, MediaRows, ThinkerInput, ThinkerState, merge};
use omni_core::{Error, Positions, Result};

use encode::{CachedRows, encode};
use prefix_cache::common_prefix;
pub(crate) use prefix_cache::{PrefixCache, TalkerPrefix, ThinkerPrefix, TokenKey, chained_digests, content_digests};

use crate::model::{Encoders, Model, Stopped};
use crate::prompt::Prompt;
use crate::schedule::{Batcher, forward_thinker_batch};

/// A prefilled prompt.
pub(crate) struct Prefilled {
    pub(crate) state: ThinkerState,
    /// Logits of the token after the prompt.
    pub(crate) logits: Logits,
    pub(crate) delta: f32,
    /// Keys of the tokens that the state holds; empty without a prefix cache.
    pub(crate) tokens: Vec<TokenKey>,
    /// `[M, D]`: states of the accepted layer at media rows.
    pub(crate) tap: Option<Tensor<2>>,
    /// Tokens of the prompt that the prefix cache held.
    pub(crate) cached_tokens: usize,
    pub(crate) encoders: Duration,
}

/// A request to prefill the beginning of a prompt.
pub(crate) struct PrefillRequest<'a> {
    /// Number of tokens to prefill, from the first on; all media must be among them.
    pub(crate) end: usize,
    /// Whether a talker will need the states at media rows.
    pub(crate) with_tap: bool,
    /// Called before each chunk; true stops the prefill.
    pub(crate) stopped: Stopped<'a>,
}

/// Tokens per chunk. It bounds the activations of a step, whatever the length of the prompt.
pub(crate) const CHUNK_TOKENS: usize = 512;

/// Prefill in chunks, each batched with those of other answers.
pub(crate) struct ChunkedPrefill<'a, State, Input, Output> {
    pub(crate) batcher: &'a Batcher<(State, Input), (State, Result<Output>)>,
    /// Tokens of a chunk.
    pub(crate) chunk: usize,
    /// Called before each chunk; true stops the prefill.
    pub(crate) stopped: Stopped<'a>,
}

impl<State, Input, Output> ChunkedPrefill<'_, State, Input, Output> {
    /// Prefills a range of rows. `input` makes the input of a chunk, `compute` computes a batch of steps, `took` gets the output of
    /// each chunk.
    ///
    /// # Returns
    /// The state after the last chunk that was computed, with `true` if that was all of the range, `false` if the prefill was
    /// stopped, or the first error.
    ///
    /// # Errors
    /// An error of the batcher, which loses the state.
    pub(crate) fn run(
        &self,
        mut state: State,
        rows: Range<usize>,
        mut input: impl FnMut(Range<usize>) -> Result<Input>,
        compute: impl Fn(Vec<(State, Input)>) -> Vec<(State, Result<Output>)>,
        mut took: impl FnMut(Range<usize>, Output),
    ) -> Result<(State, Result<bool>)> {
        let mut slot = self.batcher.slot();
        for start in rows.clone().step_by(self.chunk) {
            if (self.stopped)() {
                return Ok((state, Ok(false)));
            }
            let range = start..rows.end.min(start.saturating_add(self.chunk));
            let input = match input(range.clone()) {
                Ok(input) => input,
                Err(error) => return Ok((state, Err(error))),
            };
            let output;
            (state, output) = slot.run((state, input), &compute)?;
            match output {
                Ok(output) => took(range, output),
                Err(error) => return Ok((state, Err(error))),
            }
        }
        Ok((state, Ok(true)))
    }
}

/// Encodes the media of a prompt and prefills its beginning; `None` if it was stopped. What was computed until then is stored in the
/// cache.
pub(crate) fn prefill(
    model: &Model,
    prompt: &mut Prompt,
    request: &PrefillRequest,
    cache: Option<(&PrefixCache, &[u64])>,
) -> Result<Option<Prefilled>> {
    prefill_in_chunks(model, prompt, request, cache, CHUNK_TOKENS)
}

fn prefill_in_chunks(
    model: &Model,
    prompt: &mut Prompt,
    request: &PrefillRequest,
    cache: Option<(&PrefixCache, &[u64])>,
    chunk: usize,
) -> Result<Option<Prefilled>> {
    let (positions, delta) = prompt.layout.positions(prompt.ids())?;
    let (partial, cached) = PartialPrefill::new(model, prompt, request, &positions, cache);
    let ids = prompt.layout.ids;
    let count = |kind: u32| prompt.ids()[..cached].iter().filter(|id| **id == kind).count();
    let rows = CachedRows { audio: count(ids.audio), image: count(ids.image), video: count(ids.video) };
    // Custom encoders may compute elsewhere, so they do not wait for a turn.
    let shares_threads = prompt.has_media() && model.encoders.as_ref().is_some_and(Encoders::are_builtin);
    let turn = if shares_threads { model.encoding.enter(request.stopped).map(Some) } else { Some(None) };
    let started = Instant::now();
    let encoded = match turn {
        Some(_turn) => model.compute(|| encode(model, prompt, rows, request.stopped)),
        None => Err(Error::Cancelled),
    };
    let mut media = match encoded {
        Ok(media) => media,
        Err(Error::Cancelled) => {
            partial.store(cache);
            return Ok(None);
        }
        Err(error) => {
            partial.store(cache);
            return Err(error);
        }
    };
    let encoders = started.elapsed();
    let mut logits = None;
    let PartialPrefill { state, tokens, with_tap, mut taps } = partial;
    let chunked = ChunkedPrefill { batcher: &model.batches.thinker_prefill, chunk, stopped: request.stopped };
    let chunk = |range: Range<usize>| {
        let new = &prompt.ids()[range.clone()];
        // Left-over rows, for which the prompt has no token, are refused with the last chunk.
        let rows = if range.end == request.end { std::mem::take(&mut media) } else { media.take(new, &ids) };
        // Only media rows of the tap are used.
        let tap = with_tap && !media_rows(prompt, range.clone()).is_empty();
        model.compute(|| input(model, new, rows, positions.slice(range), tap))
    };
    let compute = |steps| model.compute(|| forward_thinker_batch(&model.thinker, steps));
    let (state, ended) = chunked.run(state, cached..request.end, chunk, compute, |range, output| {
        taps.extend(output.tap.and_then(|tap| select_media_rows(prompt, range, tap)));
        logits = Some(output.logits);
    })?;
    let partial = PartialPrefill { state, tokens, with_tap, taps };
    if !matches!(ended, Ok(true)) {
        partial.store(cache);
        return ended.map(|_| None);
    }
    let logits = logits.ok_or_else(|| Error::Request("the prompt has no token that is not cached".into()))?;
    let (state, tokens, tap) = (partial.state, partial.tokens, concatenate(partial.taps));
    Ok(Some(Prefilled { state, logits, delta, tokens, tap, cached_tokens: cached, encoders }))
}

/// Makes the thinker's input of a chunk of the prompt.
fn input(model: &Model, ids: &[u32], rows: MediaRows, positions: Positions, tap: bool) -> Result<ThinkerInput> {
    let media = moe_thinker::media_ids(&model.config.thinker);
    let (embeds, visual) = merge(model.thinker.embed(ids), ids, &media, rows)?;
    Ok(ThinkerInput { embeds, positions, visual, tap })
}

/// A prefill between chunks: the cached tokens and those computed after them.
struct PartialPrefill {
    state: ThinkerState,
    tokens: Vec<TokenKey>,
    with_tap: bool,
    /// `[n, D]` each: states of the accepted layer at media rows.
    taps: Vec<Tensor<2>>,
}

impl PartialPrefill {
    /// Starts from the cached prefix, whose number of tokens it returns.
    fn new(
        model: &Model,
        prompt: &Prompt,
        request: &PrefillRequest,
        positions: &Positions,
        cache: Option<(&PrefixCache, &[u64])>,
    ) -> (Self, usize) {
        let with_tap = request.with_tap || cache.is_some();
        let mut partial = Self { state: model.thinker.start(), tokens: Vec::new(), with_tap, taps: Vec::new() };
        let Some((cache, content_digests)) = cache else { return (partial, 0) };
        partial.tokens = TokenKey::all(prompt.ids()[..request.end].iter().copied(), content_digests, positions);
        let Some(old) = cache.take_thinker() else { return (partial, 0) };
        let cached = common_prefix(&old.tokens, &partial.tokens);
        partial.state = old.state;
        partial.state.truncate(cached);
        let rows = media_rows(prompt, 0..cached).len();
        partial.taps.extend(old.tap.filter(|_| rows > 0).map(|tap| tap.narrow(0, 0, rows)));
        (partial, cached)
    }

    /// Stores what was computed in the cache.
    fn store(mut self, cache: Option<(&PrefixCache, &[u64])>) {
        let Some((cache, _)) = cache else { return };
        self.tokens.truncate(self.state.tokens());
        cache.put_thinker(ThinkerPrefix { state: self.state, tokens: self.tokens, tap: concatenate(self.taps) });
    }
}

/// Joins the taps of all chunks to `[M, D]`.
fn concatenate(taps: Vec<Tensor<2>>) -> Option<Tensor<2>> {
    (!taps.is_empty()).then(|| Tensor::cat(taps, 0))
}

/// Selects the media rows among the states `[T, D]` of a chunk of the prompt.
fn select_media_rows(prompt: &Prompt, range: Range<usize>, states: Tensor<2>) -> Option<Tensor<2>> {
    let rows = media_rows(prompt, range.clone());
    let rows: Vec<i64> = rows.into_iter().map(|row| (row - range.start) as i64).collect();
    let count = rows.len();
    let device = states.device();
    (count > 0).then(|| states.select(0, Tensor::from_data(TensorData::new(rows, [count]), &device)))
}

/// Lists the indices of the media rows of a prompt.
fn media_rows(prompt: &Prompt, range: Range<usize>) -> Vec<usize> {
    let ids = prompt.layout.ids;
    let media = [ids.audio, ids.image, ids.video];
    range.filter(|at| media.contains(&prompt.ids()[*at])).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{GenerateOptions, ImageInput, Message, Omni};

    const NEVER: Stopped = &|| false;

    fn model() -> Omni {
        Omni::builder(testkit::tiny()).load().unwrap()
    }

    /// A prompt with sound and a picture between words, its media not yet encoded.
    fn prompt(omni: &Omni) -> Prompt {
        let sound = (0..20_000).map(|i| (i as f32 * 0.05).sin() * 0.3).collect::<Vec<_>>();
        let message = Message::user()
            .text("what is said and")
            .audio(crate::AudioInput::samples(sound, 16_000, 1))
            .text("what is seen")
            .image(ImageInput::from(testkit::golden().join("img_a.png")));
        omni.prompt(&[message], &GenerateOptions::default()).unwrap()
    }

    fn whole<'a>(prompt: &Prompt) -> PrefillRequest<'a> {
        PrefillRequest { end: prompt.tokens(), with_tap: true, stopped: NEVER }
    }

    fn difference(a: &Tensor<2>, b: &Tensor<2>) -> f32 {
        (a.clone() - b.clone()).abs().max().into_scalar::<f32>()
    }

    fn score_difference(a: &Logits, b: &Logits) -> f32 {
        a.to_vec().iter().zip(b.to_vec()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_prompt_in_chunks_gives_what_it_gives_in_one() {
        let omni = model();
        let prefill = |chunk: usize| {
            let mut prompt = prompt(&omni);
            let request = whole(&prompt);
            prefill_in_chunks(omni.model(), &mut prompt, &request, None, chunk).unwrap().unwrap()
        };
        let one = prefill(usize::MAX);
        let tokens = one.state.tokens();
        // Boundaries before, in and after the sound and the picture.
        for chunk in [1, 7, 16, tokens - 1, tokens] {
            let chunks = prefill(chunk);
            assert_eq!((chunks.state.tokens(), chunks.delta), (tokens, one.delta));
            // The order of sums differs.
            let logits = score_difference(&chunks.logits, &one.logits);
            let tap = difference(chunks.tap.as_ref().unwrap(), one.tap.as_ref().unwrap());
            assert!(logits < 1e-4 && tap < 1e-4, "chunks of {chunk}: {logits}, {tap}");
        }
    }

    #[test]
    fn a_stop_between_chunks_keeps_what_was_prefilled() {
        let omni = model();
        let model = omni.model();
        let cache = PrefixCache::default();
        let content_digests = content_digests(model, &prompt(&omni));
        let prefill = |request: &PrefillRequest| {
            prefill_in_chunks(model, &mut prompt(&omni), request, Some((&cache, &content_digests)), 10).unwrap()
        };
        let expected = prefill_in_chunks(model, &mut prompt(&omni), &whole(&prompt(&omni)), None, 10).unwrap().unwrap();
        let asked = AtomicUsize::new(0);
        // It is asked for the sound, before each block of the picture's encoder, and before each chunk.
        let third = 1 + omni.config().vision.depth + 3;
        let stopped = || asked.fetch_add(1, Ordering::Relaxed) == third;
        assert!(prefill(&PrefillRequest { stopped: &stopped, ..whole(&prompt(&omni)) }).is_none());
        assert_eq!(asked.into_inner(), third + 1);
        let rest = prefill(&whole(&prompt(&omni))).unwrap();
        assert_eq!((rest.cached_tokens, rest.state.tokens()), (30, expected.state.tokens()));
        assert!(score_difference(&rest.logits, &expected.logits) < 1e-4);
        assert!(difference(&rest.tap.unwrap(), &expected.tap.unwrap()) < 1e-4);
    }
}
