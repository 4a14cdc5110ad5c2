use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use qwen3_omni::ReadMedia;
use qwen3_omni_train::Error;
use qwen3_omni_train::data::{Batch, BatchOptions, Batches, BatchesState, DataSource, SampleOptions, SampleReader};
use qwen3_omni_train::stage::{AugmentSettings, Augmenter};
use serde_json::{Value, json};
use tempfile::TempDir;

static READER: LazyLock<Arc<SampleReader>> =
    LazyLock::new(|| Arc::new(SampleReader::open(testkit::tiny(), SampleOptions::default()).unwrap()));

/// Small batches, of which a window holds few.
fn small() -> BatchOptions {
    BatchOptions::default().tokens_per_batch(200).window(4).epochs(2)
}

/// A file with as many conversations, of 15 to 75 tokens or so, each with its number.
fn talks(folder: &TempDir, name: &str, count: usize) -> PathBuf {
    let talk = |id: usize| {
        let answer = "wave ".repeat(1 + id * 7 % 23);
        json!({"id": id, "messages": [{"role": "user", "content": "Count."}, {"role": "assistant", "content": answer}]})
    };
    write(folder, name, (0..count).map(|id| talk(id).to_string()))
}

fn write(folder: &TempDir, name: &str, lines: impl IntoIterator<Item = String>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, lines.into_iter().map(|line| line + "\n").collect::<String>()).unwrap();
    path
}

fn source(path: &Path) -> DataSource {
    DataSource::open(path.file_stem().unwrap().to_string_lossy(), [path]).unwrap()
}

fn start(paths: &[&Path], options: &BatchOptions, state: Option<BatchesState>) -> Batches {
    let sources = paths.iter().map(|path| source(path)).collect();
    Batches::start(sources, Arc::clone(&READER), options.clone(), state).unwrap()
}

/// Source and number of each line of a batch.
fn names(batch: &Batch) -> Vec<(usize, u64)> {
    batch.items.iter().map(|item| (item.source, item.line.extra["id"].as_u64().unwrap())).collect()
}

fn all(batches: Batches) -> Vec<Vec<(usize, u64)>> {
    batches.map(|batch| names(&batch.unwrap())).collect()
}

#[test]
fn the_order_depends_on_the_seed_and_not_on_what_is_made_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (talks(&folder, "a.jsonl", 90), talks(&folder, "b.jsonl", 60));
    let expected = all(start(&[&a, &b], &small(), None));
    for (prefetch, memory) in [(0, 1 << 30), (1, 0), (50, 2000)] {
        let options = small().prefetch(prefetch).memory(memory);
        assert_eq!(all(start(&[&a, &b], &options, None)), expected, "{prefetch} {memory}");
    }
    assert_ne!(all(start(&[&a, &b], &small().seed(1), None)), expected);
}

#[test]
fn every_line_comes_once_an_epoch_in_another_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = talks(&folder, "a.jsonl", 80);
    // One line a batch, one batch a window: the order of the lines.
    let options = small().rows(1).window(1);
    let ids: Vec<u64> = all(start(&[&path], &options, None)).concat().into_iter().map(|(_, id)| id).collect();
    let (first, second) = ids.split_at(80);
    for epoch in [first, second] {
        let mut sorted = epoch.to_vec();
        sorted.sort();
        assert!(sorted.into_iter().eq(0..80), "{epoch:?}");
    }
    assert_ne!(first, second);
    let found = all(start(&[&path], &options.shuffle(false), None)).concat();
    assert!(found.into_iter().map(|(_, id)| id).eq((0..80).chain(0..80)));
}

#[test]
fn batches_keep_their_limits_and_hold_lines_of_like_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = talks(&folder, "a.jsonl", 70);
    let options = small().epochs(1).window(64).rows(6);
    let batches: Vec<Batch> = start(&[&path], &options, None).map(Result::unwrap).collect();
    assert!(batches.iter().all(|batch| batch.tokens() <= 200 && batch.items.len() <= 6));
    assert!(batches.iter().any(|batch| batch.items.len() == 6) && batches.iter().any(|batch| batch.items.len() < 5));
    let lengths = |batch: &Batch| batch.items.iter().map(|item| item.sample.ids.len()).collect::<Vec<_>>();
    let mut ranges: Vec<_> =
        batches.iter().map(|batch| (lengths(batch).into_iter().min(), lengths(batch).into_iter().max())).collect();
    assert!(!ranges.is_sorted(), "batches are shuffled");
    ranges.sort();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:?}");
}

#[test]
fn sounds_are_changed_alike_after_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let tone = testkit::media().join("tone.flac").display().to_string();
    let line = |id: usize| json!({"id": id, "audio": tone, "text": "a tone"}).to_string();
    let path = write(&folder, "sounds.jsonl", (0..6).map(line));
    let options = BatchOptions::default().rows(2).window(1).epochs(1);
    let mels = |batch: &Batch| -> Vec<Vec<f32>> {
        let of_item = |item: &qwen3_omni_train::data::BatchItem| match item.sample.media.as_slice() {
            [ReadMedia::Sound(mel)] => mel.values().to_vec(),
            other => panic!("{other:?}"),
        };
        batch.items.iter().map(of_item).collect()
    };
    let changed = |settings: &AugmentSettings, taken: usize| -> Vec<Vec<Vec<f32>>> {
        let mut augmenter = Augmenter::new(settings.clone(), 5, taken as u64);
        let batches = start(&[&path], &options, None).map(Result::unwrap).skip(taken);
        batches
            .map(|mut batch| {
                augmenter.augment(&mut batch);
                mels(&batch)
            })
            .collect()
    };
    let plain: Vec<_> = start(&[&path], &options, None).map(|batch| mels(&batch.unwrap())).collect();
    assert_eq!(plain.len(), 3);
    assert!(changed(&AugmentSettings::default(), 0) == plain, "off");
    let settings = AugmentSettings { gain: 0.1, noise: 0.05, ..AugmentSettings::spec_augment() };
    let whole = changed(&settings, 0);
    assert!(changed(&settings, 1) == whole[1..], "after a resume");
    // The same tone in every line, and no two alike.
    let mut all: Vec<Vec<f32>> = whole.concat();
    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]) && !all.contains(&plain[0][0]));
}

#[test]
fn batches_go_on_from_any_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (talks(&folder, "a.jsonl", 50), talks(&folder, "b.jsonl", 33));
    let mixed = std::fs::read_to_string(&a).unwrap().replacen("\"role\"", "\"rule\"", 3);
    std::fs::write(&a, mixed).unwrap();
    let mut batches = start(&[&a, &b], &small(), None);
    let mut states = vec![batches.state().clone()];
    let mut expected = Vec::new();
    while let Some(batch) = batches.next() {
        expected.push(names(&batch.unwrap()));
        states.push(batches.state().clone());
    }
    assert!(expected.len() > 12, "several windows: {}", expected.len());
    // Three does not divide the number of batches of most windows, so that every place in one occurs.
    for (position, state) in states.iter().enumerate().step_by(3).chain([(expected.len(), &states[expected.len()])]) {
        let stored = serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap();
        let mut rest = start(&[&a, &b], &small(), Some(stored));
        assert_eq!(rest.state().batches, position as u64);
        let found: Vec<_> = rest.by_ref().map(|batch| names(&batch.unwrap())).collect();
        assert_eq!(found, expected[position..], "from {position}");
        assert_eq!(rest.state(), states.last().unwrap());
        assert!(rest.sources().map(|(_, state)| state).eq(batches.sources().map(|(_, state)| state)));
    }
}

#[test]
fn a_state_of_other_data_or_options_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = talks(&folder, "a.jsonl", 20);
    let state = start(&[&path], &small(), None).state().clone();
    let refused = |path: &Path, options: BatchOptions| {
        let begun = Batches::start(vec![source(path)], Arc::clone(&READER), options, Some(state.clone()));
        matches!(begun, Err(Error::Option { name: "state", .. }))
    };
    assert!(!refused(&path, small().epochs(None).prefetch(9)));
    assert!(refused(&path, small().seed(1)));
    assert!(refused(&talks(&folder, "a.jsonl", 21), small()));
}

#[test]
fn sources_have_their_shares_of_tokens_and_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, c) = (talks(&folder, "a.jsonl", 40), talks(&folder, "b.jsonl", 7), talks(&folder, "c.jsonl", 5));
    let sources = vec![source(&a).with_share(1.0), source(&b).with_share(3.0), source(&c).with_share(0.0)];
    let mut batches = Batches::start(sources, Arc::clone(&READER), small().epochs(None), None).unwrap();
    assert!(batches.by_ref().take(60).all(|batch| batch.is_ok()));
    let read: Vec<_> = batches.sources().map(|(_, state)| state.clone()).collect();
    // The next line is always one of the source that is furthest behind, so that none is ahead by more than its longest line.
    let ahead = read[1].tokens as f64 / 3.0 - read[0].tokens as f64;
    assert!(ahead.abs() <= 80.0 && read[0].tokens > 800, "{ahead} of {read:?}");
    assert!(read[1].epoch > 10 && read[2].tokens == 0, "{read:?}");
}

#[test]
fn what_cannot_be_used_is_counted_or_ends_the_batches() {
    let folder = tempfile::tempdir().unwrap();
    let talk = |answer: &str, loss: bool| {
        let answer = json!({"role": "assistant", "content": answer, "loss": loss});
        json!({"id": 0, "messages": [{"role": "user", "content": "Q"}, answer]}).to_string()
    };
    let lines = [
        talk("A", true),
        String::new(),
        "{".into(),
        talk(&"wave ".repeat(400), true),
        talk("A", false),
        json!({"messages": [{"role": "user", "content": "<audio>"}], "audios": ["none.wav"]}).to_string(),
        "\u{FEFF}".to_owned() + &talk("B", true),
    ];
    let path = write(&folder, "a.jsonl", lines);
    let options = small().epochs(1);
    let mut batches = start(&[&path], &options, None);
    assert_eq!(batches.by_ref().map(|batch| batch.unwrap().items.len()).sum::<usize>(), 2);
    let (_, read) = batches.sources().next().unwrap();
    assert_eq!((read.read(), read.given, read.too_long, read.bad), (6, 2, 1, 3));

    let mut batches = start(&[&path], &options.strict(true).shuffle(false), None);
    let error = batches.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("a.jsonl:3: expected one JSON object"), "{error}");
    assert!(batches.next().is_none());
}

#[test]
fn a_source_that_gives_nothing_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let good = talks(&folder, "good.jsonl", 3);
    for (name, lines, expected) in
        [("none", vec![], "none of its 0 lines"), ("bad", vec!["{".into()], "1 bad, 0 too long; the first: ")]
    {
        let path = write(&folder, name, lines);
        for sources in [&[good.as_path(), path.as_path()][..], &[path.as_path()]] {
            let error = start(sources, &small(), None).find_map(Result::err).unwrap().to_string();
            assert!(error.contains(&format!("source `{name}`")) && error.contains(expected), "{error}");
        }
    }
    let missing = DataSource::open("missing", [folder.path().join("missing.jsonl")]).unwrap_err();
    assert!(missing.to_string().contains("missing.jsonl"));
}

#[test]
fn rejected_answers_are_read_and_counted_if_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let talk = |rejected: Value| {
        let messages = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]);
        json!({"id": 0, "messages": messages, "rejected_response": rejected}).to_string()
    };
    let path = write(&folder, "a.jsonl", [talk(json!("B")), talk(Value::Null)]);
    let mut batches = start(&[&path], &small().epochs(1).rejected(true), None);
    let batch = batches.next().unwrap().unwrap();
    let [item] = batch.items.as_slice() else { panic!("one line") };
    assert_eq!(batch.tokens(), 2 * item.sample.ids.len());
    assert_eq!(batch.origin(), format!("{}:1", path.display()));
    assert_ne!(item.rejected.as_ref().unwrap().ids, item.sample.ids);
    assert_eq!(batches.sources().next().unwrap().1.bad, 1);
}

#[test]
fn batches_that_nobody_takes_end_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = talks(&folder, "a.jsonl", 20);
    // A window that would never be full.
    drop(start(&[&path], &small().epochs(None).window(usize::MAX), None));
    let mut batches = start(&[&path], &small().epochs(None).prefetch(0), None);
    assert!(batches.next().unwrap().is_ok());
}

#[test]
fn lines_are_numbered_over_several_files() {
    let folder = tempfile::tempdir().unwrap();
    let files = [talks(&folder, "a.jsonl", 3), talks(&folder, "b.jsonl", 2)];
    let source = DataSource::open("both", files).unwrap();
    let places: BTreeMap<u32, (String, u64)> = (0..source.lines())
        .map(|index| {
            let location = source.line(index).unwrap().unwrap().location;
            (index, (location.path.file_name().unwrap().to_string_lossy().into_owned(), location.line))
        })
        .collect();
    assert_eq!((places[&0].clone(), places[&4].clone()), (("a.jsonl".into(), 1), ("b.jsonl".into(), 2)));
}
