//! `ask`, `listen` and `say`.

use std::io::Write;
use std::process::Stdio;

use crate::{json, names, path, program, refused, run, sample, text, told};

#[test]
fn a_typed_question_is_answered_and_the_toy_says_what_it_is() {
    let output = run(&["ask", "what is seven plus five"]);
    assert_eq!(text(&output.stdout), "seven plus five is twelve\n");
    let said = text(&output.stderr);
    assert!(said.contains("toy model") && said.lines().count() == 1, "{said}");
}

#[test]
fn files_and_texts_are_taken_in_any_order_and_told_by_their_contents() {
    let directory = tempfile::tempdir().unwrap();
    // A name that says nothing, and one that lies.
    let (sound, picture) = (path(&directory.path().join("question")), path(&directory.path().join("picture.mp3")));
    std::fs::copy(sample("spoken_sum_question.wav"), &sound).unwrap();
    std::fs::copy(sample("picture_two.png"), &picture).unwrap();
    assert_eq!(told(&["ask", &sound]), "five plus seven is twelve\n");
    assert_eq!(told(&["ask", &picture, "what do you see"]), "a red circle left of a blue square\n");
    assert_eq!(
        told(&["ask", "--image", &picture, "--text", "what do you see"]),
        "a red circle left of a blue square\n"
    );
    let spoken = told(&["ask", &sample("picture_spoken.png"), &sample("picture_spoken_question.wav")]);
    assert_eq!(
        spoken,
        told(&["ask", "--image", &sample("picture_spoken.png"), "--audio", &sample("picture_spoken_question.wav")])
    );
    assert_eq!(told(&["ask", &sample("clip.mp4"), "what do you see"]), "a big green triangle\n");
    let tokens = |more: &[&str]| {
        let found = json(&[&["ask", &sample("clip.mp4"), "--json"], more].concat());
        found["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(tokens(&["--audio-in-video"]) > tokens(&[]));
}

#[test]
fn text_comes_from_standard_input() {
    let mut child = program(&["ask", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"repeat red cat nine\n").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "red cat nine\n");
}

#[test]
fn json_holds_text_speech_counts_and_times() {
    let directory = tempfile::tempdir().unwrap();
    let out = path(&directory.path().join("reply.wav"));
    let found = json(&["ask", "repeat red cat nine", "--greedy", "--json", "--out", &out]);
    assert_eq!((&found["text"], &found["finish_reason"]), (&"red cat nine".into(), &"end".into()));
    assert_eq!((&found["speech"]["file"], &found["speech"]["finish_reason"]), (&out.as_str().into(), &"end".into()));
    assert!(found["usage"]["prompt_tokens"].as_u64().unwrap() > 0 && found["timings"]["total"].as_f64().unwrap() > 0.0);
    let wav = hound::WavReader::open(&out).unwrap();
    let seconds = f64::from(wav.duration()) / f64::from(wav.spec().sample_rate);
    assert!((seconds - found["speech"]["seconds"].as_f64().unwrap()).abs() < 1e-3 && seconds > 0.5, "{seconds}");
    let silent = json(&["ask", "repeat cat", "--json"]);
    assert!(silent["speech"].is_null() && silent["thinking"].is_null());
    assert_eq!(json(&["ask", "repeat cat", "--json", "--max-tokens", "1"])["finish_reason"], "limit");
}

#[test]
fn what_cannot_be_asked_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let note = path(&directory.path().join("note.txt"));
    std::fs::write(&note, "just text").unwrap();
    let out = path(&directory.path().join("reply.wav"));
    for (arguments, reason) in [
        (vec!["ask", "no-such-file.wav"], "no-such-file.wav"),
        (vec!["ask", "what is this", "./no/such/recording"], "./no/such/recording"),
        (vec!["ask", "--image", "no-such-picture"], "no-such-picture"),
        (vec!["ask", &note], "note.txt"),
        (vec!["ask"], "nothing is asked"),
        (vec!["ask", ""], "is empty"),
        (vec!["ask", "repeat cat", "--out", &out, "--speaker", "nobody"], "nobody"),
        (vec!["ask", "repeat cat", "--speaker", "ethan"], "needs --out"),
        (vec!["ask", "repeat cat", "--out", "no/such/folder/reply.wav"], "no/such/folder"),
        (vec!["ask", "repeat cat", "--model", "no/such/model"], "no/such/model"),
        (vec!["ask", "repeat cat", "--max-tokens", "0"], "max_new_tokens"),
        (vec!["ask", "repeat cat", "--temperature", "-1"], "temperature"),
        (vec!["say", "…"], "nothing to say"),
        (vec!["listen", "no-such-file"], "no-such-file"),
        (vec!["listen", &sample("picture_one.png")], "picture_one.png"),
    ] {
        let error = refused(1, &arguments);
        assert!(error.starts_with("error: ") && error.contains(reason), "{arguments:?}: {error}");
    }
    assert_eq!(names(directory.path()).len(), 1, "something half-written is left");
    for arguments in [vec!["ask", "x", "--device", "gpu"], vec!["ask", "x", "--nonsense"], vec!["talk"], vec![]] {
        refused(2, &arguments);
    }
}

#[test]
fn a_text_is_read_aloud_word_for_word() {
    let directory = tempfile::tempdir().unwrap();
    let mut say = program(&["say", "red", "cat", "Nine!", "--greedy"]);
    let output = say.current_dir(directory.path()).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("spoken into speech.wav") && !said.contains("warning"), "{said}");
    assert!(hound::WavReader::open(directory.path().join("speech.wav")).unwrap().duration() > 12_000);
    // More than nano repeats by itself.
    let out = path(&directory.path().join("other.wav"));
    let found = json(&["say", "dog seven green cat", "--greedy", "--out", &out, "--json"]);
    assert_eq!((&found["text"], &found["speech"]["finish_reason"]), (&"dog seven green cat".into(), &"end".into()));
    let same = json(&["say", "cat", "--prompt", "repeat {text}", "--out", &out, "--json"]);
    assert_eq!((&same["text"], &same["speech"]["file"]), (&"cat".into(), &out.as_str().into()));
}

#[test]
fn a_recording_is_put_into_words() {
    assert_eq!(told(&["listen", &sample("spoken_hello_question.wav")]), "hello\n");
    assert_eq!(told(&["listen", &sample("spoken_hello_question.wav"), "--caption"]), "hello\n");
    let found = json(&["listen", &sample("spoken_sum_question.wav"), "--json"]);
    assert_eq!(found["text"], "five plus seven is twelve");
}

#[test]
fn the_environment_names_a_model_and_logs_reach_the_screen() {
    let mut ask = program(&["ask", "repeat cat"]);
    let output = ask.env("QWEN3_OMNI_MODEL", testkit::nano()).env("RUST_LOG", "debug").output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(text(&output.stdout), "cat\n");
    assert!(!said.contains("toy model") && said.contains("prompt"), "{said}");
}
