//! The program as people run it: with nano, files that come with the repository, and a hub on this machine.
#![allow(clippy::unwrap_used)]

mod adapters;
mod answers;
mod chat;
mod files;
mod machine;
mod pull;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod signals;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The program with these arguments, none of the environment's settings, and a cache of its own.
fn program<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen3-omni"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["QWEN3_OMNI_MODEL", "RUST_LOG", "HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    command.env("XDG_CACHE_HOME", folder.join("cache")).env("HF_HOME", folder.join("hub"));
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a command that must succeed.
fn told(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The JSON that a command prints.
fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&told(arguments)).unwrap()
}

/// The error of a command that must fail with this code: its last line.
fn refused(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said.lines().last().unwrap_or_default().to_owned()
}

/// A spoken question or a picture of nano's world.
fn sample(name: &str) -> String {
    path(&testkit::nano().join("../nano-samples").join(name))
}

fn fixture(name: &str) -> String {
    path(&testkit::media().join(name))
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn names(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}
