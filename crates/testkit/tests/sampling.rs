//! A GPU draws the ids that host memory draws from the same logits, with every kind of sampling that the model is asked for.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, DeviceKind, Tensor, TensorData};
use nn::sampler::Suppressed;
use nn::{Logits, Sampler};
use omni_core::SamplingOptions;
use qwen3_omni_testkit as testkit;

/// Steps of one run: penalties depend on the ids drawn before.
const STEPS: usize = 50;

/// Logits of about the spread of a model's.
fn row(vocabulary: usize, seed: u64) -> Vec<f32> {
    testkit::noise(vocabulary, seed).into_iter().map(|x| 8.0 * x * x * x).collect()
}

/// Ids of the steps of one run.
fn ids(options: &SamplingOptions, suppressed: &Suppressed, rows: impl Iterator<Item = Logits>) -> Vec<u32> {
    let mut sampler = Sampler::new(options, suppressed.clone());
    let ids = rows.map(|row| sampler.sample(row)).collect();
    sampler.check("the test").unwrap();
    ids
}

/// Draws from that many rows on both sides and returns how many ids differ.
fn differing(options: &SamplingOptions, suppressed: &Suppressed, vocabulary: usize, rows: usize) -> usize {
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let mut differing = 0;
    for run in 0..(rows / STEPS) as u64 {
        let mut options = options.clone();
        options.seed = run;
        let rows: Vec<_> = (0..STEPS as u64).map(|step| row(vocabulary, 1000 * run + step)).collect();
        let here = ids(&options, suppressed, rows.iter().cloned().map(Logits::Host));
        let upload = |row| Logits::Device(Tensor::from_data(TensorData::new(row, [1, vocabulary]), &device));
        let there = ids(&options, suppressed, rows.into_iter().map(upload));
        differing += here.iter().zip(&there).filter(|(here, there)| here != there).count();
    }
    differing
}

#[test]
fn ten_thousand_rows_give_the_ids_of_host_memory() {
    let none = Suppressed::default();
    let controls = Suppressed { ids: 2048..3072, except: Some(2150) };
    let mut whole = SamplingOptions::greedy().sampled();
    whole.temperature = 1.2;
    let mut thinker = whole.clone();
    (thinker.temperature, thinker.top_k, thinker.top_p) = (0.7, 20, 0.8);
    let mut many = thinker.clone();
    (many.min_p, many.presence_penalty, many.frequency_penalty) = (0.05, 0.5, 0.2);
    let found = [
        ("talker", differing(&SamplingOptions::talker(), &controls, 3072, 3000)),
        ("code predictor", differing(&SamplingOptions::code_predictor(), &none, 2048, 3000)),
        ("thinker", differing(&thinker, &none, 2000, 2000)),
        ("with min-p and penalties", differing(&many, &none, 1000, 1000)),
        ("from all ids", differing(&whole, &none, 700, 700)),
        ("greedily", differing(&SamplingOptions::greedy(), &controls, 3072, 200)),
        ("a vocabulary of released size", differing(&thinker, &none, 152_064, 100)),
    ];
    // A number drawn within rounding of a boundary between two ids may fall on either side.
    assert!(found.iter().map(|(_, count)| count).sum::<usize>() <= 1, "ids that differ: {found:?}");
}
