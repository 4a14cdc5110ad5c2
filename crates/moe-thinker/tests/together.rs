//! Steps of several runs together are those of each run alone.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use qwen3_omni_moe_thinker::{
    Checkpoint, DecoderInput, Dtype, Positions, Stage, Thinker, ThinkerContract, ThinkerState, Weights,
};

fn thinker(limit: Option<usize>) -> Thinker {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config = checkpoint.config().clone();
    config.thinker.text.max_position_embeddings = limit.unwrap_or(config.thinker.text.max_position_embeddings);
    Thinker::load(&Weights::new(&checkpoint, &Device::flex(), Dtype::F32), &config).unwrap()
}

fn input(thinker: &Thinker, state: &ThinkerState, ids: &[i64]) -> DecoderInput {
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, ids.len()]), &Device::flex());
    DecoderInput::text(thinker.embed(tokens), Positions::sequence(state.tokens() as f32, ids.len()))
}

/// Runs that have read prompts of different lengths.
fn started(thinker: &Thinker, count: usize) -> Vec<ThinkerState> {
    let start = |run: usize| {
        let mut state = thinker.start();
        let prompt: Vec<i64> = (0..3 + 5 * run as i64).map(|at| 7 + at * (run as i64 + 3)).collect();
        let prompt = input(thinker, &state, &prompt);
        thinker.step(&mut state, prompt).unwrap();
        state
    };
    (0..count).map(start).collect()
}

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.to_data().try_to_vec_as().unwrap()
}

#[test]
fn every_run_gets_what_it_gets_alone() {
    let thinker = thinker(None);
    for count in 1..=nn::RUNS_AT_ONCE {
        let mut alone = started(&thinker, count);
        let mut together = alone.clone();
        for step in 0..4 {
            let ids: Vec<i64> = (0..count as i64).map(|run| 20 + 11 * step + run).collect();
            let runs = together.iter_mut().zip(&ids);
            let steps = runs.map(|(state, id)| {
                let input = input(&thinker, state, &[*id]);
                (state, input)
            });
            let scores = thinker.step_many(steps.collect());
            for ((state, id), scores) in alone.iter_mut().zip(&ids).zip(scores) {
                let input = input(&thinker, state, &[*id]);
                let expected = thinker.step(state, input).unwrap();
                assert_eq!(values(&scores.unwrap()), values(&expected.logits), "{count} runs, step {step}");
            }
        }
    }
}

#[test]
fn a_run_that_is_full_fails_alone() {
    let thinker = thinker(Some(8));
    // The second prompt fills the context.
    let mut states = started(&thinker, 2);
    let mut expected = states[0].clone();
    let inputs = [0, 1].map(|run| input(&thinker, &states[run], &[30]));
    let mut scores = thinker.step_many(states.iter_mut().zip(inputs).collect());
    let error = scores.pop().unwrap().unwrap_err().to_string();
    assert!(error.contains("9 tokens") && error.contains('8'), "{error}");
    let alone = input(&thinker, &expected, &[30]);
    let alone = thinker.step(&mut expected, alone).unwrap();
    assert_eq!(values(&scores.pop().unwrap().unwrap()), values(&alone.logits));
    let full = [1].map(|run| input(&thinker, &states[run], &[30]));
    assert!(thinker.step_many(states.iter_mut().skip(1).zip(full).collect()).iter().all(Result::is_err));
    assert!(thinker.step_many(Vec::new()).is_empty());
}
