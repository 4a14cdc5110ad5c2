//! All texts of the data, for its tokenizer.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use crate::data::typed::line::spaced;

/// Texts without repetition, in order of appearance.
#[derive(Debug, Default)]
pub struct Corpus {
    texts: Vec<String>,
    known: HashSet<String>,
}

impl Corpus {
    /// Adds the texts of a line.
    pub fn add(&mut self, line: &Value) {
        if let Some(text) = line.get("text") {
            self.add_value(text);
        }
        for tool in list(line, "tools") {
            self.push(spaced(tool));
        }
        for message in list(line, "messages") {
            for key in ["reasoning_content", "content"] {
                self.add_value(&message[key]);
            }
            for call in list(message, "tool_calls") {
                self.push(spaced(&call["function"]));
            }
        }
    }

    fn add_value(&mut self, content: &Value) {
        match content {
            Value::String(text) => self.push(text.clone()),
            Value::Array(parts) => parts.iter().for_each(|part| self.add_value(&part["text"])),
            _ => {}
        }
    }

    fn push(&mut self, text: String) {
        if !text.is_empty() && self.known.insert(text.clone()) {
            self.texts.push(text);
        }
    }

    /// The texts.
    #[cfg(test)]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Their words: letters that stand together, in order of the alphabet.
    pub fn words(&self) -> Vec<&str> {
        let words =
            self.texts.iter().flat_map(|text| text.split(|letter: char| !letter.is_alphabetic() && letter != '_'));
        let words: BTreeSet<&str> = words.filter(|word| !word.is_empty()).collect();
        words.into_iter().collect()
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::typed::line::{Line, Part};

    #[test]
    fn texts_are_found_and_paths_are_not() {
        let line = Line::new("x").says(&[Part::Sound("../media/a.wav".into()), "what did i say".into()]).answer("red");
        let mut corpus = Corpus::default();
        corpus.add(&line.to_json());
        corpus.add(&line.to_json());
        assert_eq!(corpus.texts(), ["what did i say", "red"]);
        assert_eq!(corpus.words(), ["did", "i", "red", "say", "what"]);
    }
}
