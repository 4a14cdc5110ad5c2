//! However the frames are split, the stream's samples are the whole decode's.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use omni_core::{CodeFrames, Dtype, Stage};
use qwen3_omni_code2wav::{Checkpoint, Code2Wav, Component, VocoderState, Weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn vocoder(directory: std::path::PathBuf) -> (Code2Wav, usize) {
    let checkpoint = Checkpoint::open(directory).unwrap();
    checkpoint.check(&[Component::Code2Wav]).unwrap();
    let weights = Weights::new(&checkpoint, &Device::flex(), Dtype::F32);
    (Code2Wav::load(&weights, checkpoint.config()).unwrap(), checkpoint.config().code2wav().unwrap().num_quantizers)
}

fn codes(vocoder: &Code2Wav, codebooks: usize, frames: usize, seed: u64) -> Tensor<3, Int> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<i64> =
        (0..codebooks * frames).map(|_| random.random_range(0..vocoder.codebook_size() as i64)).collect();
    Tensor::from_data(TensorData::new(values, [1, codebooks, frames]), &Device::flex())
}

fn step(vocoder: &Code2Wav, state: &mut VocoderState, codes: Tensor<3, Int>) -> Vec<f32> {
    vocoder.step(state, CodeFrames { codes }).unwrap().samples.into_data().try_to_vec_as().unwrap()
}

fn stream(vocoder: &Code2Wav, codes: &Tensor<3, Int>, splits: impl Iterator<Item = usize>) -> Vec<f32> {
    let (mut state, mut samples, mut at) = (vocoder.start(), Vec::new(), 0);
    let frames = codes.dims()[2];
    for length in splits {
        let length = length.min(frames - at);
        if length == 0 {
            break;
        }
        samples.extend(step(vocoder, &mut state, codes.clone().narrow(2, at, length)));
        at += length;
    }
    assert_eq!((at, state.frames()), (frames, frames));
    samples
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of samples");
    let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    // Sums of another block size differ in the last bits; nothing else may.
    assert!(error < 1e-5, "{what}: {error}");
}

#[test]
fn any_split_gives_the_whole_decode() {
    for directory in [testkit::tiny(), testkit::nano()] {
        let (vocoder, codebooks) = vocoder(directory);
        let frames = 60;
        let codes = codes(&vocoder, codebooks, frames, 1);
        let whole: Vec<f32> = vocoder.decode(codes.clone()).into_data().try_to_vec_as().unwrap();
        assert_eq!(whole.len(), frames * vocoder.samples_per_frame() - vocoder.lookahead());
        assert!(whole.iter().any(|sample| sample.abs() > 1e-3), "silence proves nothing");
        for split in [1, 2, 3, 7, 25] {
            let streamed = stream(&vocoder, &codes, std::iter::repeat(split));
            assert_close(&streamed, &whole, &format!("pieces of {split}"));
        }
        for seed in 0..3 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let streamed = stream(&vocoder, &codes, std::iter::from_fn(move || Some(random.random_range(1..20))));
            assert_close(&streamed, &whole, &format!("random pieces {seed}"));
        }
    }
}

#[test]
fn two_streams_do_not_mix() {
    let (vocoder, codebooks) = vocoder(testkit::tiny());
    let [a, b] = [1, 2].map(|seed| codes(&vocoder, codebooks, 20, seed));
    let (mut first, mut second) = (vocoder.start(), vocoder.start());
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for at in 0..20 {
        one.extend(step(&vocoder, &mut first, a.clone().narrow(2, at, 1)));
        two.extend(step(&vocoder, &mut second, b.clone().narrow(2, at, 1)));
    }
    let whole = |codes| -> Vec<f32> { vocoder.decode(codes).into_data().try_to_vec_as().unwrap() };
    assert_close(&one, &whole(a), "first stream");
    assert_close(&two, &whole(b), "second stream");
}
