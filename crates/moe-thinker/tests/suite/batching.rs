//! Several runs in one call get the results that each gets alone, on both engines.

use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni_moe_thinker::{
    Checkpoint, Dtype, Place, Positions, Thinker, ThinkerConfig, ThinkerInput, ThinkerRun, ThinkerState, VisualRows,
    Weights,
};

fn places() -> [Place; 2] {
    [Place::Host(Device::flex()), Place::Device(Device::flex())]
}

fn thinker(place: &Place, dtype: Dtype, most: Option<usize>) -> Thinker {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config: ThinkerConfig = checkpoint.config().section().unwrap();
    config.text.max_position_embeddings = most.unwrap_or(config.text.max_position_embeddings);
    Thinker::load(&Weights::new(&checkpoint, place, dtype), &config, Some(3)).unwrap()
}

fn input(thinker: &Thinker, state: &ThinkerState, ids: &[u32]) -> ThinkerInput {
    let positions = Positions::sequence(state.tokens() as f32, ids.len());
    ThinkerInput { tap: true, ..ThinkerInput::text(thinker.embed(ids), positions) }
}

/// Logits and tap of one run alone.
fn alone(thinker: &Thinker, state: &mut ThinkerState, input: &ThinkerInput) -> (Vec<f32>, Vec<f32>) {
    let output = thinker.forward(vec![ThinkerRun::new(state, input)]).remove(0).unwrap();
    (output.logits.to_vec(), nn::to_f32_vec(&output.tap.unwrap()))
}

/// Runs that have read prompts of different lengths.
fn started(thinker: &Thinker, count: usize) -> Vec<ThinkerState> {
    let start = |run: usize| {
        let mut state = thinker.start();
        let prompt: Vec<u32> = (0..3 + 5 * run as u32).map(|at| 7 + at * (run as u32 + 3)).collect();
        let prompt = input(thinker, &state, &prompt);
        alone(thinker, &mut state, &prompt);
        state
    };
    (0..count).map(start).collect()
}

fn worst(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    testkit::distance(a, b).1
}

#[test]
fn tokens_of_several_runs_are_those_of_each_alone_to_the_bit_in_host_memory() {
    for place in places() {
        let thinker = thinker(&place, Dtype::F32, None);
        for count in 1..=nn::SKINNY_MAX_ROWS {
            let mut apart = started(&thinker, count);
            let mut batched = apart.clone();
            for step in 0..4 {
                let ids: Vec<u32> = (0..count as u32).map(|run| 20 + 11 * step + run).collect();
                let inputs: Vec<_> =
                    batched.iter().zip(&ids).map(|(state, id)| input(&thinker, state, &[*id])).collect();
                let runs = batched.iter_mut().zip(&inputs).map(|(state, input)| ThinkerRun::new(state, input));
                let outputs = thinker.forward(runs.collect());
                for ((state, input), output) in apart.iter_mut().zip(&inputs).zip(outputs) {
                    let (expected, _) = alone(&thinker, state, input);
                    let error = worst(&output.unwrap().logits.to_vec(), &expected);
                    // On a device, GEMMs of several rows may sum in another order.
                    let allowed = if place.is_host() { 0.0 } else { 1e-5 };
                    assert!(error <= allowed, "{place:?}, {count} runs, step {step}: {error}");
                }
            }
        }
    }
}

/// A prompt of some tokens, some of its rows with features for the first layers.
fn prompt(thinker: &Thinker, state: &ThinkerState, tokens: usize, visual: &[usize]) -> ThinkerInput {
    let ids: Vec<u32> = (0..tokens as u32).map(|at| 9 + at * 7 % 100).collect();
    let input = input(thinker, state, &ids);
    let width = input.embeds.dims()[1];
    let features = |layer: usize| {
        let values = testkit::noise(visual.len() * width, layer as u64 + 1);
        Tensor::from_data(TensorData::new(values, [visual.len(), width]), &Device::flex())
    };
    let rows = VisualRows { indices: visual.to_vec(), deepstack: (0..3).map(features).collect() };
    ThinkerInput { visual: (!visual.is_empty()).then_some(rows), ..input }
}

#[test]
fn prompts_that_are_read_together_give_what_each_gives_alone() {
    for (place, dtype) in places().into_iter().flat_map(|place| {
        let dtypes: &[Dtype] = if place.is_host() { &[Dtype::F32, Dtype::Bf16] } else { &[Dtype::F32] };
        dtypes.iter().map(move |dtype| (place.clone(), *dtype))
    }) {
        let thinker = thinker(&place, dtype, None);
        // Lengths, rows with features, and whether something was read before.
        let prompts: [(usize, &[usize], bool); 4] =
            [(12, &[], false), (40, &[3, 4, 39], true), (9, &[], true), (33, &[0], false)];
        let mut apart: Vec<ThinkerState> = started(&thinker, 4);
        let fresh = apart.iter_mut().zip(prompts).filter(|(_, (.., goes_on))| !goes_on);
        fresh.for_each(|(state, _)| *state = thinker.start());
        let mut batched = apart.clone();
        let inputs: Vec<_> = apart
            .iter()
            .zip(prompts)
            .map(|(state, (tokens, visual, _))| prompt(&thinker, state, tokens, visual))
            .collect();
        let runs = batched.iter_mut().zip(&inputs).map(|(state, input)| ThinkerRun::new(state, input));
        let outputs = thinker.forward(runs.collect());
        for (((state, after), input_of_run), output) in apart.iter_mut().zip(&mut batched).zip(&inputs).zip(outputs) {
            let (output, (scores, tap)) = (output.unwrap(), alone(&thinker, state, input_of_run));
            let scores = worst(&scores, &output.logits.to_vec());
            let tap = worst(&tap, &nn::to_f32_vec(&output.tap.unwrap()));
            // Sums of more rows may be taken in another order.
            assert!(scores < 2e-5 && tap < 2e-5, "{place:?} {dtype}: {scores}, {tap}");
            // Equal results for the next token show that the caches are equal.
            let next = [state, after].map(|state| {
                let token = input(&thinker, state, &[30]);
                alone(&thinker, state, &token).0
            });
            let error = worst(&next[0], &next[1]);
            assert!(error < 2e-5, "{place:?} {dtype}: {error}");
        }
    }
}

#[test]
fn a_run_that_is_full_fails_alone() {
    for place in places() {
        let thinker = thinker(&place, Dtype::F32, Some(8));
        // The second prompt fills the context.
        let mut states = started(&thinker, 2);
        let mut expected = states[0].clone();
        let inputs = [0, 1].map(|run| input(&thinker, &states[run], &[30]));
        let runs = states.iter_mut().zip(&inputs).map(|(state, input)| ThinkerRun::new(state, input));
        let mut outputs = thinker.forward(runs.collect());
        let error = outputs.pop().unwrap().unwrap_err().to_string();
        assert!(error.contains("9 tokens") && error.contains('8'), "{error}");
        let (scores, _) = alone(&thinker, &mut expected, &inputs[0]);
        assert_eq!(outputs.pop().unwrap().unwrap().logits.to_vec(), scores);
        assert!(thinker.forward(vec![ThinkerRun::new(&mut states[1], &inputs[1])])[0].is_err());
        assert!(thinker.forward(Vec::new()).is_empty());
    }
}
