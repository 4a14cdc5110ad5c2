//! Frames of several runs together are those of each run alone, however many there are.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use qwen3_omni_mtp::{
    Checkpoint, CodePredictor, CodePredictorContract, Dtype, FrameCodes, FrameStart, SamplingOptions, Weights,
};

fn row(width: usize, seed: usize) -> Tensor<3> {
    let values: Vec<f32> = (0..width).map(|at| (at as f32 * 0.37 + seed as f32 * 1.7).sin()).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, width]), &Device::flex())
}

fn numbers(codes: &FrameCodes) -> (Vec<i64>, Vec<f32>) {
    let residual: Tensor<2, Int> = codes.residual.clone();
    (residual.to_data().try_to_vec_as().unwrap(), codes.embeds.to_data().try_to_vec_as().unwrap())
}

#[test]
fn every_run_gets_what_it_gets_alone() {
    let checkpoint = Checkpoint::open(testkit::nano()).unwrap();
    let width = checkpoint.config().talker().unwrap().code_predictor.hidden_size;
    let weights = Weights::new(&checkpoint, &Device::flex(), Dtype::F32);
    let predictor = CodePredictor::load(&weights, checkpoint.config()).unwrap();
    for count in [0, 1, 2, 3, 4, 7, 9] {
        let sampling = |seed| match seed % 2 {
            0 => SamplingOptions { seed, ..SamplingOptions::code_predictor() },
            _ => SamplingOptions::greedy(),
        };
        let mut alone: Vec<_> = (0..count).map(|run| predictor.start(&sampling(run as u64))).collect();
        let mut together = alone.clone();
        for frame in 0..3 {
            let start = |run: usize| [1, 2].map(|part| row(width, 100 * frame + 10 * run + part));
            let starts = together.iter_mut().enumerate().map(|(run, state)| {
                let [hidden, first] = start(run);
                FrameStart { state, hidden, first }
            });
            let codes = predictor.predict_many(starts.collect());
            assert_eq!(codes.len(), count);
            for (run, (state, codes)) in alone.iter_mut().zip(&codes).enumerate() {
                let [hidden, first] = start(run);
                let expected = predictor.predict(state, hidden, first);
                assert_eq!(numbers(codes), numbers(&expected), "run {run} of {count}, frame {frame}");
            }
        }
    }
}
