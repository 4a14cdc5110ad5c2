//! `chat`, from standard input.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::{names, path, program, sample, text};

fn chat(arguments: &[&str], lines: &str) -> Output {
    let arguments = [&["chat"], arguments].concat();
    let mut child = program(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn turns_take_files_and_can_be_taken_back() {
    let picture = sample("picture_where.png");
    let lines = format!(
        "repeat cat\n/reset\n/add {picture}\nwhere is the blue square\n/undo\n/add '{picture}'\n/drop\nrepeat dog\n"
    );
    let output = chat(&[], &lines);
    let (answers, said) = (text(&output.stdout), text(&output.stderr));
    let answers: Vec<&str> = answers.lines().collect();
    assert!(output.status.success(), "{said}");
    assert_eq!(answers, ["cat", "right", "dog"]);
    assert_eq!(said.matches("added as image").count(), 2, "{said}");
}

#[test]
fn a_mistake_is_told_and_the_conversation_goes_on() {
    let output = chat(&[], "/add no-such.png\n/nonsense\n\n/undo\nrepeat cat\n/quit\nrepeat dog\n");
    let said = text(&output.stderr);
    assert_eq!(text(&output.stdout), "cat\n");
    for expected in ["error: media in the added file: no-such.png", "`/nonsense` is no command", "nothing to undo"] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn every_answer_is_spoken_into_a_file_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let out = path(&directory.path().join("reply.wav"));
    let output = chat(&["--out", &out, "--greedy"], "repeat cat\n/reset\nrepeat red\n");
    assert_eq!(text(&output.stdout), "cat\nred\n", "{}", text(&output.stderr));
    let mut files: Vec<String> = names(directory.path()).iter().map(|path| crate::path(path)).collect();
    files.sort();
    assert_eq!(files, ["reply-1.wav", "reply-2.wav"].map(|name| path(&directory.path().join(name))));
}
