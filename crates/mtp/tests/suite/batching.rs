//! Frames of several runs in one call equal those of each run alone, however many there are, on both engines.

use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni_mtp::{
    Checkpoint, CodePredictor, CodePredictorConfig, Dtype, FrameCodes, FrameRun, FrameStart, Place, SamplingOptions,
    Weights,
};

fn row(width: usize, seed: usize) -> Tensor<2> {
    let values: Vec<f32> = (0..width).map(|at| (at as f32 * 0.37 + seed as f32 * 1.7).sin()).collect();
    Tensor::from_data(TensorData::new(values, [1, width]), &Device::flex())
}

fn predictor(place: &Place) -> (CodePredictor, usize) {
    predictor_of(place, Dtype::F32)
}

fn predictor_of(place: &Place, dtype: Dtype) -> (CodePredictor, usize) {
    let checkpoint = Checkpoint::open(testkit::nano()).unwrap();
    let config: CodePredictorConfig = checkpoint.config().section().unwrap();
    let weights = Weights::new(&checkpoint, place, dtype);
    (CodePredictor::load(&weights, &config).unwrap(), config.hidden_size)
}

fn sampling(seed: u64) -> SamplingOptions {
    match seed % 2 {
        0 => SamplingOptions::code_predictor().seed(seed),
        _ => SamplingOptions::greedy(),
    }
}

#[test]
fn every_run_gets_what_it_gets_alone() {
    for place in [Place::Host(Device::flex()), Place::Device(Device::flex())] {
        let (predictor, width) = predictor(&place);
        for count in [0, 1, 2, 3, 4, 7, 9] {
            let mut alone: Vec<_> = (0..count).map(|run| predictor.start(&sampling(run as u64))).collect();
            let mut batched = alone.clone();
            for frame in 0..3 {
                let start = |run: usize| FrameStart {
                    hidden: row(width, 100 * frame + 10 * run + 1),
                    first: row(width, 100 * frame + 10 * run + 2),
                };
                let starts: Vec<_> = (0..count).map(start).collect();
                let runs = batched.iter_mut().zip(&starts).map(|(state, start)| FrameRun::new(state, start));
                let made: Vec<FrameCodes> =
                    predictor.predict(runs.collect()).unwrap().into_iter().map(Result::unwrap).collect();
                assert_eq!(made.len(), count);
                for (run, ((state, start), codes)) in alone.iter_mut().zip(&starts).zip(made).enumerate() {
                    let expected = predictor.predict(vec![FrameRun::new(state, start)]).unwrap().remove(0).unwrap();
                    assert_eq!(codes.residual, expected.residual, "{place:?}: run {run} of {count}, frame {frame}");
                    let [found, expected] = [codes.embeds, expected.embeds].map(|rows| nn::to_f32_vec(&rows));
                    assert_eq!(found, expected, "{place:?}: run {run} of {count}, frame {frame}");
                }
            }
        }
    }
}

#[test]
fn the_sum_of_embeddings_is_that_of_the_codes_and_another_seed_draws_other_codes() {
    let (predictor, width) = predictor(&Place::Host(Device::flex()));
    let start = FrameStart { hidden: row(width, 1), first: row(width, 2) };
    let draw = |seed| {
        let options = SamplingOptions::code_predictor().seed(seed).temperature(3.0).top_p(1.0);
        let mut state = predictor.start(&options);
        let frames =
            (0..8).map(|_| predictor.predict(vec![FrameRun::new(&mut state, &start)]).unwrap().remove(0).unwrap());
        frames.collect::<Vec<FrameCodes>>()
    };
    let [a, again, b] = [1, 1, 2].map(draw);
    let codes = |frames: &[FrameCodes]| frames.iter().map(|frame| frame.residual.clone()).collect::<Vec<_>>();
    assert_eq!(codes(&a), codes(&again));
    assert_ne!(codes(&a), codes(&b));
    let looked_up = nn::to_f32_vec(&predictor.embed(&a[0].residual).unwrap());
    assert!(testkit::distance(&looked_up, &nn::to_f32_vec(&a[0].embeds)).1 < 1e-6);
}

#[test]
fn the_sums_of_given_frames_are_those_of_frames_that_are_made_in_every_number_type() {
    let codes: Vec<u32> = (1..16).collect();
    for place in [Place::Host(Device::flex()), Place::Device(Device::flex())] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let (predictor, _) = predictor_of(&place, dtype);
            let codes = &codes[..predictor.codebooks() - 1];
            let given = predictor.embed_frames(&[codes.to_vec(), codes.to_vec()]).unwrap();
            let made = nn::to_f32_vec(&predictor.embed(codes).unwrap());
            assert_eq!(nn::to_f32_vec(&given), [made.clone(), made].concat(), "{place:?}, {dtype}");
        }
    }
}

#[test]
fn rows_of_another_width_and_codes_outside_a_table_are_errors() {
    let (predictor, width) = predictor(&Place::Host(Device::flex()));
    let start = FrameStart { hidden: row(width, 1), first: row(width + 8, 2) };
    let mut state = predictor.start(&SamplingOptions::greedy());
    let error = predictor.predict(vec![FrameRun::new(&mut state, &start)]).err().unwrap().to_string();
    assert!(
        error.contains(&format!("[1, {}]", width + 8)) && error.contains(&format!("expected [1, {width}]")),
        "{error}"
    );
    let error = predictor.embed(&vec![0; predictor.codebooks()]).unwrap_err().to_string();
    assert!(error.contains("residual codes, expected 5"), "{error}");
    let error = predictor.embed(&[0, 70_000, 0, 0, 0]).unwrap_err().to_string();
    assert!(error.contains("code 70000 of codebook 2"), "{error}");
}
