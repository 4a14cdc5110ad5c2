//! The files beside the weights: whether a program can talk to the model with them.

use std::path::{Path, PathBuf};

use omni_core::{Error, Result};
use qwen3_omni::OmniCheckpoint;
use serde_json::Value;

/// What is missing, broken or odd, one line each.
pub(super) fn companions(checkpoint: &OmniCheckpoint) -> Vec<String> {
    let directory = checkpoint.directory();
    let broken = broken_json(directory);
    let mut odd: Vec<String> = broken.iter().map(|(_, error)| format!("broken {error}")).collect();
    odd.extend(merges(directory));
    // A file that is no JSON, or is no merge list, is named once.
    let named = |message: &str| {
        let merges = (!odd.is_empty()).then(|| directory.join("merges.txt"));
        let mut files = broken.iter().map(|(path, _)| path).chain(&merges);
        files.any(|path| message.contains(&*path.to_string_lossy()))
    };
    let faults = checkpoint.companion_faults().into_iter().map(|error| error.to_string());
    let faults: Vec<String> =
        faults.filter(|message| !named(message)).map(|fault| format!("unusable: {fault}")).collect();
    odd.extend(faults);
    odd
}

/// Every JSON file beside the weights that is none, with what is wrong.
fn broken_json(directory: &Path) -> Vec<(PathBuf, Error)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    files.into_iter().filter_map(|path| Some((path.clone(), read(&path).err()?))).collect()
}

/// A JSON object.
fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    let value: Value = serde_json::from_slice(&text)
        .map_err(|error| Error::config(format!("{}: {error}", path.display())).caused_by(error))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(Error::config(format!("{}: expected a JSON object", path.display()))),
    }
}

/// Merges that are not two parts, which may hide behind a good `tokenizer.json`.
fn merges(directory: &Path) -> Option<String> {
    let path = directory.join("merges.txt");
    let bytes = std::fs::read(&path).ok()?;
    let reason = match std::str::from_utf8(&bytes) {
        Err(_) => "it is not UTF-8".to_owned(),
        Ok(text) => {
            let rules = text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
            let mut bad =
                rules.clone().filter(|(_, line)| line.split(' ').filter(|part| !part.is_empty()).count() != 2);
            match (bad.next(), rules.count()) {
                (Some((at, line)), _) => format!("line {} is {line:?}, expected two parts", at + 1),
                (None, 0) => "there is no merge in it".to_owned(),
                (None, _) => return None,
            }
        }
    };
    Some(format!("broken {}: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is odd about the small checkpoint with one file replaced.
    fn odd(file: &str, text: &str) -> String {
        let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
        std::fs::write(directory.path().join(file), text).unwrap();
        let found = companions(&OmniCheckpoint::open(directory.path()).unwrap());
        assert!(found.len() <= 1, "one fault, one line: {found:?}");
        found.concat()
    }

    #[test]
    fn broken_companions_are_named_with_what_is_wrong() {
        for (file, text, reason) in [
            ("vocab.json", "{\"a\": 1", "vocab.json: EOF"),
            ("vocab.json", "", "vocab.json: EOF"),
            ("vocab.json", "[]", "vocab.json: expected a JSON object"),
            ("tokenizer_config.json", "nonsense", "tokenizer_config.json"),
            ("generation_config.json", "{", "generation_config.json: EOF"),
            (
                "generation_config.json",
                r#"{"talker_temperature": "hot"}"#,
                "at `talker_temperature`: invalid type: string \"hot\"",
            ),
            ("generation_config.json", r#"{"talker_temperature": -1}"#, "generation_config.json"),
            (
                "generation_config.json",
                r#"{"talker_top_k": 0.5}"#,
                "at `talker_top_k`: invalid type: floating point `0.5`",
            ),
            (
                "generation_config.json",
                r#"{"eos_token_id": ["x"]}"#,
                "at `eos_token_id`: expected a token id or a list of token ids",
            ),
            ("preprocessor_config.json", "[1]", "preprocessor_config.json: expected"),
            ("preprocessor_config.json", r#"{"min_pixels": 9, "max_pixels": 4}"#, "at least 9 and at most 4 pixels"),
            ("preprocessor_config.json", r#"{"max_pixels": "many"}"#, "at `max_pixels`: invalid type: string \"many\""),
            ("chat_template.json", r#"{"chat_template": "{% if"}"#, "chat template is damaged"),
            ("chat_template.json", r#"{"chat_template": "{{ nothing.at.all }}"}"#, "the chat template refuses this"),
            ("video_preprocessor_config.json", "{]", "video_preprocessor_config.json"),
        ] {
            let found = odd(file, text);
            assert!(found.contains(reason), "{file} {text}: {found}");
        }
        assert_eq!(odd("generation_config.json", r#"{"eos_token_id": [1, 2], "talker_top_k": 5}"#), "");
    }

    #[test]
    fn merges_that_are_none_are_named_by_their_line() {
        let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
        let path = directory.path().join("merges.txt");
        let merges = std::fs::read_to_string(&path).unwrap();
        for (text, reason) in
            [("#version: 0.2\n", "no merge"), (&*format!("{merges}\none\n"), "is \"one\", expected two")]
        {
            std::fs::write(&path, text).unwrap();
            let found = companions(&OmniCheckpoint::open(directory.path()).unwrap()).join("\n");
            assert!(found.contains("merges.txt") && found.contains(reason), "{found}");
        }
    }
}
