//! Directories that are written: one writer at a time, resumed only from what is whole and of the same source, and no file of others
//! touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoint::{Dtype, UNFINISHED};
use omni_core::{Error, Result};
use qwen3_omni_weights_tools::Progress;
use qwen3_omni_weights_tools::convert::{Options, convert};
use qwen3_omni_weights_tools::init::{self, init_without_weights};

const SHARD: u64 = 400_000;
const LOCK: &str = "weights-tools.lock";

fn options(source: &Path, out: &Path) -> Options {
    let (source, out) = (source.to_owned(), out.to_owned());
    Options {
        source,
        out,
        adapters: vec![],
        dtype: Some(Dtype::Bf16),
        dequantize: false,
        shard_bytes: SHARD,
        restart: false,
    }
}

fn go_on(_: Progress) -> Result<()> {
    Ok(())
}

/// Fails after this many bytes, as if somebody had stopped the program.
fn stop_after(bytes: u64) -> impl FnMut(Progress) -> Result<()> {
    move |progress| if progress.bytes > bytes { Err(Error::Request("stopped".into())) } else { Ok(()) }
}

fn message(options: &Options) -> String {
    convert(options, go_on).unwrap_err().to_string()
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn shards(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|end| end == "safetensors"));
    found.sort();
    found
}

fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// A whole conversion, to compare with.
fn whole(source: &Path) -> BTreeMap<String, Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    convert(&options(source, directory.path()), go_on).unwrap();
    files(directory.path())
}

#[test]
fn a_second_job_into_the_same_directory_is_refused_while_the_first_runs() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&testkit::tiny(), directory.path());
    let (mut refused, mut next) = (Vec::new(), 0);
    convert(&options, |progress| {
        // In every shard once.
        if progress.bytes >= next {
            next += SHARD;
            refused.push(message(&options));
            refused.push(message(&Options { restart: true, ..options.clone() }));
        }
        Ok(())
    })
    .unwrap();
    assert!(refused.len() > 10);
    for message in refused {
        assert_names(&message, &[&directory.path().display().to_string(), "another command is writing"]);
    }
    assert!(files(directory.path()) == whole(&testkit::tiny()));
}

#[test]
fn the_lock_of_a_process_that_is_gone_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&testkit::tiny(), directory.path());
    convert(&options, stop_after(SHARD + 100_000)).unwrap_err();
    assert!(!directory.path().join(LOCK).exists());
    std::fs::write(directory.path().join(LOCK), "").unwrap();
    convert(&options, go_on).unwrap();
    assert!(files(directory.path()) == whole(&testkit::tiny()));
}

#[test]
fn a_stopped_job_leaves_no_partial_file() {
    let directory = tempfile::tempdir().unwrap();
    convert(&options(&testkit::tiny(), directory.path()), stop_after(SHARD + 100_000)).unwrap_err();
    let left: Vec<String> = files(directory.path()).into_keys().collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].starts_with("model-00001-of-") && left[1] == UNFINISHED, "{left:?}");
}

#[test]
fn a_finished_shard_with_one_other_byte_is_written_again() {
    let expected = whole(&testkit::tiny());
    for (from_end, zeroed) in [(1, 1), (100_000, 1), (200_000, 200_000)] {
        let directory = tempfile::tempdir().unwrap();
        let options = options(&testkit::tiny(), directory.path());
        convert(&options, stop_after(2 * SHARD)).unwrap_err();
        let shard = shards(directory.path()).remove(0);
        let mut bytes = std::fs::read(&shard).unwrap();
        let at = bytes.len() - from_end;
        bytes[at..at + zeroed].iter_mut().for_each(|byte| *byte = if zeroed == 1 { !*byte } else { 0 });
        std::fs::write(&shard, bytes).unwrap();
        convert(&options, go_on).unwrap();
        assert!(files(directory.path()) == expected, "{zeroed} bytes {from_end} from the end");
    }
}

#[test]
fn a_source_whose_values_changed_is_another_source() {
    // Another value, with another time; another value with the old time; the same values with another time.
    for (change, later) in [(true, true), (true, false), (false, true)] {
        let source = testkit::copy_of_tiny(&testkit::TINY_FILES);
        let directory = tempfile::tempdir().unwrap();
        let options = options(source.path(), directory.path());
        convert(&options, stop_after(SHARD + 100_000)).unwrap_err();
        let shard = shards(source.path()).remove(1);
        let (mut bytes, time) = (std::fs::read(&shard).unwrap(), shard.metadata().unwrap().modified().unwrap());
        if change {
            *bytes.last_mut().unwrap() ^= 1;
        }
        std::fs::write(&shard, bytes).unwrap();
        let time = if later { time + std::time::Duration::from_secs(2) } else { time };
        std::fs::File::options().write(true).open(&shard).unwrap().set_modified(time).unwrap();
        let name = shard.file_name().unwrap().to_str().unwrap();
        assert_names(&message(&options), &[name, "sample", "--restart", &directory.path().display().to_string()]);
        convert(&Options { restart: true, ..options }, go_on).unwrap();
        assert!(files(directory.path()) == whole(source.path()));
    }
}

#[test]
fn a_directory_with_files_of_others_is_refused_and_left_as_it_is() {
    for name in ["letter.txt", "config.json", "model-00001-of-00001.safetensors", ".hidden"] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(name), "mine").unwrap();
        for restart in [false, true] {
            let options = Options { restart, ..options(&testkit::tiny(), directory.path()) };
            assert_names(&message(&options), &[name, "already", "empty or new directory"]);
            let blank = init::Options {
                config: testkit::tiny().join("config.json"),
                out: directory.path().to_owned(),
                seed: 1,
                layers: None,
                dtype: Dtype::Bf16,
                plan: None,
                shard_bytes: SHARD,
                for_training: false,
                restart,
            };
            let message = init_without_weights(&blank).unwrap_err().to_string();
            assert_names(&message, &[name, "empty or new directory"]);
        }
        assert_eq!(files(directory.path()), BTreeMap::from([(name.to_owned(), b"mine".to_vec())]));
    }
}

#[test]
fn restarting_removes_what_the_notes_list_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let first = options(&testkit::tiny(), directory.path());
    convert(&first, stop_after(2 * SHARD + 100_000)).unwrap_err();
    // The names look like ours, but no job has made them.
    let mine = ["letter.txt", "model-00009-of-00009.safetensors", "my.partial", "model.safetensors.bak"];
    mine.iter().for_each(|name| std::fs::write(directory.path().join(name), name).unwrap());
    let old = shards(directory.path());
    let restarted = Options { restart: true, shard_bytes: 2 * SHARD, ..first };
    convert(&restarted, stop_after(0)).unwrap_err();
    let left: Vec<String> = files(directory.path()).into_keys().collect();
    let expected = [mine.as_slice(), &[UNFINISHED]].concat();
    assert_eq!(left.len(), expected.len(), "{left:?} of {old:?}");
    assert!(expected.iter().all(|name| left.iter().any(|found| found == name)), "{left:?}");
    // A file that would have to be written over is refused, by name.
    std::fs::write(directory.path().join("config.json"), "mine").unwrap();
    let other = Options { dtype: Some(Dtype::F32), ..restarted.clone() };
    let notes = std::fs::read_to_string(directory.path().join(UNFINISHED)).unwrap();
    std::fs::write(directory.path().join(UNFINISHED), notes.replace("\"config.json\",", "")).unwrap();
    assert_names(&message(&other), &["config.json already"]);
    assert_eq!(std::fs::read_to_string(directory.path().join("config.json")).unwrap(), "mine");
}

#[test]
fn notes_that_name_files_elsewhere_or_nothing_remove_no_file() {
    let outer = tempfile::tempdir().unwrap();
    let out = outer.path().join("out");
    let options = options(&testkit::tiny(), &out);
    convert(&options, stop_after(SHARD + 100_000)).unwrap_err();
    let precious = outer.path().join("precious");
    std::fs::write(&precious, "mine").unwrap();
    let notes = std::fs::read_to_string(out.join(UNFINISHED)).unwrap();
    for notes in [notes.replace("\"config.json\"", "\"../precious\""), "{\"job\":{}}".to_owned()] {
        std::fs::write(out.join(UNFINISHED), notes).unwrap();
        let before = files(&out);
        let restarted = Options { restart: true, ..options.clone() };
        assert_names(&message(&restarted), &[UNFINISHED, "damaged"]);
        assert!(precious.is_file() && files(&out) == before);
    }
}

#[test]
fn notes_and_config_are_replaced_and_not_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&testkit::tiny(), directory.path());
    convert(&options, stop_after(SHARD + 100_000)).unwrap_err();
    let (notes, kept) = (directory.path().join(UNFINISHED), tempfile::tempdir().unwrap());
    let link = kept.path().join("notes");
    std::fs::hard_link(&notes, &link).unwrap();
    let before = std::fs::read(&link).unwrap();
    convert(&options, stop_after(2 * SHARD + 100_000)).unwrap_err();
    assert!(std::fs::read(&link).unwrap() == before && std::fs::read(&notes).unwrap() != before);
}

#[test]
fn a_half_written_merge_goes_on_only_with_the_same_adapters() {
    let (directory, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for file in checkpoint::Adapter::FILES {
        std::fs::copy(testkit::adapters().join("talker").join(file), adapter.path().join(file)).unwrap();
    }
    let adapters = vec![adapter.path().to_owned()];
    let options = Options { adapters, dtype: None, ..options(&testkit::tiny(), directory.path()) };
    convert(&options, stop_after(2 * SHARD)).unwrap_err();
    assert_names(&message(&Options { adapters: vec![], ..options.clone() }), &["adapters"]);
    let config = adapter.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"lora_alpha\": 3", "\"lora_alpha\": 4")).unwrap();
    assert_names(&message(&options), &["adapters", "adapter_config.json"]);
    convert(&Options { restart: true, ..options.clone() }, go_on).unwrap();
    let again = tempfile::tempdir().unwrap();
    convert(&Options { out: again.path().to_owned(), ..options }, go_on).unwrap();
    assert!(files(directory.path()) == files(again.path()));
}
