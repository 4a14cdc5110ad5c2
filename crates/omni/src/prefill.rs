//! Reading of prompts, by thinker and talker: in pieces, and what is known is not read again.

use std::ops::Range;
use std::time::{Duration, Instant};

use burn::tensor::{Tensor, TensorData};
use moe_thinker::{Logits, MediaRows, ThinkerInput, ThinkerState, merge};
use omni_core::{Error, Positions, Result};

use crate::batch::Batch;
use crate::encode::{Known, encode};
use crate::memory::{Memory, ThinkerMemory, Token, common};
use crate::omni::Inner;
use crate::processor::Prompt;
use crate::stages;

/// A prompt that was read.
pub(crate) struct Read {
    pub(crate) state: ThinkerState,
    /// Scores of the token after the last one.
    pub(crate) logits: Logits,
    pub(crate) delta: f32,
    /// What the session will know the state by; empty without a session.
    pub(crate) tokens: Vec<Token>,
    /// `[M, D]`: states of the accepted layer at the rows of media.
    pub(crate) tap: Option<Tensor<2>>,
    /// Tokens that were known.
    pub(crate) known: usize,
    pub(crate) encoders: Duration,
}

/// What is to be read of a prompt.
pub(crate) struct Wanted<'a> {
    /// The first so many tokens, all media among them.
    pub(crate) end: usize,
    /// Whether a talker will read the states at media.
    pub(crate) with_tap: bool,
    /// Asked before each piece: true if nothing more is wanted.
    pub(crate) stopped: &'a dyn Fn() -> bool,
}

/// Tokens that thinker and talker take at once: what they compute with does not grow with the prompt.
pub(crate) const PIECE: usize = 512;

/// How prompts are read that other answers' may join.
pub(crate) struct Prefill<'a, State, Input, Output> {
    pub(crate) batch: &'a Batch<(State, Input), (State, Result<Output>)>,
    /// Tokens of a piece.
    pub(crate) piece: usize,
    /// Asked before each piece: true if nothing more is wanted.
    pub(crate) stopped: &'a dyn Fn() -> bool,
}

impl<State, Input, Output> Prefill<'_, State, Input, Output> {
    /// Reads a range of rows onto a state: `input` makes a piece of them, `compute` one step of several answers, `took` gets what a
    /// piece gave.
    ///
    /// # Returns
    /// The state in any case but an error of the batch itself: with what was read until the end, the first error (then the state is
    /// as before that piece), or the stop, which is `false`.
    pub(crate) fn read(
        &self,
        mut state: State,
        rows: Range<usize>,
        mut input: impl FnMut(Range<usize>) -> Result<Input>,
        compute: impl Fn(Vec<(State, Input)>) -> Vec<(State, Result<Output>)>,
        mut took: impl FnMut(Range<usize>, Output),
    ) -> Result<(State, Result<bool>)> {
        let mut seat = self.batch.seat();
        for start in rows.clone().step_by(self.piece) {
            if (self.stopped)() {
                return Ok((state, Ok(false)));
            }
            let range = start..rows.end.min(start.saturating_add(self.piece));
            let input = match input(range.clone()) {
                Ok(input) => input,
                Err(error) => return Ok((state, Err(error))),
            };
            let output;
            (state, output) = seat.run((state, input), &compute)?;
            match output {
                Ok(output) => took(range, output),
                Err(error) => return Ok((state, Err(error))),
            }
        }
        Ok((state, Ok(true)))
    }
}

/// Reads the beginning of a prompt; `None` if it was stopped. What was read until then goes back to the memory.
pub(crate) fn read(
    model: &Inner,
    prompt: &mut Prompt,
    wanted: &Wanted,
    memory: Option<(&Memory, &[u64])>,
) -> Result<Option<Read>> {
    read_in_pieces(model, prompt, wanted, memory, PIECE)
}

fn read_in_pieces(
    model: &Inner,
    prompt: &mut Prompt,
    wanted: &Wanted,
    memory: Option<(&Memory, &[u64])>,
    piece: usize,
) -> Result<Option<Read>> {
    let (positions, delta) = prompt.layout.positions(prompt.ids())?;
    let (begun, known) = Begun::new(model, prompt, wanted, &positions, memory);
    let started = Instant::now();
    let ids = prompt.layout.ids;
    let count = |wanted: u32| prompt.ids()[..known].iter().filter(|id| **id == wanted).count();
    let rows = Known { audio: count(ids.audio), image: count(ids.image), video: count(ids.video) };
    let mut media = match model.compute(|| encode(model, prompt, rows)) {
        Ok(media) => media,
        Err(error) => {
            begun.give_back(memory);
            return Err(error);
        }
    };
    let encoders = started.elapsed();
    let mut logits = None;
    let Begun { state, tokens, with_tap, mut taps } = begun;
    let reading = Prefill { batch: &model.together.prompts, piece, stopped: wanted.stopped };
    let piece = |range: Range<usize>| {
        let new = &prompt.ids()[range.clone()];
        // Rows that no place was found for are refused with the last piece.
        let rows = if range.end == wanted.end { std::mem::take(&mut media) } else { media.take(new, &ids) };
        // Only the rows of media are taken from the tap.
        let tap = with_tap && !media_places(prompt, range.clone()).is_empty();
        model.compute(|| input(model, new, rows, positions.slice(range), tap))
    };
    let compute = |steps| model.compute(|| stages::tokens(&model.thinker, steps));
    let (state, ended) = reading.read(state, known..wanted.end, piece, compute, |range, output| {
        taps.extend(output.tap.and_then(|tap| at_media(prompt, range, tap)));
        logits = Some(output.logits);
    })?;
    let begun = Begun { state, tokens, with_tap, taps };
    if !matches!(ended, Ok(true)) {
        begun.give_back(memory);
        return ended.map(|_| None);
    }
    let logits = logits.ok_or_else(|| Error::Request("the prompt has no token that is not known".into()))?;
    let (state, tokens, tap) = (begun.state, begun.tokens, joined(begun.taps));
    Ok(Some(Read { state, logits, delta, tokens, tap, known, encoders }))
}

/// A piece of the prompt as the thinker takes it.
fn input(model: &Inner, ids: &[u32], rows: MediaRows, positions: Positions, tap: bool) -> Result<ThinkerInput> {
    let media = moe_thinker::media_ids(&model.config.thinker);
    let (embeds, visual) = merge(model.thinker.embed(ids), ids, &media, rows)?;
    Ok(ThinkerInput { embeds, positions, visual, tap })
}

/// What was known of a prompt, and what is read on top.
struct Begun {
    state: ThinkerState,
    tokens: Vec<Token>,
    with_tap: bool,
    /// `[n, D]` each: states of the accepted layer at rows of media.
    taps: Vec<Tensor<2>>,
}

impl Begun {
    /// With what the memory knows, and how many tokens of the prompt that are.
    fn new(
        model: &Inner,
        prompt: &Prompt,
        wanted: &Wanted,
        positions: &Positions,
        memory: Option<(&Memory, &[u64])>,
    ) -> (Self, usize) {
        let with_tap = wanted.with_tap || memory.is_some();
        let mut begun = Self { state: model.thinker.start(), tokens: Vec::new(), with_tap, taps: Vec::new() };
        let Some((memory, contents)) = memory else { return (begun, 0) };
        begun.tokens = Token::all(prompt.ids()[..wanted.end].iter().copied(), contents, positions);
        let Some(old) = memory.take_thinker() else { return (begun, 0) };
        let known = common(&old.tokens, &begun.tokens);
        begun.state = old.state;
        begun.state.truncate(known);
        let rows = media_places(prompt, 0..known).len();
        begun.taps.extend(old.tap.filter(|_| rows > 0).map(|tap| tap.narrow(0, 0, rows)));
        (begun, known)
    }

    fn give_back(mut self, memory: Option<(&Memory, &[u64])>) {
        let Some((memory, _)) = memory else { return };
        self.tokens.truncate(self.state.tokens());
        memory.keep_thinker(ThinkerMemory { state: self.state, tokens: self.tokens, tap: joined(self.taps) });
    }
}

/// `[M, D]` of all pieces.
fn joined(taps: Vec<Tensor<2>>) -> Option<Tensor<2>> {
    (!taps.is_empty()).then(|| Tensor::cat(taps, 0))
}

/// The rows of media among the states `[T, D]` of a piece of the prompt.
fn at_media(prompt: &Prompt, range: Range<usize>, states: Tensor<2>) -> Option<Tensor<2>> {
    let places = media_places(prompt, range.clone());
    let places: Vec<i64> = places.into_iter().map(|place| (place - range.start) as i64).collect();
    let count = places.len();
    let device = states.device();
    (count > 0).then(|| states.select(0, Tensor::from_data(TensorData::new(places, [count]), &device)))
}

/// Where the prompt has rows of media.
fn media_places(prompt: &Prompt, range: Range<usize>) -> Vec<usize> {
    let ids = prompt.layout.ids;
    let media = [ids.audio, ids.image, ids.video];
    range.filter(|at| media.contains(&prompt.ids()[*at])).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::memory::contents;
    use crate::{GenerateOptions, ImageInput, Message, Omni};

    const NEVER: &dyn Fn() -> bool = &|| false;

    /// A model and a prompt with sound and a picture between words, its media not yet encoded.
    fn model() -> Omni {
        Omni::builder(testkit::tiny()).load().unwrap()
    }

    fn prompt(omni: &Omni) -> Prompt {
        let sound = (0..20_000).map(|i| (i as f32 * 0.05).sin() * 0.3).collect::<Vec<_>>();
        let message = Message::user()
            .text("what is said and")
            .audio(crate::AudioInput::samples(sound, 16_000, 1))
            .text("what is seen")
            .image(ImageInput::from(testkit::golden().join("img_a.png")));
        omni.prompt(&[message], &GenerateOptions::default()).unwrap()
    }

    fn whole<'a>(prompt: &Prompt) -> Wanted<'a> {
        Wanted { end: prompt.tokens(), with_tap: true, stopped: NEVER }
    }

    fn difference(a: &Tensor<2>, b: &Tensor<2>) -> f32 {
        (a.clone() - b.clone()).abs().max().into_scalar::<f32>()
    }

    fn score_difference(a: &Logits, b: &Logits) -> f32 {
        a.to_vec().iter().zip(b.to_vec()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_prompt_in_pieces_gives_what_it_gives_in_one() {
        let omni = model();
        let read = |piece: usize| {
            let mut prompt = prompt(&omni);
            let wanted = whole(&prompt);
            read_in_pieces(omni.inner(), &mut prompt, &wanted, None, piece).unwrap().unwrap()
        };
        let one = read(usize::MAX);
        let tokens = one.state.tokens();
        // Cuts before, in and behind the sound and the picture.
        for piece in [1, 7, 16, tokens - 1, tokens] {
            let pieces = read(piece);
            assert_eq!((pieces.state.tokens(), pieces.delta), (tokens, one.delta));
            // Sums of rows are taken in another order.
            let logits = score_difference(&pieces.logits, &one.logits);
            let tap = difference(pieces.tap.as_ref().unwrap(), one.tap.as_ref().unwrap());
            assert!(logits < 1e-4 && tap < 1e-4, "pieces of {piece}: {logits}, {tap}");
        }
    }

    #[test]
    fn a_stop_between_pieces_keeps_what_was_read() {
        let omni = model();
        let model = omni.inner();
        let memory = Memory::default();
        let contents = contents(model, &prompt(&omni));
        let read = |wanted: &Wanted| {
            read_in_pieces(model, &mut prompt(&omni), wanted, Some((&memory, &contents)), 10).unwrap()
        };
        let expected = read_in_pieces(model, &mut prompt(&omni), &whole(&prompt(&omni)), None, 10).unwrap().unwrap();
        let asked = AtomicUsize::new(0);
        let stopped = || asked.fetch_add(1, Ordering::Relaxed) == 3;
        assert!(read(&Wanted { stopped: &stopped, ..whole(&prompt(&omni)) }).is_none());
        assert_eq!(asked.into_inner(), 4);
        let rest = read(&whole(&prompt(&omni))).unwrap();
        assert_eq!((rest.known, rest.state.tokens()), (30, expected.state.tokens()));
        assert!(score_difference(&rest.logits, &expected.logits) < 1e-4);
        assert!(difference(&rest.tap.unwrap(), &expected.tap.unwrap()) < 1e-4);
    }
}
