//! Whole runs with nano, through the library and through the program.
#![allow(clippy::unwrap_used)]

mod codec;
mod library;
mod program;
mod reference;
mod suites;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use qwen3_omni::{GenerateOptions, Message, Omni};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Nano, loaded once.
fn nano() -> &'static Omni {
    static NANO: OnceLock<Omni> = OnceLock::new();
    NANO.get_or_init(|| Omni::builder(testkit::nano()).load().unwrap())
}

fn greedy() -> GenerateOptions {
    GenerateOptions::default().greedy()
}

/// What nano is asked for a transcript, and how it begins its answer.
const TRANSCRIBE: &str = "what did i say";
const PREFIX: &str = "you said ";

/// A set in the form of LibriSpeech in nano's own voice. It lasts as long as the tests do.
fn spoken_set() -> &'static Path {
    static SET: OnceLock<TempDir> = OnceLock::new();
    SET.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let chapter = folder.path().join("test/1/2");
        fs::create_dir_all(&chapter).unwrap();
        let texts = ["THREE EIGHT PURPLE", "BIG WHITE FISH", "RED CAT NINE", "DOG TWO"];
        let lines = texts.iter().enumerate().map(|(index, text)| {
            let id = format!("1-2-000{index}");
            speak(&text.to_lowercase(), &chapter.join(format!("{id}.wav")));
            format!("{id} {text}\n")
        });
        fs::write(chapter.join("1-2.trans.txt"), lines.collect::<String>()).unwrap();
        folder
    })
    .path()
}

fn speak(text: &str, wav: &Path) {
    let question = Message::user().text(format!("repeat {text}"));
    let reply = nano().generate(&[question], &greedy().read_aloud(text)).unwrap();
    reply.speech.unwrap().audio.save_wav(wav).unwrap();
}

/// Sums of nano's world in the form of AIME; the last answer is wrong.
fn sums() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let problems = [("seven plus five", 12), ("nine minus two", 7), ("three plus four", 7), ("two plus two", 5)];
    let line = |(index, (sum, answer))| json!({"id": format!("sum{index}"), "problem": format!("what is {sum}"), "answer": answer, "year": index % 2});
    let lines: String = problems.into_iter().enumerate().map(line).map(|line: Value| format!("{line}\n")).collect();
    fs::write(folder.path().join("aime.jsonl"), lines).unwrap();
    folder
}

/// A question about a recording of the repository, in the form of MMAU.
fn spoken_questions() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let sound = |name: &str| testkit::nano().join("../nano-samples").join(name);
    let entry = |id: &str, question: &str, name: &str, choices: [&str; 3], answer: &str| json!({"id": id, "question": question, "audio_id": sound(name), "choices": choices, "answer": answer});
    let list = json!([
        entry(
            "words",
            TRANSCRIBE,
            "spoken_words_question.wav",
            ["two red dogs", "three eight purple", "hello"],
            "three eight purple"
        ),
        entry("wrong", TRANSCRIBE, "spoken_words_question.wav", ["three eight purple", "three", "hello"], "three"),
        entry("none", TRANSCRIBE, "spoken_words_question.wav", ["fish", "bird", "cat"], "fish"),
    ]);
    fs::write(folder.path().join("questions.json"), list.to_string()).unwrap();
    folder
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn items_path(folder: &TempDir) -> PathBuf {
    folder.path().join("items.jsonl")
}
