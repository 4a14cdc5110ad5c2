//! However the frames are split, the stream's samples are the whole decode's, on both engines.

use crate::frames::{codes, load};
use burn::tensor::Device;
use qwen3_omni_code2wav::{Chunking, Code2Wav, Dtype, Place, VocoderRun, VocoderState};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn places() -> [Place; 2] {
    [Place::Host(Device::flex()), Place::Device(Device::flex())]
}

fn step(vocoder: &Code2Wav, state: &mut VocoderState, frames: &[Vec<u32>]) -> Vec<f32> {
    vocoder.forward(vec![VocoderRun { state, frames }]).remove(0).unwrap()
}

fn stream(vocoder: &Code2Wav, codes: &[Vec<u32>], splits: impl Iterator<Item = usize>) -> Vec<f32> {
    let (mut state, mut samples, mut at) = (vocoder.start(), Vec::new(), 0);
    for length in splits {
        let length = length.min(codes.len() - at);
        if length == 0 {
            break;
        }
        samples.extend(step(vocoder, &mut state, &codes[at..at + length]));
        at += length;
    }
    assert_eq!((at, state.frames()), (codes.len(), codes.len()));
    samples
}

/// Sums of another block size differ in the last bits; nothing else may.
const ROUNDING: f32 = 1e-5;

/// The largest error that the reference makes in bf16 itself, in the wave of `code2wav_40` (testkit's `fixtures/bf16/tiny.json`).
const BF16_ERROR: f32 = 0.017;

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_within(ROUNDING, found, expected, what);
}

fn assert_within(limit: f32, found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of samples");
    let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(error < limit, "{what}: {error}");
}

#[test]
fn any_split_gives_the_whole_decode() {
    for (directory, place) in
        [testkit::tiny(), testkit::nano()].into_iter().flat_map(|d| places().map(|p| (d.clone(), p)))
    {
        let vocoder = load(directory, &place, Dtype::F32);
        let frames = 60;
        let codes = codes(&vocoder, frames, 1);
        let whole = vocoder.decode(&codes).unwrap();
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
fn in_bf16_two_splits_differ_by_no_more_than_rounding_may_change_each() {
    for place in places() {
        let vocoder = load(testkit::tiny(), &place, Dtype::Bf16);
        let codes = codes(&vocoder, 40, 1);
        let whole = vocoder.decode(&codes).unwrap();
        for split in [1, 3, 25] {
            let streamed = stream(&vocoder, &codes, std::iter::repeat(split));
            assert_within(2.0 * BF16_ERROR, &streamed, &whole, &format!("{place:?}, pieces of {split}"));
        }
    }
}

#[test]
fn long_streams_forget_what_no_frame_sees_any_more() {
    for place in places() {
        let vocoder = load(testkit::tiny(), &place, Dtype::F32);
        let codes = codes(&vocoder, 300, 4);
        let whole = vocoder.decode(&codes).unwrap();
        assert_close(&stream(&vocoder, &codes, std::iter::repeat(11)), &whole, "pieces of 11");
    }
}

#[test]
fn both_engines_make_the_same_sound() {
    for directory in [testkit::tiny(), testkit::nano()] {
        let [host, device] = places().map(|place| {
            let vocoder = load(directory.clone(), &place, Dtype::F32);
            vocoder.decode(&codes(&vocoder, 40, 9)).unwrap()
        });
        assert_close(&host, &device, "both engines");
    }
}

#[test]
fn frames_that_are_none_are_errors_and_leave_the_stream_as_it_was() {
    for place in places() {
        let vocoder = load(testkit::tiny(), &place, Dtype::F32);
        let good = codes(&vocoder, 3, 1);
        let mut state = vocoder.start();
        let mut refused = |frames: Vec<Vec<u32>>| {
            vocoder.forward(vec![VocoderRun { state: &mut state, frames: &frames }]).remove(0).unwrap_err().to_string()
        };
        assert!(refused(Vec::new()).contains("no codec frames"));
        let chunked = vocoder.decode_chunked(&[], Chunking::default()).unwrap_err().to_string();
        assert!(chunked.contains("no codec frames"), "{chunked}");
        assert!(vocoder.waves(&[]).unwrap().is_empty() && vocoder.waves_of_means(&[]).unwrap().is_empty());
        let short = refused(vec![good[0].clone(), vec![0; vocoder.codebooks() - 1]]);
        assert!(
            short.contains("codec frame 2 has") && short.contains(&format!("expected {}", vocoder.codebooks())),
            "{short}"
        );
        let mut outside = good.clone();
        outside[2][1] = vocoder.codebook_size() as u32;
        let outside = refused(outside);
        assert!(outside.contains("codec frame 3") && outside.contains("codebook 1"), "{outside}");
        assert_eq!(state.frames(), 0);
        assert_eq!(step(&vocoder, &mut state, &good), vocoder.decode(&good).unwrap());
    }
}
