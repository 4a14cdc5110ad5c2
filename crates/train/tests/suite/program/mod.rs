//! The program from JSON lines to a checkpoint that answers, on nano.

mod distill;
mod early;
mod judge;
mod pairs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::bf16;
use qwen3_omni::{Audio, GenerateOptions, Message, Omni, OmniCheckpoint, SpeechFinish};
use safetensors::tensor::{Dtype, TensorView};
use testkit::nano;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qwen3-omni-train")).args(arguments).output().unwrap()
}

/// Trains nano in a folder; returns the checkpoint that the program names, or what it said.
fn train(stage: &str, folder: &Path, data: &Path, more: &[&str]) -> Result<PathBuf, String> {
    train_from(&nano(), stage, &folder.join("run"), data, more)
}

/// Trains a model; returns the checkpoint that the program names, or what it said.
fn train_from(model: &Path, stage: &str, out: &Path, data: &Path, more: &[&str]) -> Result<PathBuf, String> {
    let paths = [model, data, out].map(|path| path.to_str().unwrap());
    let own = [stage, "--model", paths[0], "--data", paths[1], "--out", paths[2]];
    said(&[&own, more].concat())
}

/// Runs the program; returns the path it names, or what it said.
fn said(arguments: &[&str]) -> Result<PathBuf, String> {
    let output = run(arguments);
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8(text.clone()).unwrap());
    match output.status.success() {
        true => Ok(PathBuf::from(said[0].trim())),
        false => Err(said[1].clone()),
    }
}

fn lines(folder: &Path, lines: &[serde_json::Value]) -> PathBuf {
    let path = folder.join("data.jsonl");
    fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    path
}

/// The log of a run.
fn log(checkpoint: &Path) -> Vec<serde_json::Value> {
    let log = fs::read_to_string(checkpoint.parent().unwrap().join("log.jsonl")).unwrap();
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn talk(question: &str, answer: &str) -> serde_json::Value {
    serde_json::json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
}

fn answer(checkpoint: &Path, question: &str) -> String {
    let omni = Omni::builder(checkpoint).text_only().load().unwrap();
    omni.generate(&[Message::user().text(question)], &GenerateOptions::default()).unwrap().text
}

/// Asserts that the adapter of a checkpoint, loaded on nano, makes of it the weights that the checkpoint has, but for rounding.
fn assert_merged_alike(trained: &Path) {
    let mut loaded = OmniCheckpoint::open(nano()).unwrap();
    loaded.add_adapter(trained).unwrap();
    let (merged, mut changed) = (OmniCheckpoint::open(trained).unwrap(), 0);
    for (name, tensor) in merged.tensors().iter().filter(|(name, _)| name.ends_with(".weight")) {
        let values = |bytes: &[u8]| match tensor.dtype {
            Dtype::BF16 => {
                bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect::<Vec<f32>>()
            }
            _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        let (expected, found) = (values(merged.bytes(tensor)), values(&loaded.contents(name).unwrap()));
        changed += usize::from(loaded.bytes(&loaded.tensors()[name]) != merged.bytes(tensor));
        // One step of bf16, where the order of the sum decides how a value is rounded.
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs().max(b.abs()) / 128.0;
        assert!(expected.iter().zip(&found).all(near), "{name}");
    }
    assert!(changed > 0);
}

const QUESTION: &str = "what is seven plus five";

#[test]
fn fine_tuning_by_adapters_teaches_an_answer_and_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines(folder.path(), &[talk(QUESTION, "hello"), talk("what is two plus two", "two plus two is four")]);
    let more =
        ["--lora", "--set", "run.rate=2e-2", "--set", "run.warm_up=0", "--set", "run.steps=25", "--set", "lora.rank=4"];
    // The first run has no time for a step but leaves a checkpoint.
    let first = train("sft", folder.path(), &data, &[&more[..], &["--minutes", "0"]].concat()).unwrap();
    assert!(first.ends_with("step-000000"));
    assert_eq!(answer(&first, QUESTION), "seven plus five is twelve");
    let last = train("sft", folder.path(), &data, &more).unwrap();
    assert!(last.ends_with("step-000025") && last.join("adapter_model.safetensors").exists());
    assert_eq!(answer(&last, QUESTION), "hello");
    // The adapter alone, on the model it was trained from, answers alike and speaks on.
    for builder in [Omni::builder(&last), Omni::builder(nano()).adapter(&last)] {
        let question = [Message::user().text(QUESTION)];
        let reply = builder.load().unwrap().generate(&question, &GenerateOptions::default().greedy()).unwrap();
        let speech = reply.speech.unwrap();
        assert_eq!((reply.text.as_str(), speech.finish_reason), ("hello", SpeechFinish::End));
        // A word is about six frames.
        assert!((3..=10).contains(&speech.codes.len()), "{} frames", speech.codes.len());
    }
    assert_merged_alike(&last);

    let (log, svg) = (folder.path().join("run/log.jsonl"), folder.path().join("run.svg"));
    assert!(run(&["plot", log.to_str().unwrap(), svg.to_str().unwrap()]).status.success());
    assert!(fs::read_to_string(svg).unwrap().contains("<polyline"));
    // Another run cannot take its place.
    let error = train("sft", folder.path(), &data, &["--lora", "--set", "run.rate=1e-3"]).unwrap_err();
    assert!(error.contains("run.rate") || error.contains("lora.rank") || error.contains("run.steps"), "{error}");
}

#[test]
fn rewards_make_a_rewarded_answer_likelier() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = |question: &str, solution: &str| {
        let messages = [serde_json::json!({"role": "user", "content": question})];
        serde_json::json!({"messages": messages, "solution": solution})
    };
    let data = lines(folder.path(), &[prompt(QUESTION, "seven plus five is twelve"), prompt("hello", "hello")]);
    // Hot enough that answers differ.
    let more = [
        "--reward",
        "words",
        "--set",
        "group=9",
        "--set",
        "prompts=2",
        "--set",
        "steps_per_round=2",
        "--set",
        "temperature=4",
        "--set",
        "max_new_tokens=12",
        "--set",
        "run.steps=4",
        "--set",
        "run.rate=1e-4",
    ];
    let last = train("gspo", folder.path(), &data, &more).unwrap();
    let log = fs::read_to_string(folder.path().join("run/log.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| (0.0..=1.0).contains(&line["reward"].as_f64().unwrap())), "{log}");
    assert!(!folder.path().join("run/policy").exists());
    assert!(!answer(&last, QUESTION).is_empty());

    // A program of one's own, which prints one number for each answer.
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    let command = "sh -c 'cat >/dev/null; echo 1 2 3 4 5 6 7 8 9'";
    let more = [&["--reward-command", command], &more[2..]].concat();
    train("gspo", &own, &data, &more).unwrap();
    let more = [&["--reward-command", "echo none"], &more[2..]].concat();
    let error = train("gspo", &folder.path().join("third"), &data, &more).unwrap_err();
    assert!(error.contains("echo") && error.contains("none"), "{error}");

    let data = self::lines(folder.path(), &[prompt(QUESTION, "x"), talk("a", "b")]);
    let error = train("gspo", &folder.path().join("other"), &data, &["--reward", "words"]).unwrap_err();
    assert!(error.contains("data.jsonl:2") && error.contains("solution"), "{error}");
}

#[test]
fn a_new_speaker_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let omni = Omni::builder(nano()).load().unwrap();
    let reply = omni.generate(&[Message::user().text(QUESTION)], &GenerateOptions::default()).unwrap();
    let codes = reply.speech.unwrap().codes;
    let shape = vec![codes.len(), codes[0].len()];
    let bytes: Vec<u8> = codes.iter().flatten().flat_map(|code| (*code as i16).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::I16, shape, &bytes).unwrap();
    safetensors::serialize_to_file([("codes", view)], None, &folder.path().join("codes.safetensors")).unwrap();
    let mut spoken = talk(QUESTION, &reply.text);
    spoken["codes"] = "codes.safetensors".into();
    let data = lines(folder.path(), std::slice::from_ref(&spoken));
    let more = ["--lora", "--new-speaker", "Vera", "--set", "run.steps=30", "--set", "run.rate=1e-2"];
    let last = train("talker", folder.path(), &data, &more).unwrap();

    // Without the voice's row, which is no part of the adapter.
    Omni::builder(nano()).adapter(&last).load().unwrap();
    let omni = Omni::builder(&last).load().unwrap();
    let options = GenerateOptions::default().speaker("vera").greedy_speech(true);
    let reply = omni.generate(&[Message::user().text(QUESTION)], &options).unwrap();
    let said = reply.speech.unwrap().codes;
    let same = said.iter().zip(&codes).filter(|(a, b)| a[0] == b[0]).count();
    assert!(same * 2 > codes.len(), "{same} of {} first codes", codes.len());

    spoken["speaker"] = "nobody".into();
    let data = lines(folder.path(), &[spoken]);
    let error = train("talker", &folder.path().join("other"), &data, &[]).unwrap_err();
    assert!(error.contains("data.jsonl:1") && error.contains("nobody"), "{error}");
}

#[test]
fn recordings_train_a_codec_whose_codes_the_talker_takes() {
    let folder = tempfile::tempdir().unwrap();
    let samples: Vec<f32> = (0..30_000).map(|at| 0.3 * (at as f32 * 0.05).sin()).collect();
    Audio { samples, sample_rate: 24_000 }.save_wav(folder.path().join("tone.wav")).unwrap();
    let mut spoken = talk(QUESTION, "hello");
    spoken["speech"] = "tone.wav".into();
    let data = lines(folder.path(), &[spoken]);
    let error = train("talker", folder.path(), &data, &["--strict"]).unwrap_err();
    assert!(error.contains("data.jsonl:1") && error.contains("qwen3-omni-train encode"), "{error}");

    let small = ["--set", "run.tokens_per_batch=12", "--set", "quantize_after=1", "--set", "run.steps=2"];
    let codec = train("codec", &folder.path().join("codec"), &data, &[&small[..], &["--fresh"]].concat()).unwrap();
    let encode = |more: &[&str]| {
        let out = folder.path().join("codes");
        let [codec, data, out] = [&codec, &data, &out].map(|path| path.to_str().unwrap());
        let output = run(&[&["encode", "--codec", codec, "--data", data, "--out", out], more].concat());
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8(text.clone()).unwrap());
        if output.status.success() { Ok(PathBuf::from(said[0].trim())) } else { Err(said[1].clone()) }
    };
    let coded = encode(&["--model", nano().to_str().unwrap()]).unwrap();
    assert_eq!(coded, folder.path().join("codes/data.jsonl"));
    assert!(encode(&["--codebooks", "3"]).unwrap_err().contains("expected 6"));
    let talker = train("talker", &folder.path().join("talker"), &coded, &["--strict", "--set", "run.steps=1"]).unwrap();
    assert!(talker.ends_with("step-000001"));

    // The vocoder alone, with the encoder of another folder.
    let own = folder.path().join("vocoder");
    let more = ["--decoder-only", "--codec", codec.to_str().unwrap()];
    let vocoder = train("codec", &own, &data, &[&small[..], &more].concat()).unwrap();
    let [a, b] = [&codec, &vocoder].map(|folder| fs::read(folder.join("codec-encoder.safetensors")).unwrap());
    assert_eq!(a, b);
    let error = train("codec", &folder.path().join("none"), &data, &["--decoder-only"]).unwrap_err();
    assert!(error.contains("codec-encoder.json"), "{error}");
}

#[test]
fn what_cannot_be_trained_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines(folder.path(), &[serde_json::json!({"messages": []})]);
    let refused = |more: &[&str], expected: &str| {
        let error = train("sft", folder.path(), &data, more).unwrap_err();
        assert!(error.contains(expected) && !error.contains("panicked"), "{more:?}: {error}");
    };
    refused(&["--strict"], "data.jsonl:1");
    refused(&["--set", "run.steps=0"], "steps");
    refused(&["--set", "train=+nothing.*"], "+nothing.*");
    refused(&["--settings", "missing.toml"], "missing.toml");
    refused(&["--device", "cuda:9"], "cuda");
    refused(&["--device", "cpu,cpu"], "named twice");
    refused(&["--set", "run.dtype=f16"], "bf16");
    let missing = Path::new("missing.jsonl");
    assert!(train("sft", folder.path(), missing, &[]).unwrap_err().contains("missing.jsonl"));
    let printed = run(&["settings", "gspo"]);
    assert!(String::from_utf8(printed.stdout).unwrap().contains("steps_per_round = 4"));
}
