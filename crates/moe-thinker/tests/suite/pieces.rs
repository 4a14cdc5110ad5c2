//! Prefill and decode are one call: however a prompt is cut, logits and states are those of the whole, on both engines.

use burn::tensor::{Device, Tensor};
use qwen3_omni_moe_thinker::{
    Checkpoint, Dtype, Place, Positions, Thinker, ThinkerConfig, ThinkerInput, ThinkerOutput, ThinkerRun, ThinkerState,
    Weights,
};

const PROMPT: [u32; 20] = [957, 273, 198, 39, 72, 958, 198, 957, 271, 198, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];

fn thinkers(most: Option<usize>) -> [Thinker; 2] {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config: ThinkerConfig = checkpoint.config().section().unwrap();
    if let Some(most) = most {
        config.text.max_position_embeddings = most;
    }
    [Place::Host(Device::flex()), Place::Device(Device::flex())]
        .map(|place| Thinker::load(&Weights::new(&checkpoint, &place, Dtype::F32), &config, Some(3)).unwrap())
}

fn try_feed(thinker: &Thinker, state: &mut ThinkerState, ids: &[u32]) -> omni_core::Result<ThinkerOutput> {
    let positions = Positions::sequence(state.tokens() as f32, ids.len());
    let input = ThinkerInput { tap: true, ..ThinkerInput::text(thinker.embed(ids), positions) };
    thinker.forward(vec![ThinkerRun::new(state, &input)]).remove(0)
}

fn feed(thinker: &Thinker, state: &mut ThinkerState, ids: &[u32]) -> (Vec<f32>, Tensor<2>) {
    let output = try_feed(thinker, state, ids).unwrap();
    (output.logits.to_vec(), output.tap.unwrap())
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let error = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // The reference's own prefill and decode differ by 1e-5.
    assert!(error < 1e-4, "{what}: {error}");
}

#[test]
fn any_cut_of_the_prompt_gives_the_same_scores_and_tap() {
    for thinker in thinkers(None) {
        let (logits, tap) = feed(&thinker, &mut thinker.start(), &PROMPT);
        for cut in [vec![1; 20], vec![7, 13], vec![19, 1], vec![1, 2, 3, 4, 10]] {
            let (mut state, mut at, mut taps, mut last) = (thinker.start(), 0, Vec::new(), Vec::new());
            for length in &cut {
                let (logits, tap) = feed(&thinker, &mut state, &PROMPT[at..at + length]);
                (last, at) = (logits, at + length);
                taps.extend(nn::to_f32_vec(&tap));
            }
            assert_close(&last, &logits, &format!("scores of {cut:?}"));
            assert_close(&taps, &nn::to_f32_vec(&tap), &format!("tap of {cut:?}"));
        }
    }
}

#[test]
fn a_refused_piece_leaves_the_state_as_it_was() {
    for thinker in thinkers(Some(10)) {
        let (expected, _) = feed(&thinker, &mut thinker.start(), &PROMPT[..10]);
        let mut state = thinker.start();
        feed(&thinker, &mut state, &PROMPT[..8]);
        let message = try_feed(&thinker, &mut state, &PROMPT[8..12]).unwrap_err().to_string();
        assert!(message.contains("12 tokens") && message.contains("10"), "{message}");
        let (logits, _) = feed(&thinker, &mut state, &PROMPT[8..10]);
        assert_close(&logits, &expected, "scores after a refused piece");
    }
}

#[test]
fn a_truncated_state_goes_on_as_if_the_rest_had_never_been() {
    for thinker in thinkers(None) {
        let (expected, _) = feed(&thinker, &mut thinker.start(), &PROMPT);
        let mut state = thinker.start();
        feed(&thinker, &mut state, &[&PROMPT[..12], &[1, 2, 3]].concat());
        state.truncate(12);
        let (logits, _) = feed(&thinker, &mut state, &PROMPT[12..]);
        assert_close(&logits, &expected, "scores after truncation");
    }
}
