//! Prefill and decode are one call: however a prompt is cut, scores and states are those of the whole.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use qwen3_omni_moe_thinker::{
    Checkpoint, DecoderInput, Dtype, Positions, Stage, Thinker, ThinkerContract, ThinkerState, Weights,
};

const PROMPT: [i64; 20] = [957, 273, 198, 39, 72, 958, 198, 957, 271, 198, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];

fn feed(thinker: &Thinker, state: &mut ThinkerState, ids: &[i64]) -> (Tensor<2>, Tensor<3>) {
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, ids.len()]), &Device::flex());
    let tokens = ids.dims()[1];
    let input = DecoderInput::text(thinker.embed(ids), Positions::sequence(state.tokens() as f32, tokens));
    let output = thinker.step(state, input).unwrap();
    (output.logits, output.tap.unwrap())
}

fn assert_close<const D: usize>(a: &Tensor<D>, b: &Tensor<D>, what: &str) {
    let error = (a.clone() - b.clone()).abs().max().into_scalar::<f32>();
    // The reference's own prefill and decode differ by 1e-5.
    assert!(error < 1e-4, "{what}: {error}");
}

#[test]
fn any_cut_of_the_prompt_gives_the_same_scores_and_tap() {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let weights = Weights::new(&checkpoint, &Device::flex(), Dtype::F32);
    let thinker = Thinker::load(&weights, checkpoint.config()).unwrap();
    let (logits, tap) = feed(&thinker, &mut thinker.start(), &PROMPT);
    for cut in [vec![1; 20], vec![7, 13], vec![19, 1], vec![1, 2, 3, 4, 10]] {
        let (mut state, mut at, mut taps, mut last) = (thinker.start(), 0, Vec::new(), None);
        for length in &cut {
            let (logits, tap) = feed(&thinker, &mut state, &PROMPT[at..at + length]);
            (last, at) = (Some(logits), at + length);
            taps.push(tap);
        }
        assert_close(&last.unwrap(), &logits, &format!("scores of {cut:?}"));
        assert_close(&Tensor::cat(taps, 1), &tap, &format!("tap of {cut:?}"));
    }
}

#[test]
fn a_refused_piece_leaves_the_state_as_it_was() {
    let mut checkpoint = Checkpoint::open(testkit::tiny()).unwrap().config().clone();
    checkpoint.thinker.text.max_position_embeddings = 10;
    let opened = Checkpoint::open(testkit::tiny()).unwrap();
    let thinker = Thinker::load(&Weights::new(&opened, &Device::flex(), Dtype::F32), &checkpoint).unwrap();
    let (expected, _) = feed(&thinker, &mut thinker.start(), &PROMPT[..10]);
    let mut state = thinker.start();
    feed(&thinker, &mut state, &PROMPT[..8]);
    let ids = Tensor::<2, Int>::from_data(TensorData::new(PROMPT[8..12].to_vec(), [1, 4]), &Device::flex());
    let input = DecoderInput::text(thinker.embed(ids), Positions::sequence(8.0, 4));
    let message = thinker.step(&mut state, input).unwrap_err().to_string();
    assert!(message.contains("12 tokens") && message.contains("10"), "{message}");
    let (logits, _) = feed(&thinker, &mut state, &PROMPT[8..10]);
    assert_close(&logits, &expected, "scores after a refused piece");
}

#[test]
fn a_truncated_state_goes_on_as_if_the_rest_had_never_been() {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let weights = Weights::new(&checkpoint, &Device::flex(), Dtype::F32);
    let thinker = Thinker::load(&weights, checkpoint.config()).unwrap();
    let (expected, _) = feed(&thinker, &mut thinker.start(), &PROMPT);
    let mut state = thinker.start();
    feed(&thinker, &mut state, &[&PROMPT[..12], &[1, 2, 3]].concat());
    state.truncate(12);
    let (logits, _) = feed(&thinker, &mut state, &PROMPT[12..]);
    assert_close(&logits, &expected, "scores after truncation");
}
