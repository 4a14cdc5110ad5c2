//! The files beside the weights: whether a program can talk to the model with them.

use std::path::{Path, PathBuf};

use omni_core::{Error, Result, SamplingOptions};
use qwen3_omni::{ChatTemplate, OmniCheckpoint, TemplateOptions, Tokenizer};
use serde_json::{Value, json};

/// What is missing, broken or odd, one line each.
pub(super) fn companions(checkpoint: &OmniCheckpoint) -> Vec<String> {
    let directory = checkpoint.directory();
    let mut odd = broken_json(directory);
    let json_is_read = odd.is_empty();
    odd.extend(tokenizer(checkpoint).err().filter(|_| json_is_read || !has_tokenizer(directory)));
    odd.extend(merges(directory));
    odd.extend(template(directory).err().map(|error| format!("no usable chat template: {error}")));
    odd.extend(generation(directory).err());
    odd.extend(preprocessor(directory).err());
    odd
}

/// Every JSON file beside the weights that is none.
fn broken_json(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    files.iter().filter_map(|path| read(path).err()).map(|error| format!("broken {error}")).collect()
}

/// A JSON object.
fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    let value: Value =
        serde_json::from_slice(&text).map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(Error::Config(format!("{}: expected a JSON object", path.display()))),
    }
}

fn has_tokenizer(directory: &Path) -> bool {
    let has = |file: &str| directory.join(file).is_file();
    has("tokenizer.json") || ["vocab.json", "merges.txt", "tokenizer_config.json"].into_iter().all(has)
}

/// Reads the tokenizer and looks up the token that ends a message: with the tokenizer of another model, answers would not end.
fn tokenizer(checkpoint: &OmniCheckpoint) -> Result<(), String> {
    let directory = checkpoint.directory();
    if !has_tokenizer(directory) {
        let expected = "expected tokenizer.json, or vocab.json, merges.txt and tokenizer_config.json";
        return Err(format!("no tokenizer: {expected}"));
    }
    let broken = |error: Error| format!("broken tokenizer: {error}");
    let tokenizer = Tokenizer::from_directory(directory).map_err(broken)?;
    let (end, config) = ("<|im_end|>", checkpoint.config());
    let found = tokenizer.encode(end).map_err(broken)?;
    if found != [config.top.im_end_token_id] {
        let expected = config.top.im_end_token_id;
        return Err(format!("odd tokenizer: {end} is {found:?}, but im_end_token_id in config.json is {expected}"));
    }
    let (size, rows) = (tokenizer.size() as usize, config.thinker.text.vocab_size);
    match size > rows {
        true => Err(format!("odd tokenizer: it has ids up to {}, but the embeddings have {rows} rows", size - 1)),
        false => Ok(()),
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

/// Reads the chat template and renders a message.
fn template(directory: &Path) -> Result<()> {
    let options = TemplateOptions { tools: Vec::new(), add_generation_prompt: true, enable_thinking: None };
    let message = json!([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]);
    match ChatTemplate::from_directory(directory)?.render(&message, &options)?.contains("Hello") {
        true => Ok(()),
        false => Err(Error::Config("it leaves out the text of a message".into())),
    }
}

/// The keys of a companion, if it is there and can be read.
fn keys(directory: &Path, file: &str) -> Option<Value> {
    read(&directory.join(file)).ok()
}

/// Checks the settings of `generation_config.json` that answers are made with.
fn generation(directory: &Path) -> Result<(), String> {
    let file = "generation_config.json";
    let Some(config) = keys(directory, file) else { return Ok(()) };
    let number = |key: &str, usual: f32| match config.get(key) {
        None => Ok(usual),
        Some(value) => value
            .as_f64()
            .map(|value| value as f32)
            .ok_or_else(|| format!("broken {file}: {key} is {value}, expected a number")),
    };
    let usual = SamplingOptions::talker();
    let sampling = SamplingOptions {
        greedy: false,
        temperature: number("talker_temperature", usual.temperature)?,
        top_p: number("talker_top_p", usual.top_p)?,
        repetition_penalty: number("talker_repetition_penalty", usual.repetition_penalty)?,
        ..usual
    };
    sampling.validate("talker").map_err(|error| format!("broken {file}: {error}"))?;
    for key in ["talker_top_k", "talker_max_new_tokens"] {
        let found = config.get(key).filter(|value| value.as_u64().is_none());
        found.map_or(Ok(()), |value| Err(format!("broken {file}: {key} is {value}, expected a whole number")))?;
    }
    let is_id = |id: &Value| id.as_u64().is_some_and(|id| u32::try_from(id).is_ok());
    match &config["eos_token_id"] {
        Value::Null => Ok(()),
        Value::Array(ids) if ids.iter().all(is_id) => Ok(()),
        id if is_id(id) => Ok(()),
        other => Err(format!("broken {file}: eos_token_id is {other}, expected a token id or a list of them")),
    }
}

/// Checks the bounds of image sizes in `preprocessor_config.json`.
fn preprocessor(directory: &Path) -> Result<(), String> {
    let file = "preprocessor_config.json";
    let Some(config) = keys(directory, file) else { return Ok(()) };
    let pixels = |key: &str| match config.get(key) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or_else(|| format!("broken {file}: {key} is {value}, expected a whole number of pixels")),
    };
    match (pixels("min_pixels")?, pixels("max_pixels")?) {
        (Some(min), Some(max)) if min > max => {
            Err(format!("broken {file}: {min} min_pixels and {max} max_pixels contradict each other"))
        }
        (_, Some(0)) => Err(format!("broken {file}: max_pixels is 0")),
        _ => Ok(()),
    }
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
            ("generation_config.json", r#"{"talker_temperature": "hot"}"#, "talker_temperature is \"hot\""),
            ("generation_config.json", r#"{"talker_temperature": -1}"#, "generation_config.json"),
            ("generation_config.json", r#"{"talker_top_k": 0.5}"#, "talker_top_k is 0.5"),
            ("generation_config.json", r#"{"eos_token_id": ["x"]}"#, "eos_token_id is [\"x\"]"),
            ("preprocessor_config.json", "[1]", "preprocessor_config.json: expected"),
            ("preprocessor_config.json", r#"{"min_pixels": 9, "max_pixels": 4}"#, "9 min_pixels and 4 max_pixels"),
            ("preprocessor_config.json", r#"{"max_pixels": "many"}"#, "max_pixels is \"many\""),
            ("chat_template.json", r#"{"chat_template": "{% if"}"#, "chat template is damaged"),
            ("chat_template.json", r#"{"chat_template": "{{ nothing.at.all }}"}"#, "no usable chat template"),
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
