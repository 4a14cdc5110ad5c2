//! Damaged inputs for every reader of the project, each in a process of its own: none may panic, hang, or take much memory.
//!
//! ```sh
//! cd fuzz && cargo run --release -p qwen3-omni-mutate -- 1000        # inputs per reader; a reader's name alone runs only that
//! ```
//!
//! Prints one JSON line for each reader, and the path of every input that failed. Checksums are repaired after an input was damaged, so
//! that what lies behind them is reached.

mod mutate;
mod readers;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use readers::{READERS, Reader};
use serde_json::json;

/// A reader that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(20);
/// Most memory of a process, in bytes.
const MOST_BYTES: u64 = 2 << 30;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [one, reader, path] = arguments.as_slice()
        && one == "--one"
    {
        let reader = READERS.iter().find(|known| known.name == reader).expect("a reader of this program");
        // Whether it is refused or taken, it must come back.
        std::process::exit(if (reader.read)(Path::new(path)) { 0 } else { 1 });
    }
    let inputs = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1000);
    let wanted = |reader: &&Reader| {
        let names: Vec<&String> = arguments.iter().filter(|argument| argument.parse::<usize>().is_err()).collect();
        names.is_empty() || names.iter().any(|name| *name == reader.name)
    };
    let mut failed = false;
    for reader in READERS.iter().filter(wanted) {
        failed |= run(reader, inputs);
    }
    std::process::exit(failed.into());
}

/// What became of an input.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Taken,
    Refused,
    Panicked,
    Hung,
    TookMemory,
}

/// Runs a reader on damaged inputs; whether one of them failed.
fn run(reader: &Reader, inputs: usize) -> bool {
    let mut random = ChaCha8Rng::seed_from_u64(20_261_128);
    let seeds = (reader.seeds)();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let (mut ends, mut longest, mut most) = (Vec::new(), Duration::ZERO, 0);
    for number in 0..inputs {
        let damaged = mutate::damaged(&seeds[number % seeds.len()], &mut random);
        let path = directory.path().join(format!("{}-{number}", reader.name));
        std::fs::write(&path, damaged).expect("it can be written to");
        let began = Instant::now();
        let (end, bytes) = read_in_process(reader.name, &path, began);
        longest = longest.max(began.elapsed());
        most = most.max(bytes);
        if matches!(end, End::Panicked | End::Hung | End::TookMemory) {
            let kept = std::env::temp_dir().join(path.file_name().unwrap_or_default());
            let _ = std::fs::copy(&path, &kept);
            eprintln!("{}: fails for {}", reader.name, kept.display());
        }
        let _ = std::fs::remove_file(&path);
        ends.push(end);
    }
    let count = |wanted: End| ends.iter().filter(|end| **end == wanted).count();
    let line = json!({
        "reader": reader.name, "inputs": inputs, "taken": count(End::Taken), "refused": count(End::Refused),
        "panics": count(End::Panicked), "hangs": count(End::Hung), "over_2_gb": count(End::TookMemory),
        "longest_s": longest.as_secs_f64(), "most_mb": most >> 20,
    });
    println!("{line}");
    ends.iter().any(|end| !matches!(end, End::Taken | End::Refused))
}

/// Reads an input in a process, watching its time and memory.
fn read_in_process(reader: &str, path: &Path, began: Instant) -> (End, u64) {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    // Without ffmpeg: only what is read here is tried.
    command
        .args(["--one", reader])
        .arg(path)
        .env("PATH", "")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("this program can be started");
    let mut most = 0;
    loop {
        most = most.max(resident(&child));
        match child.try_wait().expect("it can be waited for") {
            Some(status) => {
                let end = match status.code() {
                    Some(0) => End::Taken,
                    Some(1) => End::Refused,
                    _ => End::Panicked,
                };
                return (end, most);
            }
            None if began.elapsed() > LONGEST => return (stop(child, End::Hung), most),
            None if most > MOST_BYTES => return (stop(child, End::TookMemory), most),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn stop(mut child: Child, end: End) -> End {
    let _ = child.kill();
    let _ = child.wait();
    end
}

/// Resident memory of a process in bytes; 0 where the system does not say.
fn resident(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}
