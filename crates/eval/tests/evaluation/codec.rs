//! Recordings that go through the encoder of Mimi and the model's vocoder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mimi_encoder::{MimiConfig, MimiEncoder};
use qwen3_omni::checkpoint::{Checkpoint, random_range, record};
use qwen3_omni::code2wav::Code2Wav;
use qwen3_omni::media::audio::read_at;
use qwen3_omni::{AudioInput, Device, Dtype};
use qwen3_omni_eval::{Codec, ReadOptions, Suite};
use safetensors::tensor::{Dtype as Stored, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{path, refused, told};
use crate::{PREFIX, TRANSCRIBE, lines, spoken_set};

/// A random encoder of nano's sizes, which knows more codebooks than nano has.
fn mimi(change: impl FnOnce(&mut Value)) -> TempDir {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mimi-encoder/fixtures/tiny/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(fixture).unwrap()).unwrap();
    for (key, value) in [
        ("sampling_rate", json!(24_000)),
        ("upsampling_ratios", json!([8, 6, 5, 4])),
        ("codebook_size", json!(384)),
        ("num_quantizers", json!(8)),
        ("_frame_rate", json!(12.5)),
    ] {
        config[key] = value;
    }
    change(&mut config);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let parsed: MimiConfig = serde_json::from_value(config).unwrap();
    let device = Device::Cpu.open().unwrap();
    let manifest = record(&device, 1 << 12, |weights| MimiEncoder::load(weights, &parsed)).unwrap();
    let mut random = 1_u64;
    let tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = manifest
        .into_iter()
        .map(|(name, expected)| {
            let (low, high) = random_range(&name, &expected.shape);
            let mut value = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                low + (high - low) * (random >> 40) as f32 / (1 << 24) as f32
            };
            let bytes = (0..expected.elements()).flat_map(|_| value().to_le_bytes()).collect();
            (name, (expected.shape, bytes))
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(Stored::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

/// Recordings of nano's voice with their words, but for the last.
fn voices() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let chapter = spoken_set().join("test/1/2");
    for (index, words) in ["Three eight purple.", "big white fish", "red cat nine"].iter().enumerate() {
        fs::copy(chapter.join(format!("1-2-000{index}.wav")), folder.path().join(format!("{index}.wav"))).unwrap();
        if index < 2 {
            fs::write(folder.path().join(format!("{index}.txt")), words).unwrap();
        }
    }
    folder
}

#[test]
fn words_are_heard_before_the_codec_and_after_it() {
    let (mimi, data, nano) = (mimi(|_| {}), voices(), testkit::nano());
    let items = data.path().join("items.jsonl");
    let arguments = [
        "waves",
        "--data",
        path(data.path()),
        "--codec",
        path(mimi.path()),
        "--model",
        path(&nano),
        "--transcribe",
        TRANSCRIBE,
        "--transcript-prefix",
        PREFIX,
        "--items",
        path(&items),
    ];
    let found: Value = serde_json::from_str(&told(&[&arguments[..], &["--json"]].concat())).unwrap();
    let measures = &found["measures"];
    let rate = |name: &str| measures[name].as_f64().unwrap();
    // A random encoder's codes say nothing.
    assert!(rate("wer_before_codec") < 0.4 && rate("wer_after_codec") > 0.5, "{found}");
    assert!(rate("wer_after_against_before") > 0.5);
    // Normalised, three eight is one word.
    assert_eq!((&measures["words"], &found["items"]), (&json!(5), &json!(3)));
    let outcomes = lines(&items);
    assert!(outcomes[1..].iter().all(|outcome| outcome["score"]["heard_before"] != outcome["answer"]), "{outcomes:?}");
    // Figures of another encoder are others.
    let other = self::mimi(|config| config["num_quantizers"] = json!(7));
    let mut changed = arguments;
    changed[4] = path(other.path());
    assert!(refused(1, &changed).contains("its run had codec"));
}

#[test]
fn a_codec_is_the_first_codebooks_and_the_vocoder() {
    let (mimi, nano, place) = (mimi(|_| {}), testkit::nano(), Device::Cpu.place(Dtype::F32).unwrap());
    let codec = Codec::open(mimi.path(), &nano, &place).unwrap();
    let wave = AudioInput::from(spoken_set().join("test/1/2/1-2-0000.wav").as_path());
    let mut samples = read_at(&wave, codec.sample_rate()).unwrap();
    samples.truncate(samples.len() - 5);
    // Longer than what is decoded at a time.
    let samples = samples.repeat(6);
    let encoder = MimiEncoder::from_checkpoint(&Checkpoint::open(mimi.path()).unwrap(), &place).unwrap();
    let codes: Vec<Vec<u32>> = encoder.encode(&samples).unwrap().into_iter().map(|frame| frame[..6].to_vec()).collect();
    assert!(codes.len() > 64, "{} frames", codes.len());
    let vocoder = Code2Wav::from_checkpoint(&Checkpoint::open(&nano).unwrap(), &place, Dtype::F32).unwrap();
    let whole = vocoder.waves(&[codes]).unwrap()[0].to_data().try_to_vec::<f32>().unwrap();
    let found = codec.recode(&samples).unwrap();
    assert!(found.len() <= samples.len() && samples.len() - found.len() < 1920, "{} of {}", found.len(), samples.len());
    let largest = found.iter().zip(&whole).map(|(a, b)| (a - b.clamp(-1.0, 1.0)).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-3 && found.iter().any(|sample| sample.abs() > 0.01), "{largest}");
}

#[test]
fn sizes_that_differ_are_named() {
    let (data, nano) = (voices(), testkit::nano());
    let error = |mimi: PathBuf| {
        refused(
            1,
            &[
                "waves",
                "--data",
                path(data.path()),
                "--codec",
                path(&mimi),
                "--model",
                path(&nano),
                "--recogniser",
                "cat {wav}",
            ],
        )
    };
    for (key, value, expected) in [
        ("codebook_size", json!(128), "Mimi has 128 codes per codebook, the model's vocoder takes 384"),
        ("num_quantizers", json!(3), "Mimi has 3 codebooks, the model's vocoder takes 6 or more"),
        ("_frame_rate", json!(6.25), "Mimi has 3840 samples per codec frame, the model's vocoder takes 1920"),
        ("sampling_rate", json!(12_000), "Mimi has 12000 samples per second, the model's vocoder takes 24000"),
    ] {
        let folder = mimi(|config| {
            config[key] = value;
            // Frames of as many samples at another rate.
            if key == "sampling_rate" {
                config["_frame_rate"] = json!(6.25);
            }
        });
        let said = error(folder.path().to_owned());
        assert!(said.contains(expected), "{said}");
    }
    assert!(error("no/such/mimi".into()).contains("no/such/mimi"));
    let said = refused(1, &["aime", "--data", path(data.path()), "--codec", "x", "--model", path(&nano)]);
    assert!(said.contains("--codec does nothing with aime"), "{said}");
    let said = refused(1, &["waves", "--data", path(data.path()), "--recogniser", "cat {wav}"]);
    assert!(said.contains("`2.wav` has no words") && said.contains("--codec"), "{said}");
    let said = refused(1, &["waves", "--data", path(data.path()), "--recogniser", "cat {wav}", "--codec", "x"]);
    assert!(said.contains("no model"), "{said}");
}

#[test]
fn recordings_are_read_from_folders_files_and_lists() {
    let data = voices();
    let read = |path: &Path| Suite::Waves.read(path, &ReadOptions::default());
    let ids = |path: &Path| {
        read(path).unwrap().into_iter().map(|item| (item.id.clone(), item.expected())).collect::<Vec<_>>()
    };
    let first = ("0.wav".to_owned(), json!("Three eight purple."));
    assert_eq!(ids(data.path())[0], first);
    assert_eq!(ids(data.path())[2], ("2.wav".to_owned(), json!("")));
    assert_eq!(ids(&data.path().join("0.wav")), [first]);
    let list = data.path().join("meta.lst");
    fs::write(&list, "a|one|0.wav\nb|two|1.wav|another\nc|x|0.wav|three|2.wav\n").unwrap();
    let expected = [("a", "one"), ("b", "two"), ("c", "three")].map(|(id, text)| (id.to_owned(), json!(text)));
    assert_eq!(ids(data.path()), expected);
    let Some(qwen3_omni_eval::Task::Transcribe { sound, .. }) = read(&list).unwrap().pop().map(|item| item.task) else {
        panic!("nothing to transcribe")
    };
    assert_eq!(sound.file, data.path().join("2.wav"));
    for (text, reason) in [("a|one", "meta.lst:1"), ("a|one|none.wav", "none.wav")] {
        fs::write(&list, text).unwrap();
        assert!(read(data.path()).unwrap_err().to_string().contains(reason));
    }
}
