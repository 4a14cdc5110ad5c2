//! `media`, without a model.

use crate::{fixture, json, path, run, sample, text, told};

#[test]
fn sound_pictures_and_videos_are_counted_by_the_released_sizes() {
    let files = ["tone.flac", "picture.png", "clip.mp4", "silent.mp4"].map(fixture);
    let mut arguments: Vec<&str> = vec!["media", "--json"];
    arguments.extend(files.iter().map(String::as_str));
    let found = json(&arguments);
    let [sound, picture, clip, silent] = [0, 1, 2, 3].map(|index| &found[index]);
    assert_eq!((&sound["kind"], &sound["samples"], &sound["tokens"]), (&"audio".into(), &16_000.into(), &13.into()));
    // A sine of an eighth of full scale.
    let loudness = sound["root_mean_square"].as_f64().unwrap();
    assert!((loudness - 0.125 / 2f64.sqrt()).abs() < 2e-3 && sound["seconds"] == 1.0, "{sound}");
    assert_eq!(picture["kind"], "image");
    let of = |entry: &serde_json::Value, key: &str| entry[key].as_u64().unwrap();
    assert_eq!(of(picture, "tokens"), of(picture, "read_width") * of(picture, "read_height") / 32 / 32, "{picture}");
    let frames = of(clip, "frames");
    assert_eq!(of(clip, "tokens"), frames / 2 * of(clip, "read_width") * of(clip, "read_height") / 32 / 32, "{clip}");
    let (fps, step) = (clip["fps"].as_f64().unwrap(), clip["step"].as_f64().unwrap());
    assert!((fps * step - 2.0).abs() < 1e-6 && frames >= 4, "{clip}");
    assert!(of(&clip["sound"], "tokens") > 0 && silent["sound"].is_null(), "{found}");
    let words = told(&["media", &fixture("tone.flac")]);
    assert!(words.contains("sound, 1.00 s (16000 samples)") && words.contains("13 tokens"), "{words}");
}

#[test]
fn the_config_of_a_model_says_how_files_are_read() {
    let nano = path(&testkit::nano());
    let found = json(&["media", "--json", "--model", &nano, &sample("picture_one.png")]);
    // 96 × 96 pixels, as nano learnt them; the released model reads no fewer than 3136 pixels either.
    assert_eq!((&found[0]["read_width"], &found[0]["tokens"]), (&96.into(), &9.into()), "{found}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_entry_and_the_others_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let (short, lying) = (path(&directory.path().join("short.flac")), path(&directory.path().join("tone.wav")));
    let bytes = std::fs::read(fixture("tone.flac")).unwrap();
    std::fs::write(&short, &bytes[..bytes.len() / 2]).unwrap();
    std::fs::copy(fixture("tone.mp3"), &lying).unwrap();
    let output = run(&["media", "--json", "no-such-file", &short, &lying]);
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!([0, 1, 2].map(|index| found[index]["kind"].as_str().unwrap()), ["error", "error", "audio"], "{found}");
    assert!(found[1]["error"].as_str().unwrap().contains("short.flac"), "{found}");
    let output = run(&["media", "no-such-file", &lying]);
    let words = text(&output.stdout);
    assert!(output.status.code() == Some(1) && words.starts_with("error: no-such-file"), "{words}");
    assert!(words.lines().nth(1).unwrap().contains("sound, 1.0"), "{words}");
}
