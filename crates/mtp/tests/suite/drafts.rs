//! Drafts change how a frame is computed, not what it is: greedy codes are the same, drawn ones have the same distribution.

use burn::tensor::{Device, Tensor, TensorData};
use nn::to_f32_vec;
use qwen3_omni_mtp::{
    Checkpoint, CodePredictor, CodePredictorConfig, Dtype, FrameCodes, FrameRun, FrameStart, GivenFrames,
    MAX_DRAFT_CODES, Place, PredictorState, SamplingOptions, Weights,
};

fn row(width: usize, seed: u64) -> Tensor<2> {
    Tensor::from_data(TensorData::new(testkit::noise(width, seed), [1, width]), &Device::flex())
}

fn start(width: usize, seed: u64) -> FrameStart {
    FrameStart { hidden: row(width, 2 * seed), first: row(width, 2 * seed + 1) }
}

fn nano(place: &Place) -> (CodePredictor, usize) {
    let checkpoint = Checkpoint::open(testkit::nano()).unwrap();
    let config: CodePredictorConfig = checkpoint.config().section().unwrap();
    (CodePredictor::load(&Weights::new(&checkpoint, place, Dtype::F32), &config).unwrap(), config.hidden_size)
}

fn frame(predictor: &CodePredictor, state: &mut PredictorState, start: &FrameStart) -> FrameCodes {
    predictor.predict(vec![FrameRun::new(state, start)]).unwrap().remove(0).unwrap()
}

#[test]
fn greedy_codes_and_their_embeddings_are_those_without_drafts() {
    for place in [Place::Host(Device::flex()), Place::Device(Device::flex())] {
        let (predictor, width) = nano(&place);
        for drafts in 1..=MAX_DRAFT_CODES {
            let mut plain = predictor.start(&SamplingOptions::greedy());
            let mut drafting = plain.clone().with_drafts(drafts);
            for seed in 0..12 {
                let start = start(width, seed);
                let expected = frame(&predictor, &mut plain, &start);
                let found = frame(&predictor, &mut drafting, &start);
                assert_eq!(found.residual, expected.residual, "{place:?}: {drafts} drafts, frame {seed}");
                assert_eq!(to_f32_vec(&found.embeds), to_f32_vec(&expected.embeds));
            }
            let counts = drafting.draft_counts();
            assert!(0 < counts.accepted && counts.accepted < counts.drafted, "{drafts} drafts: {counts:?}");
            assert_eq!(plain.draft_counts().drafted, 0);
        }
    }
}

#[test]
fn every_run_gets_what_it_gets_alone_whoever_drafts() {
    for place in [Place::Host(Device::flex()), Place::Device(Device::flex())] {
        let (predictor, width) = nano(&place);
        let state = |run: u64| {
            predictor
                .start(&SamplingOptions::code_predictor().seed(run))
                .with_drafts(run as usize % (MAX_DRAFT_CODES + 1))
        };
        let mut alone: Vec<_> = (0..9).map(state).collect();
        let mut batched = alone.clone();
        for at in 0..3 {
            let starts: Vec<_> = (0..9).map(|run| start(width, 100 * at + run)).collect();
            let runs = batched.iter_mut().zip(&starts).map(|(state, start)| FrameRun::new(state, start));
            let made = predictor.predict(runs.collect()).unwrap();
            for (run, ((state, start), codes)) in alone.iter_mut().zip(&starts).zip(made).enumerate() {
                let expected = frame(&predictor, state, start).residual;
                assert_eq!(codes.unwrap().residual, expected, "{place:?}: run {run}, frame {at}");
            }
        }
        let counts = |states: &[PredictorState]| states.iter().map(PredictorState::draft_counts).collect::<Vec<_>>();
        assert_eq!(counts(&batched), counts(&alone));
    }
}

/// A predictor of four residual codebooks of five codes, so that all 625 frames can be listed.
fn small() -> (CodePredictor, CodePredictorConfig) {
    let config: CodePredictorConfig = serde_json::from_value(serde_json::json!({
        "vocab_size": 5, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 16, "intermediate_size": 64, "rms_norm_eps": 1e-6, "num_code_groups": 5, "rope_theta": 1e4,
    }))
    .unwrap();
    let weights = Weights::random(&Place::Host(Device::flex()), Dtype::F32);
    (CodePredictor::load(&weights, &config).unwrap(), config)
}

/// The frame's probability by the chain rule, from logits of given codes: softmax at `temperature` over codes within `min_p`.
fn probabilities(
    predictor: &CodePredictor,
    start: &FrameStart,
    all: &[Vec<u32>],
    options: &SamplingOptions,
) -> Vec<f64> {
    let repeat = |row: &Tensor<2>| row.clone().expand([all.len() as i64, -1]);
    let given = GivenFrames { hidden: repeat(&start.hidden), first: repeat(&start.first), residual: all };
    let logits: Vec<Vec<f32>> = predictor.teacher_forced(&given).unwrap().iter().map(to_f32_vec).collect();
    let of_code = |book: usize, frame: usize| {
        let row = &logits[book][5 * frame..5 * (frame + 1)];
        let scaled = row.iter().map(|logit| f64::from(logit / options.temperature));
        let greatest = scaled.clone().fold(f64::MIN, f64::max);
        let weights = scaled.map(|score| (score - greatest).exp());
        let weights: Vec<f64> = weights.map(|w| if w < f64::from(options.min_p) { 0.0 } else { w }).collect();
        weights[all[frame][book] as usize] / weights.iter().sum::<f64>()
    };
    (0..all.len()).map(|frame| (0..4).map(|book| of_code(book, frame)).product()).collect()
}

/// Pearson's statistic of drawn frames, and its degrees of freedom; frames expected less than five times count as one.
fn chi_square(drawn: &[usize], probabilities: &[f64]) -> (f64, f64) {
    let draws = drawn.iter().sum::<usize>() as f64;
    let (mut rare, mut cells) = ((0.0, 0.0), Vec::new());
    for (count, p) in drawn.iter().zip(probabilities) {
        let (count, expected) = (*count as f64, p * draws);
        assert!(expected > 0.0 || count == 0.0, "an impossible frame was drawn {count} times");
        match expected < 5.0 {
            true => rare = (rare.0 + count, rare.1 + expected),
            false => cells.push((count, expected)),
        }
    }
    cells.extend((rare.1 >= 5.0).then_some(rare));
    let statistic = cells.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum();
    (statistic, cells.len() as f64 - 1.0)
}

#[test]
fn drawn_frames_are_distributed_as_the_chain_rule_says() {
    let (predictor, config) = small();
    let all: Vec<Vec<u32>> = (0..625u32).map(|frame| [125, 25, 5, 1].map(|place| frame / place % 5).to_vec()).collect();
    let start = start(config.hidden_size, 3);
    for min_p in [0.0, 0.1] {
        // Logits of random weights lie close together; at this temperature the codes are far from equally likely.
        let options = SamplingOptions::code_predictor().temperature(0.5).top_k(0).top_p(1.0).min_p(min_p);
        let expected = probabilities(&predictor, &start, &all, &options);
        for drafts in 0..=MAX_DRAFT_CODES {
            let mut state = predictor.start(&options.clone().seed(drafts as u64)).with_drafts(drafts);
            let mut drawn = vec![0; all.len()];
            for _ in 0..4000 {
                let codes = frame(&predictor, &mut state, &start).residual;
                drawn[codes.iter().fold(0, |at, code| 5 * at + *code as usize)] += 1;
            }
            let (statistic, freedom) = chi_square(&drawn, &expected);
            let counts = state.draft_counts();
            // The statistic has this mean, and a standard deviation of √(2 · freedom).
            assert!(
                freedom > 20.0 && statistic < freedom + 5.0 * (2.0 * freedom).sqrt(),
                "{drafts} drafts: {statistic}"
            );
            assert_eq!(drafts > 0, 0 < counts.accepted && counts.accepted < counts.drafted, "{counts:?}");
        }
    }
}
