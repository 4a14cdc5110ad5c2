//! What is asked for without sense is refused before any model is loaded, which takes minutes.

use std::fs;
use std::path::Path;

use testkit::{copy_of, nano};

use super::super::trainer::forget;
use super::{QUESTION, lines, talk, train, train_from};

/// A copy of nano of which no part can be loaded: each lacks a norm, under a name of the same length.
fn unloadable() -> tempfile::TempDir {
    let copy = copy_of(&nano());
    for entry in fs::read_dir(copy.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let mut bytes = fs::read(&entry).unwrap();
        for norm in ["thinker.model.norm", "audio_tower.ln_post", "talker.model.norm", "pre_transformer.norm"] {
            let norm = format!("{norm}.weight");
            let mut from = 0;
            while let Some(at) = bytes[from..].windows(norm.len()).position(|found| found == norm.as_bytes()) {
                from += at + norm.len();
                bytes[from - 1] = b'x';
            }
        }
        fs::write(entry, bytes).unwrap();
    }
    copy
}

#[test]
fn what_needs_no_model_is_refused_before_one_is_loaded() {
    let (folder, model) = (tempfile::tempdir().unwrap(), unloadable());
    let data = lines(folder.path(), &[talk(QUESTION, "hello")]);
    let prompt = folder.path().join("prompt.txt");
    fs::write(&prompt, "How good is it?").unwrap();
    let (prompt, teacher) = (prompt.to_str().unwrap(), ["--teacher", model.path().to_str().unwrap()]);
    let said = |stage: &str, more: &[&str]| {
        let own: &[&str] = match stage {
            "distill" => &teacher,
            "gspo" => &["--reward-command", "true"],
            _ => &[],
        };
        train_from(model.path(), stage, &folder.path().join("run"), &data, &[own, more].concat()).unwrap_err()
    };
    for stage in ["sft", "aut", "talker", "dpo", "gspo", "distill", "codec"] {
        let error = said(stage, &[]);
        assert!(error.contains("norm.weighx") || error.contains("ln_post.weighx"), "{stage} loads a model: {error}");
    }

    for stage in ["sft", "aut", "talker", "dpo", "distill"] {
        let idle = "2 devices, but `run.batches_per_step` is 1";
        for (more, expected) in [
            (["--device", "cpu,cuda:0"], idle),
            (["--device", "cpu,cpu"], "named twice"),
            (["--set", "run.steps=0"], "`steps`"),
            (["--set", "train=thinker.*"], "pattern `thinker.*`"),
            (["--minutes", "inf"], "`minutes`"),
            (["--data", "missing.jsonl"], "missing.jsonl"),
            (["--data", "other.jsonl=-1"], "other.jsonl"),
        ] {
            let error = said(stage, &more);
            assert!(error.contains(expected), "{stage} {more:?}: {error}");
        }
    }
    for (stage, more, expected) in [
        ("sft", &["--set", "train=+talker.*"][..], "match no parameter"),
        ("sft", &["--lora", "--set", "lora.rank=0"], "lora.rank"),
        ("sft", &["--lora", "--set", "lora.targets=+nothing.*"], "match no parameter"),
        ("talker", &["--set", "train=+thinker.*"], "match no parameter"),
        ("talker", &["--new-speaker", "Vera", "--lora", "--set", "lora.rank=0"], "lora.rank"),
        ("dpo", &["--set", "train=+thinker.*"], "match no parameter"),
        ("distill", &["--set", "temperature=0.0"], "temperature"),
        ("distill", &["--set", "top_k=1089"], "1088, the vocabulary"),
        ("distill", &["--set", "train=+talker.*"], "match no parameter"),
        ("gspo", &["--device", "cpu,cuda:0", "--set", "run.batches_per_step=2"], "has one batch: expected one device"),
        ("gspo", &["--set", "train=+talker.*"], "match no parameter"),
        ("gspo", &["--reward", "judge=2"], "reward_judge"),
        ("gspo", &["--reward", "number=0"], "the weight 0"),
        ("gspo", &["--reward-judge", "no/such/judge", "--judge-prompt", prompt], "{answer}"),
        ("codec", &["--device", "cpu,cuda:0", "--set", "run.batches_per_step=2"], "depend on each other"),
        ("codec", &["--decoder-only", "--device", "cpu,cuda:0"], "`run.batches_per_step` is 1"),
        ("codec", &["--set", "run.dtype=bf16"], "`run.dtype`: bf16, expected f32"),
        ("codec", &["--decoder-only", "--set", "run.dtype=bf16"], "`run.dtype`: bf16, expected f32"),
        ("codec", &["--set", "decay=2.0"], "decay"),
        ("codec", &["--set", "train=+talker.*"], "match no parameter"),
        ("aut", &["--set", "train=+talker.*"], "match no parameter"),
        ("codec", &["--set", "quantize_after=2500"], "quantize_after"),
    ] {
        let error = said(stage, more);
        assert!(error.contains(expected), "{stage} {more:?}: {error}");
    }
    let stored = folder.path().join("stored.safetensors");
    let [data, out] = [&data, &stored].map(|path| path.to_str().unwrap());
    let teach = |data: &str, k: &str| {
        super::said(&[&["teach"], &teacher[..], &["--data", data, "--out", out, "--top-k", k]].concat()).unwrap_err()
    };
    assert!(teach(data, "8").contains("norm.weight"));
    assert!(teach(data, "1089").contains("1089, expected 1 to 1088"));
    assert!(teach("missing.jsonl", "8").contains("missing.jsonl"));
    // How many batches a student's own answers make is not known before.
    let error = said("distill", &["--on-policy", "--device", "cpu,cuda:0"]);
    assert!(!error.contains("batches_per_step"), "{error}");
}

#[test]
fn a_changed_setting_is_refused_before_a_model_is_loaded_and_one_that_is_new_is_not() {
    let (folder, model) = (tempfile::tempdir().unwrap(), unloadable());
    let data = lines(folder.path(), &[talk(QUESTION, "hello")]);
    let more = ["--lora", "--set", "lora.rank=2", "--set", "run.steps=2"];
    let first = train("sft", folder.path(), &data, &[&more[..], &["--minutes", "0"]].concat()).unwrap();
    let again = |model: &Path, changed: &[&str]| {
        train_from(model, "sft", &folder.path().join("run"), &data, &[&more[..], changed].concat())
    };
    for (changed, expected) in [
        ("run.rate=1e-3", "`run.rate` was 0.00001 and is now 0.001"),
        ("run.dtype=bf16", "`run.dtype` was \"f32\" and is now \"bf16\""),
        ("lora.alpha=1.0", "`lora.alpha` was 16.0 and is now 1.0"),
    ] {
        let error = again(model.path(), &["--set", changed]).unwrap_err();
        assert!(error.contains(expected), "{changed}: {error}");
    }

    // As code wrote it that did not have these settings yet.
    forget(&first, &[("run", "dtype"), ("run", "window"), ("lora", "alpha")]);
    let error = again(model.path(), &["--set", "run.dtype=bf16"]).unwrap_err();
    assert!(error.contains("`run.dtype` was \"f32\" and is now \"bf16\""), "{error}");
    assert!(again(&nano(), &[]).unwrap().ends_with("step-000002"));
}
