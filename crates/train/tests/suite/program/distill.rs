use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use omni_core::Dtype;
use qwen3_omni_train::data::{BatchOptions, Batches, DataSource, SampleOptions, SampleReader};
use qwen3_omni_train::stage::{CheckpointTeacher, StoredTeacher, Teacher, lessons};
use safetensors::SafeTensors;
use testkit::{copy_of, nano, tiny};

use super::{QUESTION, answer, lines, log, said, talk, train, train_from};

const RIGHT: &str = "seven plus five is twelve";

/// Nano, after it learned that the answer is `hello`.
fn student(folder: &Path) -> PathBuf {
    let folder = folder.join("student");
    fs::create_dir(&folder).unwrap();
    let data = lines(&folder, &[talk(QUESTION, "hello")]);
    let student = train("sft", &folder, &data, &set(&["run.rate=5e-4", "run.warm_up=0", "run.steps=8"])).unwrap();
    assert_eq!(answer(&student, QUESTION), "hello");
    student
}

fn divergences(checkpoint: &Path) -> Vec<f64> {
    log(checkpoint).iter().map(|line| line["kl"].as_f64().unwrap()).collect()
}

/// Checks that the loss of each step is the sum of its parts.
fn adds_up(checkpoint: &Path, ce: f64) {
    for line in log(checkpoint) {
        let part = |name: &str| line[name].as_f64().unwrap();
        let sum = part("kl") + ce * part("ce") + 0.001 * part("aux");
        assert!((part("loss") - sum).abs() < 1e-4 * sum.max(1.0), "{line}");
    }
}

/// Arguments as `--set` takes them.
fn set<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["--set", setting]).collect()
}

const RUN: [&str; 4] = ["run.rate=1e-3", "run.warm_up=0", "run.steps=16", "run.seed=3"];

#[test]
fn a_student_comes_to_answer_as_its_teacher() {
    let folder = tempfile::tempdir().unwrap();
    let student = student(folder.path());
    let data = lines(folder.path(), &[talk(QUESTION, RIGHT), talk("hello", "hello")]);
    let nano = nano();
    let teacher = ["--teacher", nano.to_str().unwrap()];
    let given = folder.path().join("given");
    // The reverse divergence of a student who is sure of something else hardly has a gradient.
    let more = [&teacher[..], &set(&RUN), &set(&["divergence=forward_kl"])].concat();
    let last = train_from(&student, "distill", &given, &data, &more).unwrap();
    let kl = divergences(&last);
    assert!(kl.len() == 16 && kl[15] < 0.1 * kl[0], "{kl:?}");
    adds_up(&last, 0.0);
    assert_eq!(answer(&last, QUESTION), RIGHT);

    // On answers of its own, it is told what to say instead of each token; by the forward divergence, for the same reason.
    let own = folder.path().join("own");
    let on_policy = ["--on-policy", "--set", "on_policy.prompts=2", "--set", "on_policy.answers=4"];
    let settings = set(&["on_policy.max_new_tokens=12", "on_policy.steps_per_round=4"]);
    let more = [
        &teacher[..],
        &on_policy,
        &settings,
        &set(&RUN),
        &set(&["divergence=forward_kl", "run.rate=3e-4", "run.steps=40"]),
    ]
    .concat();
    let last = train_from(&student, "distill", &own, &data, &more).unwrap();
    let kl = divergences(&last);
    assert!(kl.len() == 40 && kl[39] < 0.1 * kl[0], "{kl:?}");
    assert_eq!(answer(&last, QUESTION), RIGHT);
    assert!(!own.join("policy").exists());
}

/// The first batch of a file, with both lines in it.
fn batch(data: &Path) -> qwen3_omni_train::stage::Lessons {
    let reader = SampleReader::open(nano(), SampleOptions::default()).unwrap();
    let sources = vec![DataSource::open("lines", [data]).unwrap()];
    let mut batches = Batches::start(sources, reader, BatchOptions::default().epochs(1), None).unwrap();
    lessons(batches.next().unwrap().unwrap(), &Device::flex())
}

#[test]
fn stored_logits_teach_what_the_teacher_does() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines(folder.path(), &[talk(QUESTION, "seven plus five is nine"), talk("hello", "goodbye")]);
    let (nano, stored) = (nano(), folder.path().join("lines.safetensors"));
    let paths = [&nano, &data, &stored].map(|path| path.to_str().unwrap());
    said(&["teach", "--teacher", paths[0], "--data", paths[1], "--out", paths[2], "--top-k", "8"]).unwrap();
    let bytes = fs::read(&stored).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("data.jsonl:2.ids").unwrap().shape()[1], 8);
    assert!(fs::read_dir(folder.path()).unwrap().count() == 2, "nothing is left beside the data");

    // Row by row the same ids and logits as those of the teacher itself, whatever the order of the lines.
    let device = Device::flex();
    let lessons = batch(&data);
    let live =
        CheckpointTeacher::open(&nano, &nano, &device, Dtype::F32).unwrap().logits(&lessons).unwrap().best(8).unwrap();
    let found = StoredTeacher::open(&stored, &nano, &device).unwrap().logits(&lessons).unwrap();
    let [ids, found_ids] = [live.0, found.ids.unwrap()];
    assert_eq!(ids.dims()[0], lessons.samples.iter().map(|sample| sample.learned()).sum::<usize>());
    ids.into_data().assert_eq(&found_ids.into_data(), true);
    let (live, found) = (nn::to_f32_vec(&live.1), nn::to_f32_vec(&found.logits));
    assert!(live.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-4) && live[0] > live[1], "{live:?} {found:?}");

    let student = student(folder.path());
    let settings = [&set(&RUN)[..], &set(&["divergence=forward_kl", "run.steps=3"])].concat();
    let run = |name: &str, teacher: [&str; 2], more: &[&str]| {
        let out = folder.path().join(name);
        train_from(&student, "distill", &out, &data, &[&teacher[..], &settings, more].concat())
    };
    let from_file = ["--teacher-logits", paths[2]];
    let a = divergences(&run("live", ["--teacher", paths[0]], &["--set", "top_k=8"]).unwrap());
    let b = divergences(&run("stored", from_file, &[]).unwrap());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4) && a[0] > 0.1, "{a:?} and {b:?}");

    // What was not stored cannot be learned.
    let error = run("own", from_file, &["--on-policy"]).unwrap_err();
    assert!(error.contains("on_policy") && error.contains("stored"), "{error}");
    let error = run("more", from_file, &["--set", "top_k=9"]).unwrap_err();
    assert!(error.contains("top_k") && error.contains("expected 8"), "{error}");
    lines(folder.path(), &[talk(QUESTION, "seven plus five is ten")]);
    let error = run("changed", from_file, &[]).unwrap_err();
    assert!(error.contains("data.jsonl:1") && error.contains("not what the teacher read"), "{error}");
    lines(folder.path(), &[talk("what is one plus one", "two"), talk("a", "b"), talk("c", "d")]);
    let error = run("longer", from_file, &["--set", "run.tokens_per_batch=24"]).unwrap_err();
    assert!(error.contains("data.jsonl:"), "{error}");
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let same_name = lines(&other, &[talk("a", "b")]);
    let both = ["teach", "--teacher", paths[0], "--data", paths[1], "--data", same_name.to_str().unwrap()];
    let out = other.join("both.safetensors");
    let error = said(&[&both[..], &["--out", out.to_str().unwrap(), "--top-k", "2"]].concat()).unwrap_err();
    assert!(error.contains("data.jsonl:1") && error.contains("different names"), "{error}");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1, "what is not whole is removed");
    fs::write(&stored, &bytes[..bytes.len() - 4]).unwrap();
    let error = run("short", from_file, &[]).unwrap_err();
    assert!(error.contains("lines.safetensors") && error.contains("cut short"), "{error}");
}

#[test]
fn a_teacher_of_another_vocabulary_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines(folder.path(), &[talk(QUESTION, RIGHT)]);
    let refused = |teacher: &Path, expected: &str| {
        let error = train("distill", folder.path(), &data, &["--teacher", teacher.to_str().unwrap()]).unwrap_err();
        assert!(error.contains(expected) && error.contains("vocabulary of the student"), "{error}");
    };
    refused(&tiny(), "id ");
    // The same tokens, two of them in each other's place.
    let swapped = copy_of(&nano());
    let path = swapped.path().join("vocab.json");
    let mut vocabulary: BTreeMap<String, u32> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (hello, goodbye) = (vocabulary["hello"], vocabulary["goodbye"]);
    vocabulary.insert("hello".into(), goodbye);
    vocabulary.insert("goodbye".into(), hello);
    fs::write(&path, serde_json::to_string(&vocabulary).unwrap()).unwrap();
    refused(swapped.path(), &format!("id {} is `goodbye` and not `hello`", hello.min(goodbye)));

    let stored = folder.path().join("swapped.safetensors");
    let paths = [swapped.path(), &data, &stored].map(|path| path.to_str().unwrap());
    said(&["teach", "--teacher", paths[0], "--data", paths[1], "--out", paths[2], "--top-k", "2"]).unwrap();
    let error = train("distill", folder.path(), &data, &["--teacher-logits", paths[2]]).unwrap_err();
    assert!(error.contains("swapped.safetensors") && error.contains("another vocabulary"), "{error}");
    let error = said(&["teach", "--teacher", paths[0], "--data", paths[1], "--out", paths[2], "--top-k", "1089"]);
    assert!(error.unwrap_err().contains("1089, expected 1 to 1088"));
}

#[test]
fn settings_of_distillation_without_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines(folder.path(), &[talk(QUESTION, RIGHT)]);
    let nano = nano();
    for (settings, expected) in [
        (vec!["--on-policy", "--set", "ce=0.3"], "`ce`"),
        (vec!["--set", "temperature=0.0"], "temperature"),
        (vec!["--set", "divergence.jsd.beta=1.0"], "beta"),
        (vec!["--set", "divergence=sideways"], "sideways"),
        (vec!["--set", "top_k=1089"], "1088"),
        (vec!["--on-policy", "--set", "on_policy.answers=0"], "on_policy.answers"),
    ] {
        let more = [&["--teacher", nano.to_str().unwrap()], &settings[..]].concat();
        let error = train("distill", folder.path(), &data, &more).unwrap_err();
        assert!(error.contains(expected) && !error.contains("panicked"), "{settings:?}: {error}");
    }
}

#[test]
fn a_resumed_distillation_equals_one_that_was_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let student = student(folder.path());
    let talks = [talk(QUESTION, RIGHT), talk("hello", "hello"), talk("what is two plus two", "two plus two is four")];
    let (data, nano) = (lines(folder.path(), &talks), nano());
    let settings = set(&[
        "run.rate=1e-3",
        "run.steps=4",
        "run.save_every=2",
        "run.tokens_per_batch=40",
        "divergence.jsd.beta=0.5",
    ]);
    let on_policy =
        set(&["on_policy.prompts=2", "on_policy.steps_per_round=2", "on_policy.max_new_tokens=8", "lora.rank=2"]);
    for (name, ce, more) in [("given", 0.3, vec!["--set", "ce=0.3"]), ("own", 0.0, on_policy)] {
        let more = [&["--teacher", nano.to_str().unwrap()], &settings[..], &more].concat();
        let [whole, resumed] = ["whole", "resumed"].map(|run| folder.path().join(format!("{name}-{run}")));
        let last = train_from(&student, "distill", &whole, &data, &more).unwrap();
        adds_up(&last, ce);
        // What a kill after the third step leaves.
        let half = copy_of(&whole.join("step-000002"));
        let trainer = copy_of(&whole.join("step-000002/trainer"));
        fs::create_dir(&resumed).unwrap();
        fs::rename(half.path(), resumed.join("step-000002")).unwrap();
        fs::rename(trainer.path(), resumed.join("step-000002/trainer")).unwrap();
        fs::copy(whole.join("log.jsonl"), resumed.join("log.jsonl")).unwrap();
        let again = train_from(&student, "distill", &resumed, &data, &more).unwrap();
        let mut compared = 0;
        for entry in walk(&last).into_iter().filter(|path| path.extension().is_some_and(|end| end == "safetensors")) {
            let other = again.join(entry.strip_prefix(&last).unwrap());
            assert!(fs::read(&entry).unwrap() == fs::read(other).unwrap(), "{} differs", entry.display());
            compared += 1;
        }
        assert!(compared > 4, "{compared} files");
        assert_eq!(divergences(&last), divergences(&again), "{name}");
    }
}

/// The files of a folder and of those in it.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
