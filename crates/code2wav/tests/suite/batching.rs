//! Steps of several streams in one call equal those of each stream alone.

use crate::frames::{codes, load};
use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni_code2wav::{Checkpoint, Code2Wav, Dtype, Place, VocoderRun, VocoderState, Weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Frames of the pieces of one stream.
type Pieces = Vec<Vec<Vec<u32>>>;

fn vocoder(directory: std::path::PathBuf, dtype: Dtype) -> Code2Wav {
    load(directory, &Place::Host(Device::flex()), dtype)
}

fn frames_of(vocoder: &Code2Wav, pieces: &[usize], seed: u64) -> Pieces {
    pieces.iter().zip(1..).map(|(frames, at)| codes(vocoder, *frames, 1000 * seed + at)).collect()
}

/// Samples of each step of each stream, and the states afterwards.
type Streamed = (Vec<Vec<Vec<f32>>>, Vec<VocoderState>);

fn alone(vocoder: &Code2Wav, streams: &[Pieces]) -> Streamed {
    let each = streams.iter().map(|pieces| {
        let mut state = vocoder.start();
        let step =
            |frames: &Vec<Vec<u32>>| vocoder.forward(vec![VocoderRun { state: &mut state, frames }]).remove(0).unwrap();
        (pieces.iter().map(step).collect(), state)
    });
    each.unzip()
}

/// Each step of all streams that still have one.
fn batched(vocoder: &Code2Wav, streams: &[Pieces]) -> Streamed {
    let mut states: Vec<_> = streams.iter().map(|_| vocoder.start()).collect();
    let mut samples = vec![Vec::new(); streams.len()];
    for step in 0..streams.iter().map(Vec::len).max().unwrap() {
        let going = states.iter_mut().zip(streams).zip(&mut samples);
        let going = going
            .filter_map(|((state, pieces), samples)| Some((VocoderRun { state, frames: pieces.get(step)? }, samples)));
        let (runs, samples): (Vec<_>, Vec<_>) = going.unzip();
        let made = vocoder.forward(runs);
        assert_eq!(made.len(), samples.len());
        samples.into_iter().zip(made).for_each(|(samples, made)| samples.push(made.unwrap()));
    }
    (samples, states)
}

fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "number of samples");
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The largest difference of any sample of streams with these pieces.
fn worst(vocoder: &Code2Wav, pieces: &[Vec<usize>]) -> f32 {
    let streams = pieces.iter().zip(7..).map(|(pieces, seed)| frames_of(vocoder, pieces, seed));
    let streams: Vec<_> = streams.collect();
    let ((expected, _), (found, states)) = (alone(vocoder, &streams), batched(vocoder, &streams));
    let mut worst = 0f32;
    for (stream, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(states[stream].frames(), pieces[stream].iter().sum::<usize>());
        assert!(expected.iter().flatten().any(|sample| sample.abs() > 1e-3), "silence proves nothing");
        worst = found.iter().zip(expected).map(|(found, expected)| difference(found, expected)).fold(worst, f32::max);
    }
    worst
}

/// Sums of single-precision numbers in another order.
const SINGLE: f32 = 1e-5;

fn pieces(streams: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut of_one = |_| {
        let steps = random.random_range(1..12);
        (0..steps).map(|_| if random.random() { 1 } else { random.random_range(1..14) }).collect()
    };
    (0..streams).map(&mut of_one).collect()
}

/// How far bf16 takes the samples of a whole decode from those in f32.
fn rounding(directory: &std::path::Path) -> f32 {
    let [half, single] = [Dtype::Bf16, Dtype::F32].map(|dtype| {
        let vocoder = vocoder(directory.to_owned(), dtype);
        alone(&vocoder, &[frames_of(&vocoder, &[40], 3)]).0.remove(0).remove(0)
    });
    difference(&half, &single)
}

#[test]
fn every_stream_gets_what_it_gets_alone() {
    for directory in [testkit::tiny(), testkit::nano()] {
        // From nine rows on, linear layers sum in another order, and in bf16 round their inputs too: a stream that alone has fewer
        // rows is rounded differently, as it is with other pieces. Nothing else may differ.
        let rounding = rounding(&directory);
        for (dtype, limit) in [(Dtype::F32, SINGLE), (Dtype::Bf16, 2.0 * rounding)] {
            let vocoder = vocoder(directory.clone(), dtype);
            for seed in 0..4 {
                let worst = worst(&vocoder, &pieces(2 + seed as usize, seed));
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
        let vocoder = vocoder(directory.clone(), Dtype::Bf16);
        for pieces in [&few, &many] {
            assert_eq!(worst(&vocoder, pieces), 0.0, "{} {pieces:?}", directory.display());
        }
    }
}

#[test]
fn a_stream_with_codes_outside_the_table_fails_alone() {
    let vocoder = vocoder(testkit::tiny(), Dtype::F32);
    let (good, mut bad) = (codes(&vocoder, 4, 1), codes(&vocoder, 4, 2));
    bad[3][0] = u32::MAX;
    let mut states = [vocoder.start(), vocoder.start()];
    let runs = states.iter_mut().zip([&bad, &good]).map(|(state, frames)| VocoderRun { state, frames });
    let mut made = vocoder.forward(runs.collect());
    assert_eq!(made.pop().unwrap().unwrap(), vocoder.decode(&good).unwrap());
    let error = made.pop().unwrap().unwrap_err().to_string();
    assert!(error.contains("codec frame 4: code 4294967295 of codebook 0"), "{error}");
    assert!(vocoder.forward(Vec::new()).is_empty());
}

#[test]
fn waves_of_mean_embeddings_are_those_of_the_codes() {
    for place in [Place::Host(Device::flex()), Place::Device(Device::flex())] {
        let vocoder = load(testkit::tiny(), &place, Dtype::F32);
        let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
        let shape = [vocoder.codebooks() * vocoder.codebook_size(), 32];
        let weights = Weights::new(&checkpoint, &place, Dtype::F32);
        let table = weights.values("code2wav.code_embedding.weight", &shape).unwrap();
        let streams = [codes(&vocoder, 7, 1), codes(&vocoder, 3, 2)];
        let means = streams.each_ref().map(|frames| {
            let row = |frame: &Vec<u32>| {
                let rows = frame.iter().enumerate().map(|(book, code)| book * vocoder.codebook_size() + *code as usize);
                let rows: Vec<&[f32]> = rows.map(|row| &table[32 * row..][..32]).collect();
                (0..32)
                    .map(move |at| rows.iter().map(|row| row[at]).sum::<f32>() / rows.len() as f32)
                    .collect::<Vec<_>>()
            };
            let values: Vec<f32> = frames.iter().flat_map(row).collect();
            Tensor::<2>::from_data(TensorData::new(values, [frames.len(), 32]), place.device())
        });
        let [found, expected] = [vocoder.waves_of_means(&means), vocoder.waves(&streams)].map(|waves| {
            waves.unwrap().iter().map(|wave| wave.to_data().try_to_vec::<f32>().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(found.len(), 2);
        for (found, expected) in found.iter().zip(&expected) {
            assert!(difference(found, expected) < 1e-5);
        }
        for shape in [[0, 32], [4, 31]] {
            let refused = vocoder.waves_of_means(&[Tensor::zeros(shape, place.device())]);
            assert!(refused.unwrap_err().to_string().contains("expected 1 or more of 32"));
        }
    }
}
