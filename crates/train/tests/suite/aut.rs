//! The program `aut` from sounds and their texts to a recogniser, on the small checkpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use qwen3_omni::{Audio, AudioInput, AutOptions, AutPrompt, AutRecogniser, AutTask, Device};
use qwen3_omni_train::stage::{AutSettings, Transcribing};
use qwen3_omni_train::trainer::Log;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use testkit::tiny;

/// Pitches of a sound, one every 0.4 s.
const SOUNDS: [(&str, &[f32]); 3] =
    [("up", &[300.0, 900.0, 2700.0]), ("down", &[2700.0, 900.0, 300.0, 300.0]), ("on", &[1200.0, 1200.0, 1200.0])];

/// Writes the sounds and a file of lines about them, each in another form.
fn data(folder: &Path) -> PathBuf {
    for (name, pitches) in SOUNDS {
        let tone = |pitch: &f32| {
            let pitch = *pitch;
            (0..6_400).map(move |at| 0.3 * (at as f32 / 16_000.0 * pitch * std::f32::consts::TAU).sin())
        };
        let samples = pitches.iter().flat_map(tone).collect();
        Audio { samples, sample_rate: 16_000 }.save_wav(folder.join(format!("{name}.wav"))).unwrap();
    }
    let talk = |name: &str| {
        json!({"messages": [{"role": "user", "content": "<audio>What is it?"}, {"role": "assistant", "content": name}],
               "audios": [format!("{name}.wav")], "language": "english"})
    };
    lines(folder, &[clip("up.wav", "up"), clip("down.wav", "down"), talk("on")])
}

fn clip(audio: &str, text: &str) -> Value {
    json!({"audio": audio, "text": text, "task": "transcribe", "language": "english"})
}

fn lines(folder: &Path, lines: &[Value]) -> PathBuf {
    let path = folder.join("data.jsonl");
    fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    path
}

fn program(model: &Path, data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen3-omni-train"));
    command.arg("aut").arg("--model").arg(model).arg("--data").arg(data).arg("--out").arg(out).args(more);
    command
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Trains and returns the checkpoint that the program names.
fn train(model: &Path, data: &Path, out: &Path, more: &[&str]) -> PathBuf {
    let output = program(model, data, out, more).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn refused(model: &Path, data: &Path, out: &Path, more: &[&str]) -> String {
    let output = program(model, data, out, more).output().unwrap();
    let said = told(&output);
    assert!(!output.status.success() && !said.contains("panicked"), "{said}");
    said
}

/// Settings of a run that learns a few sounds by heart.
const BY_HEART: [&str; 12] = [
    "--set",
    "run.rate=3e-3",
    "--set",
    "run.warm_up=0",
    "--set",
    "run.optimizer.weight_decay=0",
    "--set",
    "augment.time_masks=0",
    "--set",
    "augment.frequency_masks=0",
    "--set",
    "layers=2",
];

#[test]
fn sounds_that_were_learned_are_recognised_and_learning_goes_on_from_the_decoders_file() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data(folder.path()), folder.path().join("run"));
    let last = train(&tiny(), &data, &out, &[&BY_HEART[..], &["--set", "run.steps=80"]].concat());
    let log = Log::read(&out.join("log.jsonl")).unwrap();
    assert!(log[79].loss < 0.05 && log[0].loss > 3.0, "{} → {}", log[0].loss, log[79].loss);
    let windows = log.iter().map(|line| line.parts["window"] as usize);
    assert_eq!(windows.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>(), [1, 2, 4, 8]);

    let recogniser = AutRecogniser::open(&last, &Device::cpu(), None).unwrap();
    for (name, _) in SOUNDS {
        let sound = AudioInput::from(folder.path().join(format!("{name}.wav")));
        for beam in [1, 4] {
            let text = recogniser.recognise(&sound, &AutOptions::default().beam(beam)).unwrap();
            assert_eq!(text, name, "beam {beam}");
        }
    }
    // The released layout holds what it held: the decoder is a file of its own, and the encoder's adapter is as it was.
    let [before, after] = [tiny(), last.clone()].map(|path| checkpoint::Checkpoint::open(path).unwrap());
    assert!(before.tensors().keys().eq(after.tensors().keys()));
    for (name, tensor) in before.tensors() {
        let trained = name.starts_with("thinker.audio_tower.") && !name.contains(".proj");
        // Keys of attention are learned up to a shift: their bias has no gradient but noise.
        let changed = before.bytes(tensor) != after.bytes(&after.tensors()[name]);
        assert!(changed == trained || name.ends_with("k_proj.bias"), "{name}: {changed}");
    }

    // Another run goes on from both files; of the decoder only one layer is trained, and all of it is written.
    let (more, one) = (folder.path().join("more"), "train=+decoder.layers.1.*");
    let next = train(&last, &data, &more, &["--set", "run.steps=2", "--set", "run.rate=1e-4", "--set", one]);
    let log = Log::read(&more.join("log.jsonl")).unwrap();
    assert!(log[0].loss < 1.0, "{}", log[0].loss);
    let [before, after] = [&last, &next].map(|folder| fs::read(folder.join("aut-decoder.safetensors")).unwrap());
    let [before, after] = [&before, &after].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    assert_eq!((before.len(), after.len()), (3 + 2 * 26, 3 + 2 * 26));
    for (name, tensor) in before.tensors() {
        let now = after.tensor(&name).unwrap();
        assert_eq!(now.shape(), tensor.shape());
        let changed = now.data() != tensor.data();
        assert!(changed == name.starts_with("decoder.layers.1.") || name.ends_with("k_proj.bias"), "{name}");
    }
    let error = refused(&last, &data, &folder.path().join("other"), &["--set", "layers=3"]);
    assert!(error.contains("`layers`: 3") && error.contains("aut-decoder.safetensors has 2"), "{error}");
}

/// Whether all tensors of two checkpoints are equal to the bit, those of the optimiser and the decoder included.
fn same_tensors(a: &Path, b: &Path) {
    let mut compared = 0;
    for name in ["aut-decoder", "model-00001-of-00003", "trainer/optimizer", "trainer/parameters"] {
        let file = format!("{name}.safetensors");
        assert!(fs::read(a.join(&file)).unwrap() == fs::read(b.join(&file)).unwrap(), "{file} differs");
        compared += 1;
    }
    assert_eq!(compared, 4);
}

#[test]
fn a_run_that_was_killed_goes_on_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    // Masks and windows are drawn, and labels smoothed.
    let more = ["--set", "run.steps=12", "--set", "run.save_every=1", "--set", "label_smoothing=0.1"];
    let more = [&more[..], &["--set", "run.tokens_per_batch=60", "--set", "run.rate=1e-3"]].concat();
    let last = train(&tiny(), &data, &whole, &more);

    let mut child =
        program(&tiny(), &data, &killed, &more).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let log = killed.join("log.jsonl");
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < 3 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let steps = fs::read_to_string(&log).unwrap().lines().count();
    assert!((3..12).contains(&steps), "killed in {steps} of 12 steps");
    same_tensors(&last, &train(&tiny(), &data, &killed, &more));
    let [a, b] = [&whole, &killed].map(|run| Log::read(&run.join("log.jsonl")).unwrap());
    assert!(a.len() == 12 && b.len() == 12 && a.iter().zip(&b).all(|(a, b)| a.same_but_for_time(b)));
    // Batches differ in their windows, and the same sounds in their masks.
    assert!(a.iter().any(|line| line.parts["window"] != a[0].parts["window"]));

    // Another seed draws another decoder and other masks.
    let other = folder.path().join("other");
    train(&tiny(), &data, &other, &[&more[..], &["--set", "run.seed=1", "--set", "run.steps=1"]].concat());
    assert_ne!(Log::read(&other.join("log.jsonl")).unwrap()[0].loss, a[0].loss);
}

#[test]
fn the_prompt_says_what_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let asked = |task: &str, language: &str, text: &str| {
        let mut line = clip("up.wav", text);
        (line["task"], line["language"]) = (task.into(), language.into());
        line
    };
    let data = lines(
        folder.path(),
        &[asked("transcribe", "english", "up"), asked("translate", "german", "auf"), asked("detect", "", "english")],
    );
    let last = train(&tiny(), &data, &folder.path().join("run"), &[&BY_HEART[..], &["--set", "run.steps=60"]].concat());
    let recogniser = AutRecogniser::open(&last, &Device::cpu(), None).unwrap();
    for (prompt, text) in [
        (AutPrompt::default(), "up"),
        (AutPrompt::new(AutTask::Translate, "German"), "auf"),
        (AutPrompt::new(AutTask::Detect, None), "english"),
    ] {
        let sound = AudioInput::from(folder.path().join("up.wav"));
        assert_eq!(recogniser.recognise(&sound, &AutOptions::default().prompt(prompt)).unwrap(), text);
    }
}

#[test]
fn lines_that_cannot_be_learned_from_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = data(folder.path());
    Audio { samples: vec![0.1; 100], sample_rate: 16_000 }.save_wav(folder.path().join("short.wav")).unwrap();
    let mut sung = clip("up.wav", "up");
    sung["task"] = "sing".into();
    let user = json!({"role": "user", "content": "<audio><audio>"});
    let two = json!({"messages": [user, {"role": "assistant", "content": "up"}], "audios": ["up.wav", "on.wav"]});
    let silent = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    for (line, reason) in [
        (json!({"audio": "up.wav"}), "`audio` and `text`"),
        (json!({"text": "up"}), "`audio` and `text`"),
        (silent, "0 sounds"),
        (two, "2 sounds"),
        (sung, "task `sing`"),
        (clip("short.wav", "up"), "too short"),
        (clip("missing.wav", "up"), "missing.wav"),
    ] {
        let bad = folder.path().join("bad.jsonl");
        fs::write(&bad, format!("{}\n{line}\n", clip("on.wav", "on"))).unwrap();
        let said = refused(&tiny(), &bad, &folder.path().join("run"), &["--strict", "--set", "run.steps=3"]);
        assert!(said.contains("bad.jsonl:2: ") && said.contains(reason), "{reason}: {said}");
    }
    for (setting, name) in [
        ("layers=0", "layers"),
        ("windows=[]", "windows"),
        ("windows=[9]", "windows"),
        ("label_smoothing=1", "label_smoothing"),
        ("augment.longest_time=2", "longest_time"),
        ("train=+thinker.nothing", "+thinker.nothing"),
    ] {
        let said = refused(&tiny(), &good, &folder.path().join("run"), &["--set", setting]);
        assert!(said.contains(name), "{setting}: {said}");
    }
}

#[test]
fn a_decoder_of_other_sizes_is_refused_by_its_file() {
    let model = testkit::copy_of(&tiny());
    let file = model.path().join("aut-decoder.safetensors");
    let settings = AutSettings::default();
    let told =
        || Transcribing::trainer(model.path(), &settings, &burn::tensor::Device::flex()).unwrap_err().to_string();
    let bytes = vec![0; 4 * 1024 * 64];
    let table = TensorView::new(Dtype::F32, vec![1024, 64], &bytes).unwrap();
    let norm = TensorView::new(Dtype::F32, vec![64], &bytes[..256]).unwrap();
    safetensors::serialize_to_file([("decoder.embed_tokens.weight", table.clone())], None, &file).unwrap();
    assert!(told().contains("aut-decoder.safetensors: expected the layers of a text decoder"));
    let tensors = [("decoder.embed_tokens.weight", table), ("decoder.layers.0.final_layer_norm.weight", norm)];
    safetensors::serialize_to_file(tensors, None, &file).unwrap();
    let error = told();
    for part in ["aut-decoder.safetensors", "decoder.embed_tokens.weight", "[1024, 64]", "[1024, 48]"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}
