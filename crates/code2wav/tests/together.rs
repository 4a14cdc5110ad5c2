//! Steps of several streams together are those of each stream alone.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use qwen3_omni_code2wav::{Checkpoint, Code2Wav, CodeFrames, Component, Dtype, Stage, VocoderState, Waveform, Weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn vocoder(directory: std::path::PathBuf, dtype: Dtype) -> (Code2Wav, usize) {
    let checkpoint = Checkpoint::open(directory).unwrap();
    checkpoint.check(&[Component::Code2Wav]).unwrap();
    let weights = Weights::new(&checkpoint, &Device::flex(), dtype);
    (Code2Wav::load(&weights, checkpoint.config()).unwrap(), checkpoint.config().code2wav().unwrap().num_quantizers)
}

/// Frames of the pieces of one stream.
fn frames(vocoder: &Code2Wav, codebooks: usize, pieces: &[usize], seed: u64) -> Vec<CodeFrames> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let piece = |frames: &usize| {
        let codes = (0..codebooks * frames).map(|_| random.random_range(0..vocoder.codebook_size() as i64));
        let data = TensorData::new(codes.collect::<Vec<_>>(), [1, codebooks, *frames]);
        CodeFrames { codes: Tensor::from_data(data, &Device::flex()) }
    };
    pieces.iter().map(piece).collect()
}

fn values(waveform: Waveform) -> Vec<f32> {
    waveform.samples.into_data().try_to_vec_as().unwrap()
}

/// Samples of each step of each stream, and the states afterwards.
type Streamed = (Vec<Vec<Vec<f32>>>, Vec<VocoderState>);

fn alone(vocoder: &Code2Wav, streams: &[Vec<CodeFrames>]) -> Streamed {
    let each = streams.iter().map(|pieces| {
        let mut state = vocoder.start();
        let samples = pieces.iter().map(|piece| values(vocoder.step(&mut state, piece.clone()).unwrap()));
        (samples.collect(), state)
    });
    each.unzip()
}

/// Each step of all streams that still have one.
fn together(vocoder: &Code2Wav, streams: &[Vec<CodeFrames>]) -> Streamed {
    let mut states: Vec<_> = streams.iter().map(|_| vocoder.start()).collect();
    let mut samples = vec![Vec::new(); streams.len()];
    for step in 0..streams.iter().map(Vec::len).max().unwrap() {
        let going = states.iter_mut().zip(streams).zip(&mut samples);
        let going = going.filter_map(|((state, pieces), samples)| Some(((state, pieces.get(step)?.clone()), samples)));
        let (steps, samples): (Vec<_>, Vec<_>) = going.unzip();
        let waveforms = vocoder.step_many(steps);
        assert_eq!(waveforms.len(), samples.len());
        samples.into_iter().zip(waveforms).for_each(|(samples, waveform)| samples.push(values(waveform.unwrap())));
    }
    (samples, states)
}

fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "number of samples");
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The largest difference of any sample of streams with these pieces.
fn worst(vocoder: &Code2Wav, codebooks: usize, pieces: &[Vec<usize>]) -> f32 {
    let streams = pieces.iter().zip(7..).map(|(pieces, seed)| frames(vocoder, codebooks, pieces, seed));
    let streams: Vec<_> = streams.collect();
    let ((expected, _), (found, states)) = (alone(vocoder, &streams), together(vocoder, &streams));
    let mut worst = 0f32;
    for (stream, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(states[stream].frames(), pieces[stream].iter().sum::<usize>());
        assert!(expected.iter().flatten().any(|sample| sample.abs() > 1e-3), "silence proves nothing");
        worst = found.iter().zip(expected).map(|(found, expected)| difference(found, expected)).fold(worst, f32::max);
    }
    worst
}

fn pieces(streams: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut of_one = |_| {
        let steps = random.random_range(1..12);
        (0..steps).map(|_| if random.random() { 1 } else { random.random_range(1..14) }).collect()
    };
    (0..streams).map(&mut of_one).collect()
}

/// How far half precision takes the samples of a whole decode from those in single precision.
fn rounding(directory: &std::path::Path) -> f32 {
    let [half, single] = [Dtype::Bf16, Dtype::F32].map(|dtype| {
        let (vocoder, codebooks) = vocoder(directory.to_owned(), dtype);
        alone(&vocoder, &[frames(&vocoder, codebooks, &[40], 3)]).0.remove(0).remove(0)
    });
    difference(&half, &single)
}

#[test]
fn every_stream_gets_what_it_gets_alone() {
    for directory in [testkit::tiny(), testkit::nano()] {
        // From nine rows on, linear layers round their inputs too: a stream that alone has fewer gets other rounding, as it does
        // with other pieces. Nothing else may differ.
        let rounding = rounding(&directory);
        for (dtype, limit) in [(Dtype::F32, 0.0), (Dtype::Bf16, 2.0 * rounding)] {
            let (vocoder, codebooks) = vocoder(directory.clone(), dtype);
            for seed in 0..4 {
                let worst = worst(&vocoder, codebooks, &pieces(2 + seed as usize, seed));
                assert!(worst <= limit, "{} {dtype:?} {seed}: {worst} of {limit}", directory.display());
            }
        }
    }
}

#[test]
fn the_numbers_are_the_very_same_where_linear_layers_go_the_same_way() {
    // Eight rows at most behind the last upsampling; nine at least before the first.
    let few = vec![vec![1; 6], vec![1; 9]];
    let many = vec![vec![9, 12, 9], vec![17, 9], vec![10; 5]];
    for directory in [testkit::tiny(), testkit::nano()] {
        let (vocoder, codebooks) = vocoder(directory.clone(), Dtype::Bf16);
        for pieces in [&few, &many] {
            assert_eq!(worst(&vocoder, codebooks, pieces), 0.0, "{} {pieces:?}", directory.display());
        }
    }
}

#[test]
fn one_stream_goes_the_way_it_goes_alone() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (vocoder, codebooks) = vocoder(testkit::tiny(), dtype);
        assert_eq!(worst(&vocoder, codebooks, &pieces(1, 5)), 0.0);
        assert!(vocoder.step_many(Vec::new()).is_empty());
    }
}

#[test]
fn a_batch_among_the_streams_is_no_obstacle() {
    let (vocoder, codebooks) = vocoder(testkit::tiny(), Dtype::Bf16);
    let [one, other] = [1, 2].map(|seed| frames(&vocoder, codebooks, &[3], seed).remove(0));
    let batch = CodeFrames { codes: Tensor::<3, Int>::cat(vec![one.codes.clone(), other.codes.clone()], 0) };
    let expected = [one.clone(), batch.clone()].map(|codes| values(vocoder.step(&mut vocoder.start(), codes).unwrap()));
    let mut states = [vocoder.start(), vocoder.start()];
    let found = vocoder.step_many(states.iter_mut().zip([one, batch]).collect());
    for (found, expected) in found.into_iter().zip(expected) {
        assert_eq!(values(found.unwrap()), expected);
    }
}
