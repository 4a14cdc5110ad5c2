use std::fs;
use std::path::Path;

use qwen3_omni_train::data::{Line, Location, SpeechTarget, read_codes};
use testkit::nano;

use super::{QUESTION, lines, said, talk, train};

const SAID: &str = "seven plus five is twelve";

/// A recogniser that hears the text once, and one wrong word in all other sounds.
fn hears_once(folder: &Path) -> String {
    let first = folder.join("first");
    fs::remove_dir(&first).ok();
    let script = format!("if mkdir \"$0\" 2>/dev/null; then echo {SAID}; else echo seven plus nine is twelve; fi");
    format!("sh -c '{script}' {} {{wav}}", first.display())
}

fn pairs(data: &Path, out: &Path, recogniser: &str, more: &[&str]) -> Result<Vec<serde_json::Value>, String> {
    let nano = nano();
    let paths = [&nano, data, out].map(|path| path.to_str().unwrap());
    let own = ["pairs", "--model", paths[0], "--data", paths[1], "--out", paths[2], "--recogniser", recogniser];
    said(&[&own, more].concat())?;
    let text = fs::read_to_string(out).unwrap();
    Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn what_is_heard_better_is_preferred() {
    let folder = tempfile::tempdir().unwrap();
    let mut spoken = talk(QUESTION, SAID);
    spoken["topic"] = "sums".into();
    let lonely = serde_json::json!({"messages": [{"role": "user", "content": QUESTION}]});
    let data = lines(folder.path(), &[spoken, lonely]);
    let out = folder.path().join("pairs.jsonl");
    let more = ["--samples", "6", "--temperature", "3", "--longest", "20", "--speaker", "vera"];
    assert!(pairs(&data, &out, &hears_once(folder.path()), &more).unwrap_err().contains("vera"));
    fs::remove_file(&out).unwrap();
    let made = pairs(&data, &out, &hears_once(folder.path()), &more[..6]).unwrap();
    let [line] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!((&line["topic"], &line["wer"]), (&"sums".into(), &serde_json::json!([0.0, 0.25])));

    // It is a line of training data, whose codes are there.
    let parsed = Line::parse(&line.to_string(), &Location { path: out.as_path().into(), line: 1 }).unwrap();
    let codes = [&parsed.speech, &parsed.rejected_speech].map(|speech| match speech {
        Some(SpeechTarget::Codes(path)) => read_codes(path, 6, &parsed).unwrap(),
        other => panic!("{other:?}"),
    });
    assert!(codes[0] != codes[1] && codes.iter().all(|codes| codes.len() > 5));
    train("dpo", folder.path(), &out, &["--strict", "--set", "run.steps=1"]).unwrap();

    // A speech that was stopped has no end to learn.
    let mut stopped = line.clone();
    let other = folder.path().join("stopped");
    for (ends, expected) in [(serde_json::json!(false), None), (serde_json::json!("no"), Some("rejected_ends"))] {
        stopped["rejected_ends"] = ends;
        fs::create_dir_all(&other).unwrap();
        let data = folder.path().join("stopped.jsonl");
        fs::write(&data, stopped.to_string()).unwrap();
        let trained = train("dpo", &other, &data, &["--strict", "--set", "run.steps=1"]);
        fs::remove_dir_all(other.join("run")).ok();
        assert_eq!(trained.is_err(), expected.is_some(), "{trained:?}");
        assert!(trained.is_ok() || trained.unwrap_err().contains(expected.unwrap_or_default()));
    }

    // Pairs that are there are added to, never written over.
    assert!(pairs(&data, &out, &hears_once(folder.path()), &more[..6]).unwrap_err().contains("pairs.jsonl"));
    let again = pairs(&data, &out, &hears_once(folder.path()), &[&more[..6], &["--from", "1"]].concat()).unwrap();
    assert_eq!(again, [&made[..], &made].concat());
}

#[test]
fn without_a_margin_there_is_no_pair_and_failures_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines(folder.path(), &[talk(QUESTION, SAID)]);
    let refused = |recogniser: &str, more: &[&str], expected: &str| {
        let error = pairs(&data, &folder.path().join("pairs.jsonl"), recogniser, more).unwrap_err();
        fs::remove_file(folder.path().join("pairs.jsonl")).ok();
        assert!(error.contains(expected) && !error.contains("panicked"), "{error}");
    };
    let two = ["--samples", "2"];
    // The name of the file is another one each time.
    refused("sh -c 'echo seven plus five' {wav}", &two, "0 pairs of 1 lines");
    refused("false {wav}", &two, "recogniser");
    refused("echo", &two, "{wav}");
    refused("echo {wav}", &["--samples", "1"], "samples");
    refused("echo {wav}", &["--margin", "0"], "margin");
}
