//! Bad input gets an error that says what was found and what was expected; never a panic, never silence.

use std::io::{Cursor, ErrorKind};
use std::path::Path;

use proptest::prelude::*;
use qwen3_omni_media::audio::{AudioInput, log_mel, read};
use qwen3_omni_media::image::{ImageInput, ImageOptions, patches};
use qwen3_omni_media::video::{VideoInput, VideoOptions, clip};
use qwen3_omni_media::{MediaError, Source};
use testkit::source_of;

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(testkit::media().join(name)).unwrap()
}

/// The first `share` percent of a file.
fn cut(name: &str, share: usize) -> Source {
    let bytes = bytes(name);
    bytes[..bytes.len() * share / 100].into()
}

fn heard(input: impl Into<AudioInput>) -> String {
    let error = log_mel(&[input.into()]).unwrap_err().source;
    error.to_string()
}

fn seen(input: impl Into<ImageInput>) -> String {
    patches(&input.into(), &ImageOptions::default()).unwrap_err().to_string()
}

fn watched(input: impl Into<VideoInput>) -> String {
    clip(&input.into(), &VideoOptions::default()).unwrap_err().to_string()
}

fn assert_says(message: &str, expected: &[&str]) {
    for part in expected {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn missing_files_and_directories_are_named() {
    for message in [heard("/no/such/a.wav"), seen("/no/such/a.wav"), watched("/no/such/a.wav")] {
        assert_says(&message, &["/no/such/a.wav"]);
    }
    let directory = testkit::media();
    for message in [heard(directory.as_path()), seen(directory.as_path()), watched(directory.as_path())] {
        assert_says(&message, &[directory.to_str().unwrap(), "no file"]);
    }
}

#[test]
fn errors_keep_what_they_come_from() {
    let picture = patches(&cut("picture.png", 60).into(), &ImageOptions::default()).unwrap_err();
    assert!(matches!(picture, MediaError::Damaged { .. }) && picture.to_string().contains("truncated"), "{picture}");
    source_of::<image::ImageError>(&picture);
    let sound = read(&cut("tone.flac", 60).into()).unwrap_err();
    source_of::<symphonia::core::errors::Error>(&sound);
    source_of::<base64::DecodeError>(&Source::from_base64("no base64!").unwrap_err());
    for missing in [
        read(&"/no/such/a.wav".into()).map(drop),
        patches(&"/no/such/a.png".into(), &ImageOptions::default()).map(drop),
        clip(&"/no/such/a.mp4".into(), &VideoOptions::default()).map(drop),
    ] {
        assert_eq!(source_of::<std::io::Error>(&missing.unwrap_err()).kind(), ErrorKind::NotFound);
    }
}

#[test]
fn sound_without_length_or_too_short_or_with_nan_is_refused() {
    assert_says(&heard(AudioInput::samples(vec![], 16_000, 1)), &["no samples"]);
    assert_says(&heard(AudioInput::samples(vec![0.1; 100], 16_000, 1)), &["100 samples", "6.2 ms", "at least 201"]);
    assert!(log_mel(&[AudioInput::samples(vec![0.1; 201], 16_000, 1)]).is_ok());
    let mut samples = vec![0.0; 5000];
    samples[4321] = f32::NAN;
    assert_says(&heard(AudioInput::samples(samples.clone(), 16_000, 1)), &["sample 4321 is not a finite number"]);
    assert_says(
        &heard(AudioInput::samples(vec![f32::INFINITY; 5000], 48_000, 1)),
        &["sample 0 is not a finite number"],
    );
    assert_says(&heard(AudioInput::samples(vec![0.0; 5000], 0, 1)), &["0 samples per second"]);
    assert_says(&heard(AudioInput::samples(vec![0.0; 5000], 16_000, 0)), &["0 channels"]);
    assert_says(&heard(AudioInput::samples(vec![0.0; 5001], 16_000, 2)), &["do not divide into 2 channels"]);
    let mut wav = Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::new(&mut wav, spec).unwrap();
    samples.iter().for_each(|sample| writer.write_sample(*sample).unwrap());
    writer.finalize().unwrap();
    assert_says(&heard(wav.into_inner()), &["sample 4321 is not a finite number"]);
}

#[test]
fn files_of_another_kind_than_their_name_are_told_by_their_contents() {
    let directory = tempfile::tempdir().unwrap();
    let named = |name: &str, contents: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path
    };
    let text = named("speech.wav", b"This is no sound at all, but a text that was given the wrong name.");
    assert_says(&heard(&text), &["speech.wav", "expected WAV, FLAC, MP3"]);
    assert_says(&seen(&text), &["speech.wav", "expected PNG, JPEG"]);
    assert_says(&watched(&text), &["speech.wav"]);
    // A wrong file name alone does no harm.
    assert!(read(&named("really_mp3.wav", &bytes("tone.mp3")).into()).is_ok());
    assert!(ImageInput::from(named("really_png.jpg", &bytes("picture.png"))).pixels().is_ok());
    assert!(clip(&named("really_mp4.webm", &bytes("silent.mp4")).into(), &VideoOptions::default()).is_ok());
    assert_says(&heard(bytes("picture.png")), &["expected WAV"]);
    assert_says(&seen(bytes("tone.mp3")), &["expected PNG"]);
}

#[test]
fn truncated_sound_is_an_error_that_says_how_much_there_was() {
    for name in ["tone.mp3", "tone.flac", "tone.m4a"] {
        for share in [30, 60, 90] {
            assert_says(&heard(cut(name, share)), &["bytes in memory"]);
        }
        assert_says(&heard(cut(name, 1)), &["bytes in memory"]);
    }
    assert_says(&heard(cut("tone.mp3", 60)), &["samples are promised", "truncated"]);
    for share in [80, 90, 98] {
        assert_says(&heard(cut("tone.ogg", share)), &["truncated"]);
    }
    let wav = std::fs::read(testkit::nano().join("../nano-samples/spoken_hello_question.wav")).unwrap();
    assert_says(&heard(&wav[..wav.len() - 2]), &["truncated"]);
}

#[test]
fn truncated_pictures_are_an_error() {
    for name in ["picture.png", "picture.jpg", "picture.bmp", "picture.webp", "picture.gif"] {
        for share in [20, 60] {
            assert_says(&seen(cut(name, share)), &["bytes in memory"]);
        }
    }
    assert_says(&seen(Vec::new()), &["0 bytes in memory"]);
}

/// The decoders fill a cut JPEG with grey, and a WebP that lacks a byte or two goes unnoticed.
#[test]
fn a_picture_cut_anywhere_is_told_to_be_truncated() {
    for name in ["picture.jpg", "progressive.jpg", "picture.webp"] {
        let whole = bytes(name);
        assert!(ImageInput::from(whole.clone()).pixels().is_ok(), "{name}");
        // With less than this, nothing tells the format.
        for length in 20..whole.len() {
            assert_says(&seen(&whole[..length]), &["truncated"]);
        }
    }
    for name in ["picture.png", "picture.bmp", "picture.gif", "picture.tif"] {
        let whole = bytes(name);
        // Behind that the GIF has its second frame; the last bytes of the others close the file.
        for length in (whole.len() / 3)..(whole.len() * 3 / 5) {
            assert_says(&seen(&whole[..length]), &["truncated"]);
        }
    }
    for name in ["picture.heic", "grid.heic", "picture.avif", "clear.avif"] {
        let whole = bytes(name);
        for share in [5, 10, 30, 60, 90, 99] {
            assert_says(&seen(&whole[..whole.len() * share / 100]), &["bytes in memory"]);
        }
    }
}

#[test]
fn truncated_videos_are_an_error() {
    for name in ["clip.mp4", "clip_vfr.mp4", "silent.mp4"] {
        for share in [5, 30, 60, 90] {
            let message = watched(cut(name, share));
            assert!(
                ["cut off", "truncated", "ends", "end of the file"].iter().any(|word| message.contains(word)),
                "{message}"
            );
        }
    }
}

#[test]
fn videos_without_frames_or_without_sound_are_told_apart() {
    assert_says(&watched(testkit::media().join("sound_only.mp4")), &["sound_only.mp4", "no video track"]);
    let silent = AudioInput::SoundTrack(testkit::media().join("silent.mp4").into());
    assert_says(&heard(silent), &["silent.mp4", "no sound track"]);
    assert_says(&watched(VideoInput::frames(Vec::new(), 2.0)), &["0 frames"]);
    assert_says(
        &watched(VideoInput::images(vec![testkit::media().join("picture.png")], 0.0)),
        &["0 frames per second", "0.001 to 1000"],
    );
    let options = VideoOptions::default().max_frames(2).min_frames(2);
    let many = VideoInput::images(vec![testkit::media().join("picture.png"); 3], 1.0);
    assert_says(&clip(&many, &options).unwrap_err().to_string(), &["3 frames, expected 1 to 2"]);
    let options = VideoOptions::default().frames_per_second(f64::NAN);
    assert_says(&clip(&many, &options).unwrap_err().to_string(), &["NaN frames per second"]);
}

#[test]
fn absurd_options_and_over_long_media_are_refused_early() {
    use qwen3_omni_media::audio::log_mel_up_to;
    use qwen3_omni_media::image::PixelBounds;
    let picture: ImageInput = testkit::media().join("picture.png").into();
    for (min, max) in [(10, 5), (usize::MAX, usize::MAX)] {
        let options = ImageOptions::default().bounds(PixelBounds { min, max });
        assert_says(&patches(&picture, &options).unwrap_err().to_string(), &["picture.png", "nothing fits"]);
    }
    // Pictures and frames are counted by their headers, so that nothing is decoded of what will not fit.
    assert_eq!(ImageInput::from(huge_png(10_000, 10_000)).size().unwrap(), [10_000, 10_000]);
    let options = VideoOptions::default().max_tokens(100);
    let message = clip(&testkit::media().join("clip.mp4").into(), &options).unwrap_err().to_string();
    assert_says(&message, &["clip.mp4", "tokens, at most 100"]);
    let error = log_mel_up_to(&[AudioInput::samples(vec![0.0; 48_000], 16_000, 1)], 200).unwrap_err();
    assert_says(&error.to_string(), &["more than 2 s of sound"]);
}

/// A PNG header that declares a size, without any pixels.
fn huge_png(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let crc = chunk.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    });
    let head = [b"\x89PNG\r\n\x1a\n".as_slice(), &13u32.to_be_bytes(), &chunk, &(!crc).to_be_bytes()].concat();
    [head, [0, 0, 0, 0].to_vec(), b"IDAT\x35\xaf\x06\x1e".to_vec()].concat()
}

#[test]
fn shapes_far_from_square_and_huge_headers_are_refused() {
    let narrow = qwen3_omni_media::image::Pixels::new(4000, 1, vec![0; 12_000]).unwrap();
    assert_says(&seen(narrow), &["4000 × 1", "200 times"]);
    assert_says(&seen(huge_png(30_000, 30_000)), &["30000 × 30000", "at most"]);
    assert_says(&seen(huge_png(u32::MAX >> 1, u32::MAX >> 1)), &["bytes in memory"]);
}

/// Changes some bytes of a file.
fn damaged(name: &str, changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut bytes = bytes(name);
    let length = bytes.len();
    changes.iter().for_each(|(at, value)| bytes[at.index(length)] = *value);
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)
}

fn small() -> VideoOptions {
    let bounds = qwen3_omni_media::image::PixelBounds { min: 1024, max: 16_384 };
    VideoOptions::default().bounds(bounds).max_frames(6)
}

/// Changes in the first bytes, where the headers are.
fn changes_of_headers() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec((0usize..4000, any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn headers_of_sounds_with_right_checksums_never_panic(changes in changes_of_headers()) {
        for name in ["tone.ogg", "sound/voice.ogg", "sound/surround.opus", "sound/alac.caf", "sound/alac.m4a", "sound/live.webm"] {
            let mut bytes = bytes(name);
            let length = bytes.len();
            changes.iter().for_each(|(at, value)| bytes[at % length] = *value);
            testkit::repair_ogg(&mut bytes);
            let _ = log_mel(&[bytes.into()]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What comes out does not matter here; that something comes out, and no panic, does.
    #[test]
    fn damaged_files_never_panic(changes in changes()) {
        for name in ["tone.flac", "tone.mp3", "tone.ogg", "tone.m4a"] {
            let _ = log_mel(&[damaged(name, &changes).into()]);
        }
        for name in ["picture.png", "picture.jpg", "picture.bmp", "picture.webp", "picture.gif", "picture.tif"] {
            let _ = patches(&damaged(name, &changes).into(), &ImageOptions::default());
        }
        // Sizes are read without the decoder.
        for name in ["grid_turned.heic", "clear.avif"] {
            let _ = ImageInput::from(damaged(name, &changes)).size();
        }
        for name in ["clip.mp4", "silent.mp4"] {
            let _ = clip(&damaged(name, &changes).into(), &small());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = log_mel(&[bytes.clone().into()]);
        let _ = patches(&bytes.into(), &ImageOptions::default());
    }
}

#[test]
fn file_names_are_not_taken_for_options() {
    let name = Path::new("-i.mp4");
    assert_says(&watched(name), &["-i.mp4"]);
}

/// With several threads, `ffmpeg` notices a broken frame in some runs only.
#[test]
fn a_broken_video_answers_the_same_each_time() {
    for name in ["clip.webm", "joined.ts"] {
        let mut broken = bytes(name);
        let length = broken.len();
        (1..8).for_each(|part| broken[length * part / 8] ^= 0x55);
        let answer = || match clip(&broken.clone().into(), &small()) {
            Ok(clip) => format!("{:?}", clip.patches().colours()),
            Err(error) => error.to_string(),
        };
        let first = answer();
        assert!(!first.contains("which was not found"), "{first}");
        (0..4).for_each(|_| assert_eq!(answer(), first, "{name}"));
    }
}
