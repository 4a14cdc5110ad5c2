//! Ctrl-C.

use std::io::Read;
use std::process::{Child, Command};

use crate::{path, program, text};

/// Asks a model of random weights, which seldom ends by itself, and returns once it has begun to write.
fn talking(more: &[&str]) -> Child {
    let tiny = path(&testkit::tiny());
    let arguments = [&["ask", "hello", "--model", &tiny, "--max-tokens", "30000"], more].concat();
    let mut child = program(&arguments).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    child
}

fn interrupt(child: &Child) {
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success());
}

#[test]
fn an_interruption_cancels_the_answer_and_keeps_what_was_said() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("reply.wav");
    let child = talking(&["--out", &path(&out)]);
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(text(&output.stdout).ends_with('\n') && !said.contains("error"), "{said}");
    let left = crate::names(directory.path());
    assert!(left.is_empty() || left == [out], "{left:?}");
}
