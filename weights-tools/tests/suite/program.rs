//! The program itself: exit codes, signals, output that nobody reads, and what it refuses before it begins.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn tools(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weights-tools"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    tools(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command that must fail with code 2; returns what it said.
fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    said
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tiny() -> String {
    path(&testkit::tiny()).to_owned()
}

#[test]
fn outputs_that_are_not_numbers_fail_a_comparison() {
    let broken = testkit::copy_of_tiny(&testkit::TINY_FILES);
    let (shard, bytes) = with_nan(broken.path(), "thinker.model.norm.weight");
    std::fs::write(shard, bytes).unwrap();
    for least in ["0.9", "-1"] {
        let output = run(&["compare", &tiny(), path(broken.path()), &format!("--min-cosine={least}")]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("thinker scores (NaN)"), "{}", text(&output.stderr));
    }
    assert!(run(&["compare", &tiny(), &tiny(), "--min-cosine", "1"]).status.success());
    for bad in ["NaN", "1.5", "near"] {
        assert!(refused(&["compare", &tiny(), &tiny(), "--min-cosine", bad]).contains("from -1 to 1"));
    }
}

/// The shard that holds a tensor, with the tensor's first value not a number.
fn with_nan(directory: &Path, name: &str) -> (std::path::PathBuf, Vec<u8>) {
    let shards = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    shards
        .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
        .find_map(|path| {
            let mut bytes = std::fs::read(&path).unwrap();
            let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
            let (start, _) = metadata.tensors().get(name)?.data_offsets;
            bytes[8 + header + start..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
            Some((path, bytes))
        })
        .unwrap()
}

/// Every command, as it succeeds.
fn commands(out: &Path) -> Vec<Vec<String>> {
    let golden = testkit::golden();
    let (tiny, golden) = (tiny(), path(&golden).to_owned());
    let out = |name: &str| path(&out.join(name)).to_owned();
    let config = format!("{tiny}/config.json");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    vec![
        words(&["inspect", &tiny]),
        words(&["inspect", &tiny, "--json"]),
        words(&["verify", "--model", &tiny, "--golden", &golden, "--only", "positions_"]),
        words(&["verify", "--model", &tiny, "--golden", &golden, "--only", "positions_", "--json"]),
        words(&["init", "--config", &config, "--layers", "1", "--out", &out("init")]),
        words(&["quantize", &tiny, &out("quantized"), "--bits", "8"]),
        words(&["convert", &tiny, &out("converted"), "--dtype", "bf16"]),
        words(&["merge", &tiny, path(&testkit::adapters().join("talker")), &out("merged")]),
        words(&["compare", &tiny, &tiny]),
        words(&["--help"]),
        words(&["--version"]),
    ]
}

#[test]
fn a_reader_that_goes_away_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in commands(directory.path()) {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut child = tools(&arguments).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    }
    assert!(qwen3_omni::OmniCheckpoint::open(directory.path().join("quantized")).is_ok());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_the_output_is_an_error_and_no_panic() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let directory = tempfile::tempdir().unwrap();
    for arguments in commands(directory.path()) {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = tools(&arguments).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        if !arguments[0].starts_with("--") {
            assert!(text(&output.stderr).contains("standard output"), "{arguments:?}: {}", text(&output.stderr));
        }
    }
    // What was asked for is there all the same.
    assert!(qwen3_omni::OmniCheckpoint::open(directory.path().join("converted")).is_ok());
    // Nor does it matter that errors cannot be told.
    let status = tools(&["inspect", "/no/such/directory"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
    let quiet = path(&directory.path().join("quiet")).to_owned();
    assert!(tools(&["convert", &tiny(), &quiet]).stderr(full()).status().unwrap().success());
}

#[test]
fn paths_are_checked_before_the_work_begins() {
    let directory = tempfile::tempdir().unwrap();
    let (out, tiny) = (directory.path().join("out"), tiny());
    let quantize = ["quantize", &tiny, path(&out), "--bits", "8"];
    let file = |name: &str| path(&directory.path().join(name)).to_owned();
    std::fs::write(file("empty.txt"), "").unwrap();
    std::fs::create_dir(file("no-cases")).unwrap();
    for (option, value, reason) in [
        ("--report", file("no/such/report.json"), "no/such/report.json"),
        ("--report", path(directory.path()).to_owned(), "expected a file"),
        ("--report", path(&out.join("report.json")).to_owned(), "expected a file elsewhere"),
        ("--golden", file("no-such-directory"), "no-such-directory"),
        ("--golden", file("no-cases"), "no-cases"),
        ("--prompts", file("no-such-file"), "no-such-file"),
        ("--prompts", file("empty.txt"), "no question"),
        ("--ignore", "lm_head".to_owned(), "did you mean `thinker.lm_head`?"),
        ("--ignore", "re:thinker.lm_heads".to_owned(), "fits no module"),
    ] {
        let said = refused(&[quantize.as_slice(), &[option, &value]].concat());
        assert!(said.contains(reason), "{option} {value}: {said}");
        assert!(!out.exists(), "{option} {value}: work had begun");
    }
    let verify = ["verify", "--model", &tiny, "--golden", path(&testkit::golden()), "--only", "positions_,cod2wav_"]
        .map(str::to_owned);
    let said = refused(&verify.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("begins with cod2wav_"), "{said}");
    let report = file("report.json");
    let ignored = ["--ignore", "thinker.lm_head", "--report", &report];
    let done = run(&[quantize.as_slice(), &ignored].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert!(written["tensors"].as_array().unwrap().len() > 100);
}

#[test]
fn progress_is_told_in_lines_where_nobody_watches() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let output = run(&["convert", &tiny(), path(&out), "--dtype", "bf16"]);
    let said = text(&output.stderr);
    assert!(said.lines().count() < 5 && said.lines().all(|line| line.starts_with(path(&out))), "{said}");
    assert!(said.lines().last().unwrap().contains("100 %, 2.9 of 2.9 MB"), "{said}");
    assert_eq!(text(&output.stdout), format!("written: {}\n", out.display()));
}

/// Begins to write a checkpoint that takes a while, and returns once a shard is being written.
fn begun(out: &Path) -> Child {
    let config = format!("{}/config.json", tiny());
    let arguments =
        ["init", "--config", &config, "--layers", "150", "--dtype", "f32", "--out", path(out), "--shard-mb", "1"];
    let child = tools(&arguments).spawn().unwrap();
    let begun = Instant::now();
    let names = || std::fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_begun = || {
        let names: Vec<String> = names().map(|name| name.into_string().unwrap()).collect();
        names.iter().any(|name| name.ends_with(".safetensors")) && names.iter().any(|name| name.contains("partial"))
    };
    while !is_begun() {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing was written");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

fn names(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Runs to the end what was begun.
fn finish(out: &Path) -> Output {
    let config = format!("{}/config.json", tiny());
    run(&["init", "--config", &config, "--layers", "150", "--dtype", "f32", "--out", path(out), "--shard-mb", "1"])
}

#[cfg(unix)]
#[test]
fn an_interrupted_job_removes_what_is_unfinished_and_can_be_resumed() {
    for signal in ["-INT", "-TERM"] {
        let directory = tempfile::tempdir().unwrap();
        let child = begun(directory.path());
        assert!(Command::new("sh").args(["-c", &format!("kill {signal} {}", child.id())]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("interrupted; the same command resumes"), "{said}");
        let left = names(directory.path());
        assert!(left.iter().all(|name| name.ends_with(".safetensors") || name == checkpoint::UNFINISHED), "{left:?}");
        let first = directory.path().join(left.iter().find(|name| name.starts_with("model-00001")).unwrap());
        let written = first.metadata().unwrap().modified().unwrap();
        let resumed = finish(directory.path());
        assert!(resumed.status.success(), "{}", text(&resumed.stderr));
        assert_eq!(first.metadata().unwrap().modified().unwrap(), written);
    }
}

#[test]
fn beside_a_running_job_a_second_is_refused_and_after_a_killed_one_it_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = begun(directory.path());
    let second = finish(directory.path());
    assert_eq!(second.status.code(), Some(2), "{}", text(&second.stderr));
    let said = text(&second.stderr);
    assert!(said.contains(path(directory.path())) && said.contains("another command is writing"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    let third = finish(directory.path());
    assert!(third.status.success(), "{}", text(&third.stderr));
    let whole = tempfile::tempdir().unwrap();
    assert!(finish(whole.path()).status.success());
    let read = |directory: &Path| {
        let mut files: Vec<(String, Vec<u8>)> = names(directory)
            .into_iter()
            .map(|name| (name.clone(), std::fs::read(directory.join(&name)).unwrap()))
            .collect();
        files.sort();
        files
    };
    assert!(read(directory.path()) == read(whole.path()));
}
