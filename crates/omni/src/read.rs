//! The thinker's reading of a prompt: what is known is not read again.

use std::ops::Range;
use std::time::{Duration, Instant};

use burn::tensor::{Tensor, TensorData};
use moe_thinker::{ThinkerState, merge};
use nn::id_row;
use omni_core::{DecoderInput, Result, Stage, Thinker as _};

use crate::encode::{Known, encode};
use crate::memory::{Memory, Token, common};
use crate::omni::Inner;
use crate::processor::Prompt;

/// A prompt that was read.
pub(crate) struct Read {
    pub(crate) state: ThinkerState,
    /// Scores of the token after the last one.
    pub(crate) logits: Tensor<2>,
    pub(crate) delta: f32,
    /// What the session will know the state by; empty without a session.
    pub(crate) tokens: Vec<Token>,
    /// `[1, M, D]`: states of the accepted layer at the rows of media.
    pub(crate) tap: Option<Tensor<3>>,
    /// Tokens that were known.
    pub(crate) known: usize,
    pub(crate) encoders: Duration,
}

/// Reads the first `end` tokens of a prompt, all of its media among them.
pub(crate) fn read(
    model: &Inner,
    prompt: &mut Prompt,
    end: usize,
    memory: Option<(&Memory, &[u64])>,
    with_tap: bool,
) -> Result<Read> {
    let (positions, delta) = prompt.layout.positions(prompt.ids())?;
    let thinker = &model.thinker;
    let (mut state, mut known, mut tokens, mut taps) = (thinker.start(), 0, Vec::new(), Vec::new());
    if let Some((memory, contents)) = memory {
        tokens = Token::all(prompt.ids()[..end].iter().copied(), contents, &positions);
        if let Some(old) = memory.take_thinker() {
            known = common(&old.tokens, &tokens);
            state = old.state;
            state.truncate(known);
            let rows = media_places(prompt, 0..known).len();
            taps.extend(old.tap.filter(|_| rows > 0).map(|tap| tap.narrow(1, 0, rows)));
        }
    }
    let started = Instant::now();
    let ids = prompt.layout.ids;
    let count = |wanted: u32| prompt.ids()[..known].iter().filter(|id| **id == wanted).count();
    let rows = Known { audio: count(ids.audio), image: count(ids.image), video: count(ids.video) };
    let media = encode(model, prompt, rows)?;
    let encoders = started.elapsed();
    let new = &prompt.ids()[known..end];
    let (embeds, visual) = merge(thinker.embed(id_row(new, &model.device)), new, &ids, media)?;
    let positions = positions.slice(known..end);
    let output = thinker.step(&mut state, DecoderInput { embeds, positions, left_padding: Vec::new(), visual })?;
    let places = media_places(prompt, known..end);
    if let Some(tap) = output.tap.filter(|_| (with_tap || memory.is_some()) && !places.is_empty()) {
        let places: Vec<i64> = places.into_iter().map(|place| (place - known) as i64).collect();
        let count = places.len();
        taps.push(tap.clone().select(1, Tensor::from_data(TensorData::new(places, [count]), &tap.device())));
    }
    let tap = (!taps.is_empty()).then(|| Tensor::cat(taps, 1)); // [1, M, D]
    Ok(Read { state, logits: output.logits, delta, tokens, tap, known, encoders })
}

/// Where the prompt has rows of media.
fn media_places(prompt: &Prompt, range: Range<usize>) -> Vec<usize> {
    let ids = prompt.layout.ids;
    let media = [ids.audio, ids.image, ids.video];
    range.filter(|at| media.contains(&prompt.ids()[*at])).collect()
}
