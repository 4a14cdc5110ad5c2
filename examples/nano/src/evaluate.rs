//! How often a model answers as the lines of a file say, kind by kind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use clap::Args;
use qwen3_omni::{Error, GenerateOptions, Message, Omni, Part, Reply, Result, SpeechFinish};
use serde_json::{Value, json};
use train::data::{DataSource, Line};

use crate::files::{io, write_text};

/// Ask a model what the lines of files ask, and count the answers that are the expected ones to the letter
#[derive(Args)]
pub(crate) struct Evaluate {
    /// Checkpoint directory
    #[arg(long)]
    model: PathBuf,
    /// Lines as for training; the last message, or the first call of a function, is the expected answer, `kind` the row of the table
    #[arg(long, required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Also speak each answer, into WAV files of this folder, and list them in its `items.jsonl`
    #[arg(long, value_name = "DIR")]
    speech: Option<PathBuf>,
    /// Speak the expected answers instead of the model's own
    #[arg(long, requires = "speech")]
    read_aloud: bool,
    /// Draw speech at random with this seed instead of greedily
    #[arg(long, value_name = "SEED")]
    sampled: Option<u64>,
    /// Most lines of a file
    #[arg(long, value_name = "N")]
    most: Option<usize>,
    /// Answers at once
    #[arg(long, default_value_t = 4)]
    answers: usize,
    /// Show answers that differ, at most this many of a kind
    #[arg(long, default_value_t = 0, value_name = "N")]
    show: usize,
}

/// A line that was answered.
struct Answered {
    kind: String,
    place: String,
    expected: String,
    said: String,
    /// Whether the speech ended by itself; `None` without speech.
    ended: Option<bool>,
    wav: Option<String>,
}

#[derive(Default)]
struct Count {
    lines: usize,
    right: usize,
    spoken: usize,
    ended: usize,
}

impl Evaluate {
    pub(crate) fn run(&self) -> Result<()> {
        // Twice as many: one may begin before the one before it has quite ended.
        let builder = Omni::builder(&self.model).max_answers(2 * self.answers.max(1));
        let omni = if self.speech.is_some() { builder } else { builder.text_only() }.load()?;
        let lines = self.lines()?;
        if let Some(folder) = &self.speech {
            std::fs::create_dir_all(folder).map_err(io(folder))?;
        }
        let mut answered = self.ask_all(&omni, &lines)?;
        answered.sort_by_key(|(at, _)| *at);
        let answered: Vec<Answered> = answered.into_iter().map(|(_, answered)| answered).collect();
        if let Some(folder) = &self.speech {
            write_items(&folder.join("items.jsonl"), &answered)?;
        }
        println!("{}", self.table(&answered));
        Ok(())
    }

    fn lines(&self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for path in &self.data {
            let source = DataSource::open("", [path]).map_err(|error| Error::Request(error.to_string()))?;
            let count = self.most.unwrap_or(usize::MAX).min(source.lines() as usize);
            for index in 0..count as u32 {
                let line = source.line(index).map_err(|error| Error::Request(error.to_string()))?;
                lines.extend(line);
            }
        }
        Ok(lines)
    }

    fn ask_all(&self, omni: &Omni, lines: &[Line]) -> Result<Vec<(usize, Answered)>> {
        let next = AtomicUsize::new(0);
        let (send, answers) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.answers.max(1) {
                let (send, next) = (send.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(line) = lines.get(at) else { break };
                        let answered = self.ask(omni, line, at).map(|answered| (at, answered));
                        if send.send(answered).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(send);
            // The first error ends the iteration and with it the receiver, so that no more answers are begun.
            answers.into_iter().collect()
        })
    }

    fn ask(&self, omni: &Omni, line: &Line, at: usize) -> Result<Answered> {
        let (prompt, expected) = question(line)?;
        let mut options = line.answer_options(&GenerateOptions::default().max_new_tokens(128));
        options.speaker.clone_from(&line.speaker);
        options = match self.sampled {
            Some(seed) => options.seed(seed.wrapping_add(at as u64)),
            None => options.greedy(),
        };
        if self.speech.is_none() {
            options = options.text_only();
        } else if self.read_aloud {
            options = options.read_aloud(written(expected));
        }
        let reply = omni.generate(prompt, &options)?;
        let (ended, wav) = match (&reply.speech, &self.speech) {
            (Some(speech), Some(folder)) => {
                let name = format!("{at:05}.wav");
                speech.audio.save_wav(folder.join(&name))?;
                (Some(speech.finish_reason == SpeechFinish::End), Some(name))
            }
            _ => (None, None),
        };
        Ok(Answered {
            kind: line.extra.get("kind").and_then(Value::as_str).unwrap_or("other").to_owned(),
            place: line.location.to_string(),
            expected: written(expected),
            said: answer_of(&reply),
            ended,
            wav,
        })
    }

    fn table(&self, answered: &[Answered]) -> String {
        let mut counts = BTreeMap::<&str, Count>::new();
        let mut text = String::new();
        for Answered { kind, place, expected, said, ended, .. } in answered {
            let count = counts.entry(kind).or_default();
            let is_right = said == expected;
            if !is_right && count.lines - count.right < self.show {
                let _ = writeln!(text, "{place}: {said:?}, expected {expected:?}");
            }
            count.lines += 1;
            count.right += usize::from(is_right);
            count.spoken += usize::from(ended.is_some());
            count.ended += usize::from(*ended == Some(true));
        }
        let all = counts.values().fold(Count::default(), |all, count| Count {
            lines: all.lines + count.lines,
            right: all.right + count.right,
            spoken: all.spoken + count.spoken,
            ended: all.ended + count.ended,
        });
        text.push_str("| kind | lines | right | speech that ended by itself |\n| --- | --- | --- | --- |\n");
        for (kind, count) in counts.iter().map(|(kind, count)| (*kind, count)).chain([("all", &all)]) {
            let Count { lines, right, spoken, ended } = count;
            let part = 100.0 * *right as f64 / (*lines).max(1) as f64;
            let _ = writeln!(text, "| {kind} | {lines} | {right} ({part:.1} %) | {ended} of {spoken} |");
        }
        text
    }
}

/// What a line asks, and the answer that it expects: the first call of a function, since what follows gives it away, or else the last
/// message.
fn question(line: &Line) -> Result<(&[Message], &Message)> {
    let messages = &line.messages;
    let call = messages.iter().position(|message| !message.tool_calls().is_empty());
    let at = call.unwrap_or(messages.len().saturating_sub(1));
    match messages.get(at) {
        Some(expected) if at > 0 => Ok((&messages[..at], expected)),
        _ => Err(Error::Request(format!("{}: expected a question and an answer", line.location))),
    }
}

/// What a model should say, as [`answer_of`] writes it.
fn written(message: &Message) -> String {
    let texts = message.parts().iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        _ => None,
    });
    let text: String = texts.collect();
    let answer = text.rsplit_once("</think>").map_or(text.as_str(), |(_, answer)| answer);
    let calls = message.tool_calls().iter().map(|call| {
        let call = call.get("function").unwrap_or(call);
        call_text(call.get("name").and_then(Value::as_str).unwrap_or_default(), call.get("arguments"))
    });
    [answer.trim().to_owned()].into_iter().chain(calls).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// An answer's text and the functions that it calls.
fn answer_of(reply: &Reply) -> String {
    let calls = reply.tool_calls.iter().map(|call| call_text(&call.name, Some(&call.arguments)));
    let text = reply.text.trim().to_owned();
    [text].into_iter().chain(calls).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn call_text(name: &str, arguments: Option<&Value>) -> String {
    format!("{name}{}", arguments.unwrap_or(&Value::Null))
}

fn write_items(path: &Path, answered: &[Answered]) -> Result<()> {
    let lines = answered.iter().map(|item| {
        let Answered { kind, place, expected, said, ended, wav } = item;
        json!({"kind": kind, "place": place, "expected": expected, "said": said, "ended": ended, "wav": wav})
            .to_string()
            + "\n"
    });
    write_text(path, &lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use train::data::Location;

    use super::*;

    fn line(json: &Value) -> Line {
        Line::parse(&json.to_string(), &Location { path: Path::new("a.jsonl").into(), line: 1 }).unwrap()
    }

    #[test]
    fn calls_are_asked_for_before_their_results_are_known() {
        let call = json!({"type": "function", "function": {"name": "light", "arguments": {"colour": "red"}}});
        let called = line(&json!({"messages": [
            {"role": "user", "content": "make the light red"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "done"},
            {"role": "assistant", "content": "the light is red"},
        ]}));
        let (prompt, expected) = question(&called).unwrap();
        assert_eq!((prompt.len(), written(expected).as_str()), (1, "light{\"colour\":\"red\"}"));
        let said = line(
            &json!({"messages": [{"role": "user", "content": "who"}, {"role": "assistant", "content": "<think>\nI.\n</think>\n\nme"}]}),
        );
        let (prompt, expected) = question(&said).unwrap();
        assert_eq!((prompt.len(), written(expected).as_str()), (1, "me"));
    }

    #[test]
    fn kinds_are_counted_apart_and_together() {
        let answered = |kind: &str, said: &str, ended| Answered {
            kind: kind.into(),
            place: "a.jsonl:1".into(),
            expected: "yes".into(),
            said: said.into(),
            ended,
            wav: None,
        };
        let all = [answered("a", "yes", Some(true)), answered("a", "no", Some(false)), answered("b", "yes", None)];
        let evaluate = Evaluate {
            model: PathBuf::new(),
            data: Vec::new(),
            speech: None,
            read_aloud: false,
            sampled: None,
            most: None,
            answers: 1,
            show: 1,
        };
        let table = evaluate.table(&all);
        for row in
            ["| a | 2 | 1 (50.0 %) | 1 of 2 |", "| b | 1 | 1 (100.0 %) | 0 of 0 |", "| all | 3 | 2 (66.7 %) | 1 of 2 |"]
        {
            assert!(table.contains(row), "{table}");
        }
        assert!(table.starts_with("a.jsonl:1: \"no\", expected \"yes\""), "{table}");
    }
}
