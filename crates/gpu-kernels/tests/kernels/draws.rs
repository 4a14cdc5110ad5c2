//! Choices: of experts by a router, of ids by a sampler.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use gpu_kernels::{Draw, NEVER, reference};
use proptest::prelude::*;
use qwen3_omni_gpu_kernels as gpu_kernels;
use testkit::noise;

use crate::{agree, cpu, floats, gpu, ids, values};

/// A row of few different weights, so that equal ones lie on boundaries.
fn draw_row(vocabulary: usize, seed: u64, levels: f32) -> Vec<f32> {
    noise(vocabulary, seed).into_iter().map(|x| (x * levels).round() / levels * 3.0).collect()
}

/// The interval of 0..1 that ends in each id, by the plain rule in f64.
fn intervals(row: &[f32], options: &Draw) -> Vec<f64> {
    let scores: Tensor<2> = Tensor::from_data(TensorData::new(row.to_vec(), [1, row.len()]), &cpu());
    let Draw { temperature, top_k, top_p, min_p } = *options;
    let kept = gpu_kernels::top_p(gpu_kernels::top_k(gpu_kernels::soften(scores, temperature), top_k), top_p);
    let kept = values(&gpu_kernels::min_p(kept, min_p));
    let greatest = f64::from(kept.iter().copied().fold(f32::MIN, f32::max));
    let weights: Vec<f64> = kept.iter().map(|x| (f64::from(*x) - greatest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights
        .iter()
        .scan(0.0, |sum, weight| {
            *sum += weight / total;
            Some(*sum)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn routes(rows in 1usize..9, experts in 1usize..300, top_k in 1usize..9, normalise: bool, seed in 0u64..1000) {
        let top_k = top_k.min(experts);
        let logits = |device: &Device| floats([rows, experts], seed, device) * 2.0;
        agree(
            |device| gpu_kernels::route(logits(device), top_k, normalise).0,
            |device| reference::route(logits(device), top_k, normalise).0,
        );
        let found = gpu_kernels::route(logits(&gpu()), top_k, normalise).1;
        prop_assert_eq!(ids(&found), ids(&reference::route(logits(&cpu()), top_k, normalise).1));
    }

    #[test]
    fn draws(
        vocabulary in 1usize..3000,
        top_k in prop_oneof![Just(0usize), 1usize..60],
        top_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.01f32..0.5],
        levels in prop_oneof![Just(4.0f32), Just(1e6)],
        uniform in 0.0f32..1.0,
        seed in 0u64..1000,
    ) {
        let options = Draw { temperature: 0.7, top_k, top_p, min_p };
        let row = draw_row(vocabulary, seed, levels);
        let scores: Tensor<2> = Tensor::from_data(TensorData::new(row.clone(), [1, vocabulary]), &gpu());
        let chosen = gpu_kernels::draw(scores, uniform, &options, None);
        prop_assert_eq!(ids(&chosen.finite), [1]);
        let (id, ends, uniform) = (ids(&chosen.id)[0] as usize, intervals(&row, &options), f64::from(uniform));
        // On a boundary rounding decides.
        let begin = if id == 0 { 0.0 } else { ends[id - 1] };
        prop_assert!(begin - 1e-5 <= uniform && uniform <= ends[id] + 1e-5, "{} is drawn from {}..{}", uniform, begin, ends[id]);
        prop_assert!(ends[id] > begin, "id {} is not kept", id);
    }

    #[test]
    fn greedy_choices(vocabulary in 1usize..3000, seed in 0u64..1000) {
        let row = draw_row(vocabulary, seed, 2.0);
        let best = (0..vocabulary).reduce(|best, at| if row[at] > row[best] { at } else { best }).unwrap();
        let scores: Tensor<2> = Tensor::from_data(TensorData::new(row, [1, vocabulary]), &gpu());
        prop_assert_eq!(ids(&gpu_kernels::greedy(scores, None).id), [best as i64]);
    }
}

#[test]
fn a_vocabulary_of_released_size_is_drawn_from() {
    let vocabulary = 152_064;
    let mut row = draw_row(vocabulary, 5, 1e6);
    row[140_000..].fill(NEVER);
    for (top_k, top_p) in [(50, 0.8), (0, 0.9), (0, 1.0)] {
        let options = Draw { temperature: 1.0, top_k, top_p, min_p: 0.0 };
        let ends = intervals(&row, &options);
        for uniform in [0.0, 0.3, 0.77, 0.999_999] {
            let scores: Tensor<2> = Tensor::from_data(TensorData::new(row.clone(), [1, vocabulary]), &gpu());
            let id = ids(&gpu_kernels::draw(scores, uniform, &options, None).id)[0] as usize;
            let begin = if id == 0 { 0.0 } else { ends[id - 1] };
            let uniform = f64::from(uniform);
            // So many weights are added up in f32.
            assert!(begin - 1e-4 <= uniform && uniform <= ends[id] + 1e-4, "{uniform}: {begin}..{}", ends[id]);
            assert!(ends[id] > begin, "id {id} is not kept");
        }
    }
}

#[test]
fn scores_that_are_not_finite_are_reported() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut row = noise(777, 3);
        row[401] = odd;
        let scores = || Tensor::<2>::from_data(TensorData::new(row.clone(), [1, 777]), &gpu());
        let options = Draw { temperature: 1.0, top_k: 5, top_p: 0.9, min_p: 0.0 };
        for chosen in [gpu_kernels::greedy(scores(), None), gpu_kernels::draw(scores(), 0.5, &options, None)] {
            assert_eq!(ids(&chosen.finite), [0], "{odd}");
            assert!((0..777).contains(&ids(&chosen.id)[0]), "{odd}");
            // Later choices do not forget it.
            let next = || Tensor::<2>::from_data(TensorData::new(noise(50, 4), [1, 50]), &gpu());
            let before = || Some(chosen.finite.clone());
            for later in [gpu_kernels::greedy(next(), before()), gpu_kernels::draw(next(), 0.5, &options, before())] {
                assert_eq!(ids(&later.finite), [0], "after {odd}");
                let fine = Some(Tensor::<1, Int>::ones([1], (&gpu(), DType::I32)));
                assert_eq!(ids(&gpu_kernels::greedy(next(), fine).finite), [1]);
            }
        }
    }
}
