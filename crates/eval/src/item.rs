//! What is asked of a model, and what is right.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::extract::Grid;
use crate::normalise::Normaliser;

/// One thing that is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// A name that no other item of the suite has.
    pub id: String,
    /// The kind of item, for figures by group.
    pub group: Option<String>,
    /// What is to be done.
    pub task: Task,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Put a recording into words.
    Transcribe {
        /// The recording.
        sound: Sound,
        /// What is said in it.
        text: String,
        /// How texts are compared.
        normaliser: Normaliser,
    },
    /// Answer a question.
    Answer {
        /// The question.
        question: String,
        /// What it is about.
        sound: Option<Sound>,
        /// What is right.
        expected: Expected,
    },
    /// Read a text aloud.
    Speak {
        /// The text.
        text: String,
        /// How it is compared with what a recogniser hears.
        normaliser: Normaliser,
    },
}

/// The right answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// One of several options.
    Choice {
        /// The options, in the order of their letters.
        options: Vec<String>,
        /// Index of the right one.
        right: usize,
    },
    /// A whole number.
    Integer(i64),
    /// The solution of a logic puzzle.
    Grid(Grid),
}

impl Item {
    /// The right answer, as it is noted beside what the model gave.
    pub fn expected(&self) -> Value {
        match &self.task {
            Task::Transcribe { text, .. } | Task::Speak { text, .. } => json!(text),
            Task::Answer { expected: Expected::Choice { options, right }, .. } => {
                json!(format!("({}) {}", letter(*right), options[*right]))
            }
            Task::Answer { expected: Expected::Integer(number), .. } => json!(number),
            Task::Answer { expected: Expected::Grid(grid), .. } => json!(grid),
        }
    }
}

impl Expected {
    /// What an answer can be, as `{options}` of a prompt: lettered options, or the form of a puzzle's solution.
    pub fn options(&self) -> String {
        match self {
            Self::Choice { options, .. } => {
                let lines = options.iter().enumerate().map(|(index, option)| format!("({}) {option}", letter(index)));
                lines.collect::<Vec<_>>().join("\n")
            }
            Self::Integer(_) => String::new(),
            Self::Grid(Grid(houses)) => {
                let blank = |attributes: &std::collections::BTreeMap<String, String>| {
                    attributes.keys().map(|name| (name.clone(), json!("___"))).collect()
                };
                let rows = houses.iter().map(|(house, row)| (house.clone(), Value::Object(blank(row)))).collect();
                format!("{:#}", json!({"reasoning": "___", "solution": Value::Object(rows)}))
            }
        }
    }
}

/// The letter of an option.
pub(crate) fn letter(index: usize) -> char {
    u8::try_from(index).map_or('?', |index| char::from(b'A'.saturating_add(index)))
}

/// A recording, or a part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    /// The file, in any format that the facade reads.
    pub file: PathBuf,
    /// Begin and end of the part, in seconds; `None` for all of it.
    pub span: Option<(f64, f64)>,
}

impl Sound {
    /// A whole recording.
    pub fn whole(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), span: None }
    }
}
