//! However the samples are split, and whoever is encoded beside, the frames are those of the whole; on both engines.

use crate::golden::{CASES, Golden, MODELS, load, places};
use proptest::prelude::*;
use qwen3_omni_mimi_encoder::{MimiEncoder, MimiRun, MimiState};

/// Encodes in pieces of the given lengths, then the rest, then ends the stream.
fn stream(encoder: &MimiEncoder, state: &mut MimiState, samples: &[f32], pieces: &[usize]) -> Vec<Vec<u32>> {
    let (mut frames, mut rest) = (Vec::new(), samples);
    for piece in pieces {
        let (these, others) = rest.split_at((*piece).min(rest.len()));
        frames.extend(encoder.encode_step(state, these).unwrap());
        rest = others;
    }
    frames.extend(encoder.encode_step(state, rest).unwrap());
    let complete = samples.len() / encoder.samples_per_frame();
    assert_eq!(frames.len(), complete, "frames before the end");
    frames.extend(encoder.finish(state).unwrap());
    frames
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_frames_of_the_whole(
        variant: bool, device: bool, case in 0..CASES.len(), pieces in prop::collection::vec(0..160usize, 0..40),
    ) {
        let model = MODELS[usize::from(variant)];
        let (encoder, golden) = (load(model, &places()[usize::from(device)]), Golden::open(model, CASES[case]));
        let mut state = encoder.start();
        // The second time with the state that the first one ended with.
        for _ in 0..2 {
            prop_assert_eq!(stream(&encoder, &mut state, &golden.samples(), &pieces), golden.codes());
        }
    }

    #[test]
    fn streams_beside_each_other_give_the_frames_of_each_alone(
        variant: bool, device: bool, sizes in prop::collection::vec(0..700usize, CASES.len()),
    ) {
        let model = MODELS[usize::from(variant)];
        let encoder = load(model, &places()[usize::from(device)]);
        let golden = CASES.map(|case| Golden::open(model, case));
        let samples = golden.each_ref().map(Golden::samples);
        let mut states = CASES.map(|_| encoder.start());
        let mut frames = CASES.map(|_| Vec::new());
        let size = |index: usize| sizes[index].max(100);
        let steps = (0..CASES.len()).map(|index| samples[index].len().div_ceil(size(index)) + 1).max().unwrap_or(0);
        for step in 0..steps {
            let runs = states.iter_mut().zip(&samples).enumerate().map(|(index, (state, samples))| {
                let at = |step: usize| (step * size(index)).min(samples.len());
                MimiRun { state, samples: &samples[at(step)..at(step + 1)], last: step + 1 == steps }
            });
            let new = encoder.forward(runs.collect());
            frames.iter_mut().zip(new).for_each(|(frames, new)| frames.extend(new.unwrap()));
        }
        prop_assert_eq!(frames, golden.map(|golden| golden.codes()));
    }
}

#[test]
fn one_sample_at_a_time() {
    for (model, place) in MODELS.into_iter().flat_map(|model| places().map(|place| (model, place))) {
        let (encoder, golden) = (load(model, &place), Golden::open(model, "odd"));
        let samples = golden.samples();
        let found = stream(&encoder, &mut encoder.start(), &samples, &vec![1; samples.len()]);
        assert_eq!(found, golden.codes());
    }
}

#[test]
fn nothing_is_no_frame() {
    for place in places() {
        let encoder = load("tiny", &place);
        assert_eq!(encoder.encode(&[]).unwrap(), Vec::<Vec<u32>>::new());
        assert!(encoder.forward(Vec::new()).is_empty());
        let mut state = encoder.start();
        assert!(encoder.encode_step(&mut state, &[]).unwrap().is_empty());
        assert!(encoder.finish(&mut state).unwrap().is_empty());
    }
}
