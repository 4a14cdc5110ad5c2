//! Steps of several runs together are those of each run alone.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use qwen3_omni_moe_thinker::{
    Checkpoint, DecoderInput, Dtype, Positions, Stage, Thinker, ThinkerContract, ThinkerState, VisualRows, Weights,
};

fn thinker(limit: Option<usize>) -> Thinker {
    thinker_in(Dtype::F32, limit)
}

fn thinker_in(dtype: Dtype, limit: Option<usize>) -> Thinker {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config = checkpoint.config().clone();
    config.thinker.text.max_position_embeddings = limit.unwrap_or(config.thinker.text.max_position_embeddings);
    Thinker::load(&Weights::new(&checkpoint, &Device::flex(), dtype), &config).unwrap()
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

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
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
                assert_eq!(values(&scores.unwrap().logits), values(&expected.logits), "{count} runs, step {step}");
            }
        }
    }
}

/// A prompt of so many tokens, some of its rows with features for the first layers.
fn prompt(thinker: &Thinker, state: &ThinkerState, tokens: usize, visual: &[i64]) -> DecoderInput {
    let ids: Vec<i64> = (0..tokens as i64).map(|at| 9 + at * 7 % 100).collect();
    let input = input(thinker, state, &ids);
    let width = input.embeds.dims()[2];
    let features = |layer: usize| {
        let values = testkit::noise(visual.len() * width, layer as u64 + 1);
        Tensor::from_data(TensorData::new(values, [visual.len(), width]), &Device::flex())
    };
    let indices = Tensor::from_data(TensorData::new(visual.to_vec(), [visual.len()]), &Device::flex());
    let rows = VisualRows { indices, deepstack: (0..3).map(features).collect() };
    DecoderInput { visual: (!visual.is_empty()).then_some(rows), ..input }
}

#[test]
fn prompts_that_are_read_together_give_what_each_gives_alone() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let thinker = thinker_in(dtype, None);
        // Lengths, rows with features, and whether something was read before.
        let prompts: [(usize, &[i64], bool); 4] =
            [(12, &[], false), (40, &[3, 4, 39], true), (9, &[], true), (33, &[0], false)];
        let mut alone: Vec<ThinkerState> = started(&thinker, 4);
        alone
            .iter_mut()
            .zip(prompts)
            .filter(|(_, (.., goes_on))| !goes_on)
            .for_each(|(state, _)| *state = thinker.start());
        let mut together = alone.clone();
        let inputs: Vec<_> = alone
            .iter()
            .zip(prompts)
            .map(|(state, (tokens, visual, _))| prompt(&thinker, state, tokens, visual))
            .collect();
        let outputs = thinker.step_many(together.iter_mut().zip(inputs.clone()).collect());
        for (((state, after), prompt), output) in alone.iter_mut().zip(&mut together).zip(inputs).zip(outputs) {
            let (output, expected) = (output.unwrap(), thinker.step(state, prompt).unwrap());
            let [scores, tap] = [
                testkit::distance(&values(&expected.logits), &values(&output.logits)).1,
                testkit::distance(&values(&expected.tap.unwrap()), &values(&output.tap.unwrap())).1,
            ];
            // Sums of more rows may be taken in another order.
            assert!(scores < 1e-5 && tap < 1e-5, "{dtype:?}: {scores}, {tap}");
            // The caches hold the same: the next token says so.
            let next = [state, after].map(|state| {
                let token = input(&thinker, state, &[30]);
                values(&thinker.step(state, token).unwrap().logits)
            });
            let error = testkit::distance(&next[0], &next[1]).1;
            assert!(error < 1e-5, "{dtype:?}: {error}");
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
    assert_eq!(values(&scores.pop().unwrap().unwrap().logits), values(&alone.logits));
    let full = [1].map(|run| input(&thinker, &states[run], &[30]));
    assert!(thinker.step_many(states.iter_mut().skip(1).zip(full).collect()).iter().all(Result::is_err));
    assert!(thinker.step_many(Vec::new()).is_empty());
}
