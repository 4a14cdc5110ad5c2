//! Lines of the data, in the form that `qwen3-omni-train` reads.

use std::io;

use serde::Serialize;
use serde_json::{Map, Value, json};

/// A part of what a user says.
#[derive(Debug, Clone)]
pub enum Part {
    /// Text.
    Text(String),
    /// A file of sound.
    Sound(String),
    /// A picture.
    Picture(String),
    /// A video.
    Clip(String),
}

/// One line.
#[derive(Debug, Clone)]
#[must_use]
pub struct Line {
    kind: &'static str,
    messages: Vec<Value>,
    tools: Vec<Value>,
    speech: Option<(String, &'static str)>,
    audio_in_video: bool,
}

impl Part {
    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!({"type": "text", "text": text}),
            Self::Sound(path) => json!({"type": "audio", "audio": path}),
            Self::Picture(path) => json!({"type": "image", "image": path}),
            Self::Clip(path) => json!({"type": "video", "video": path}),
        }
    }
}

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl Line {
    /// A line without messages.
    pub fn new(kind: &'static str) -> Self {
        Self { kind, messages: Vec::new(), tools: Vec::new(), speech: None, audio_in_video: false }
    }

    /// Adds a message as it is.
    pub fn message(mut self, message: Value) -> Self {
        self.messages.push(message);
        self
    }

    /// Adds a system message.
    pub fn system(self, text: &str) -> Self {
        self.message(json!({"role": "system", "content": text}))
    }

    /// Adds what a user says in text.
    pub fn asks(self, text: impl Into<String>) -> Self {
        self.says(&[Part::Text(text.into())])
    }

    /// Adds what a user says.
    pub fn says(self, parts: &[Part]) -> Self {
        let content = match parts {
            [Part::Text(text)] => json!(text),
            parts => parts.iter().map(Part::to_json).collect(),
        };
        self.message(json!({"role": "user", "content": content}))
    }

    /// Adds an answer.
    pub fn answer(self, text: impl Into<String>) -> Self {
        self.message(json!({"role": "assistant", "content": text.into()}))
    }

    /// Adds an answer with the reasoning in front of it.
    pub fn thought(self, reasoning: &str, text: String) -> Self {
        self.message(json!({"role": "assistant", "reasoning_content": reasoning, "content": text}))
    }

    /// Adds a call of a function, and what it gives back.
    pub fn call(self, name: &str, arguments: &Value, result: &Value) -> Self {
        let call = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
        self.message(json!({"role": "assistant", "content": "", "tool_calls": [call]}))
            .message(json!({"role": "tool", "content": spaced(result)}))
    }

    /// Sets the functions that may be called.
    pub fn tools(mut self, tools: Vec<Value>) -> Self {
        self.tools = tools;
        self
    }

    /// Adds the messages of another line.
    pub fn followed_by(mut self, other: &Self) -> Self {
        self.messages.extend_from_slice(&other.messages);
        self
    }

    /// Says that the last answer is spoken, in which file and by whom.
    pub fn spoken(mut self, path: String, speaker: &'static str) -> Self {
        self.speech = Some((path, speaker));
        self
    }

    /// Says that the sound of its video is heard.
    pub fn with_sound(self) -> Self {
        Self { audio_in_video: true, ..self }
    }

    /// Whether the sound of its video is heard.
    pub fn has_sound(&self) -> bool {
        self.audio_in_video
    }

    /// The line under another kind.
    pub fn of_kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    /// Whether it is of a kind.
    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind == kind
    }

    /// What the user says first.
    pub fn question(&self) -> Option<&Value> {
        self.messages.iter().find(|message| message["role"] == "user")
    }

    /// The answer to what the user says first, if it is in words.
    pub fn first_answer(&self) -> Option<&str> {
        let answer = self.messages.iter().find(|message| message["role"] == "assistant")?;
        answer["content"].as_str().filter(|text| !text.is_empty())
    }

    /// The last answer.
    pub fn last_answer(&self) -> Option<&str> {
        self.messages.last().filter(|last| last["role"] == "assistant")?["content"].as_str()
    }

    /// Whether it is one typed question and its answer.
    pub fn is_one_turn(&self) -> bool {
        let is_typed = |message: &Value| message["content"].is_string();
        self.messages.len() == 2 && self.tools.is_empty() && self.question().is_some_and(is_typed)
    }

    /// Whether its last answer has at most this many words.
    pub fn is_short(&self, words: usize) -> bool {
        self.last_answer().is_some_and(|answer| answer.split(' ').count() <= words)
    }

    /// The whole line.
    pub fn to_json(&self) -> Value {
        let mut line = Map::new();
        line.insert("kind".into(), json!(self.kind));
        line.insert("messages".into(), json!(self.messages));
        if !self.tools.is_empty() {
            line.insert("tools".into(), json!(self.tools));
        }
        if self.audio_in_video {
            line.insert("use_audio_in_video".into(), json!(true));
        }
        if let Some((path, speaker)) = &self.speech {
            line.insert("speech".into(), json!(path));
            line.insert("speaker".into(), json!(speaker));
        }
        Value::Object(line)
    }
}

/// JSON with a space behind commas and colons, as Python and chat templates write it.
pub fn spaced(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
    value.serialize(&mut serializer).expect("a JSON value can be written to memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

struct Spaced;

impl Spaced {
    fn separate<W: ?Sized + io::Write>(writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
