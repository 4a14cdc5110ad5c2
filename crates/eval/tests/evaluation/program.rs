//! Runs of the program.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use qwen3_omni::{AudioInput, AutOptions, AutRecogniser, Device};
use serde_json::Value;

use crate::{PREFIX, TRANSCRIBE, items_path, lines, spoken_set, sums};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen3-omni-eval"));
    command.args(arguments).stdin(Stdio::null()).env_remove("QWEN3_OMNI_MODEL").env_remove("RUST_LOG");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn told(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

pub(crate) fn refused(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_table_or_json_is_printed_and_items_are_kept() {
    let (data, folder, nano) = (sums(), tempfile::tempdir().unwrap(), testkit::nano());
    let items = items_path(&folder);
    let aime = [
        "aime",
        "--data",
        path(data.path()),
        "--model",
        path(&nano),
        "--prompt",
        "{question}",
        "--items",
        path(&items),
    ];
    let table = told(&[&aime[..], &["--limit", "3"]].concat());
    assert!(table.contains("suite") && table.contains("accuracy    100.00 %"), "{table}");
    assert_eq!(lines(&items).len(), 4);
    let found: Value = serde_json::from_str(&told(&[&aime[..], &["--json"]].concat())).unwrap();
    assert_eq!(
        (&found["items"], &found["new_items"], &found["measures"]["accuracy"]),
        (&4.into(), &1.into(), &0.75.into())
    );
    assert_eq!((&found["suite"], &found["settings"]["prompt"]), (&"aime".into(), &"{question}".into()));
    let cut = told(&[
        "aime",
        "--data",
        path(data.path()),
        "--model",
        path(&nano),
        "--prompt",
        "{question}",
        "--max-tokens",
        "2",
    ]);
    assert!(cut.contains("cut off     100.00 %"), "{cut}");
    let said = refused(1, &[&aime[..], &["--max-tokens", "7"]].concat());
    assert!(said.contains("its run had max_tokens 32768, this one has 7"), "{said}");
}

#[test]
fn adapters_are_merged_and_belong_to_what_a_run_depends_on() {
    let (data, folder, tiny) = (sums(), tempfile::tempdir().unwrap(), testkit::tiny());
    let (items, adapter) = (items_path(&folder), testkit::adapters().join("thinker"));
    let aime = ["aime", "--data", path(data.path()), "--model", path(&tiny), "--limit", "1", "--max-tokens", "2"];
    let aime = [&aime[..], &["--items", path(&items), "--json"]].concat();
    let found: Value = serde_json::from_str(&told(&[&aime[..], &["--adapter", path(&adapter)]].concat())).unwrap();
    assert_eq!(found["settings"]["adapters"][0]["path"], path(&adapter.canonicalize().unwrap()), "{found}");
    let said = refused(1, &aime);
    assert!(said.contains("its run had adapters"), "{said}");
}

#[test]
fn a_model_transcribes_and_a_program_does_without_one() {
    let nano = testkit::nano();
    let data = ["librispeech", "--data", path(spoken_set()), "--split", "test", "--json"];
    let model = ["--model", path(&nano), "--transcribe", TRANSCRIBE, "--transcript-prefix", PREFIX];
    let found: Value = serde_json::from_str(&told(&[&data[..], &model].concat())).unwrap();
    assert!(
        found["measures"]["wer"].as_f64().unwrap() < 0.4 && found["real_time_factor"].as_f64().unwrap() > 0.0,
        "{found}"
    );
    #[cfg(unix)]
    {
        let command = ["--recogniser", "sh -c 'echo dog two' {wav}"];
        let found: Value = serde_json::from_str(&told(&[&data[..], &command].concat())).unwrap();
        assert!(
            found["settings"].get("model").is_none() && found["measures"]["wer"].as_f64().unwrap() > 0.5,
            "{found}"
        );
    }
}

#[test]
fn an_audio_encoder_with_a_text_decoder_recognises_without_the_model() {
    let (aut, folder) = (testkit::tiny_with_decoder(), tempfile::tempdir().unwrap());
    let items = items_path(&folder);
    let data = ["librispeech", "--data", path(spoken_set()), "--split", "test", "--json", "--items", path(&items)];
    let own = ["--aut", path(aut.path()), "--beam", "1", "--transcribe", "caption English"];
    let found: Value = serde_json::from_str(&told(&[&data[..], &own].concat())).unwrap();
    let settings = &found["settings"];
    assert!(settings.get("model").is_none() && settings["aut_files"].is_string(), "{settings}");
    assert_eq!((&settings["aut_prompt"], &settings["beam"]), (&"caption english".into(), &1.into()));
    let recogniser = AutRecogniser::open(aut.path(), &Device::cpu(), None).unwrap();
    let options = AutOptions::default().beam(1).prompt("caption english".parse().unwrap());
    for line in &lines(&items)[1..] {
        let sound = spoken_set().join("test/1/2").join(format!("{}.wav", line["id"].as_str().unwrap()));
        let text = recogniser.recognise(&AudioInput::from(sound), &options).unwrap();
        assert_eq!(line["answer"], text);
        // What random weights say is long.
        assert!(text.len() > 10, "{line}");
    }
    let said = refused(1, &[&data[..], &["--aut", path(aut.path()), "--beam", "2"]].concat());
    assert!(said.contains("its run had aut_prompt") || said.contains("its run had beam"), "{said}");
    let said = refused(1, &[&data[..6], &["--aut", path(&testkit::nano())]].concat());
    assert!(said.contains("aut-decoder.safetensors"), "{said}");
    let said = refused(1, &[&data[..6], &["--aut", path(aut.path()), "--transcribe", "sing"]].concat());
    assert!(said.contains("task `sing`"), "{said}");
    refused(2, &[&data[..6], &["--beam", "2"]].concat());
    refused(2, &[&data[..6], &["--aut", path(aut.path()), "--recogniser", "cat {wav}"]].concat());
}

#[test]
fn mistakes_are_named() {
    let (data, nano) = (sums(), testkit::nano());
    let aime = ["aime", "--data", path(data.path())];
    for (more, reason) in [
        (&["--model", "no/such/model"][..], "no/such/model"),
        (&[], "no model: --model or QWEN3_OMNI_MODEL"),
        (&["--model", path(&nano), "--speaker", "ethan"], "--speaker does nothing with aime: nothing is spoken"),
        (&["--model", path(&nano), "--recogniser", "cat {wav}"], "--recogniser does nothing with aime"),
        (&["--model", path(&nano), "--transcribe", "x"], "--transcribe does nothing with aime"),
        (&["--model", path(&nano), "--aut", path(&nano)], "--aut does nothing with aime"),
        (&["--model", path(&nano), "--items", "no/such/folder/items.jsonl"], "no/such/folder"),
    ] {
        let said = refused(1, &[&aime[..], more].concat());
        assert!(said.starts_with("error: ") && said.contains(reason), "{said}");
    }
    assert!(refused(1, &["gpqa", "--data", "no/such/data", "--model", path(&nano)]).contains("no/such/data"));
    assert!(refused(2, &["sat", "--data", "."]).contains("expected one of librispeech"));
    refused(2, &["aime"]);
    assert!(told(&["--help"]).contains("Example: qwen3-omni-eval librispeech"));
    fs::write(data.path().join("aime.jsonl"), "{\"problem\": \"?\", \"answer\": \"many\"}").unwrap();
    assert!(refused(1, &[&aime[..], &["--model", path(&nano)]].concat()).contains("aime.jsonl:1"));
}
