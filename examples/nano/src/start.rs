//! The checkpoint that training starts from: tokenizer, config and random weights.

use std::path::{Path, PathBuf};

use clap::Args;
use qwen3_omni::{Dtype, Error, Result};
use serde_json::{Map, Value, json};
use weights_tools::init::{Options, init};

use crate::files::{copy, io, read_json, read_text, write_json};
use crate::join::Join;
use crate::tokenizer;

/// Make the checkpoint that training starts from: a tokenizer for the words of the data, the config, and random weights
#[derive(Args)]
pub(crate) struct Start {
    /// Folder that `data` made
    data: PathBuf,
    /// Directory to make
    out: PathBuf,
    /// Config with nano's sizes; ids of tokens are filled in
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/config.json"))]
    config: PathBuf,
    /// Tokens, added ones not counted
    #[arg(long, default_value_t = 1000)]
    tokens: usize,
    /// Go on with the thinker of this checkpoint: talker and vocoder are new, and so are tokens for words that its tokenizer splits
    #[arg(long, conflicts_with = "tokens", value_name = "DIR")]
    thinker: Option<PathBuf>,
    /// Seed of the weights
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// Directory whose chat template, added tokens and settings the new checkpoint takes.
const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/nano");

/// Files that are taken as they are.
const COPIED: [&str; 2] = ["generation_config.json", "preprocessor_config.json"];
const TOKENIZER: [&str; 2] = ["tokenizer_config.json", "chat_template.json"];

/// Ids that the configs of thinker and talker both have, with their tokens.
const MEDIA_IDS: [(&str, &str); 6] = [
    ("audio_token_id", "<|audio_pad|>"),
    ("image_token_id", "<|image_pad|>"),
    ("video_token_id", "<|video_pad|>"),
    ("audio_start_token_id", "<|audio_start|>"),
    ("audio_end_token_id", "<|audio_end|>"),
    ("vision_start_token_id", "<|vision_start|>"),
];

/// The vocabulary is padded to a multiple of this, as in the released model.
const MULTIPLE: usize = 64;

/// Lines of tools that the tokenizer is shown; all have the same few functions.
const TOOL_LINES: usize = 50;

impl Start {
    pub(crate) fn run(&self) -> Result<()> {
        let files = tempfile::tempdir().map_err(io(&std::env::temp_dir()))?;
        let Some(thinker) = &self.thinker else {
            let tokens = self.write_tokenizer(files.path())?;
            self.draw(files.path(), &self.out)?;
            println!("{tokens} tokens: {}", self.out.display());
            return Ok(());
        };
        let tokens = self.extend_tokenizer(thinker, files.path())?;
        let drawn = files.path().join("drawn");
        self.draw(files.path(), &drawn)?;
        let part = vec![format!("thinker.={}", thinker.display())];
        Join { model: drawn, out: self.out.clone(), part, text_only: false }.run()?;
        println!("{tokens} tokens: {}", self.out.display());
        Ok(())
    }

    /// Writes config, tokenizer and settings for the words of the data; returns the number of tokens.
    fn write_tokenizer(&self, files: &Path) -> Result<usize> {
        let template = Path::new(TEMPLATE);
        let ids = tokenizer::write(&self.words()?, &self.texts(template)?, self.tokens, template, files)?;
        write_json(&files.join("config.json"), &with_ids(read_json(&self.config)?, &ids)?)?;
        copy_files(template, &COPIED, files)?;
        Ok(ids.len())
    }

    /// Writes config, tokenizer and settings of a checkpoint, with tokens for the words of the data and the sizes of a new talker and
    /// vocoder; returns the number of tokens.
    fn extend_tokenizer(&self, thinker: &Path, files: &Path) -> Result<usize> {
        let ids = tokenizer::extend(&self.words()?, thinker, files)?;
        let mut config = with_parts_of(read_json(&thinker.join("config.json"))?, read_json(&self.config)?)?;
        let size = &mut config["thinker_config"]["text_config"]["vocab_size"];
        *size = json!(ids.len().next_multiple_of(MULTIPLE).max(size.as_u64().unwrap_or_default() as usize));
        write_json(&files.join("config.json"), &config)?;
        copy_files(thinker, &COPIED, files)?;
        copy_files(thinker, &TOKENIZER, files)?;
        Ok(ids.len())
    }

    /// The words of the data.
    fn words(&self) -> Result<Vec<String>> {
        Ok(read_text(&self.data.join("words.txt"))?.split_whitespace().map(str::to_owned).collect())
    }

    /// Draws weights for the config and the tokenizer in `files`.
    fn draw(&self, files: &Path, out: &Path) -> Result<()> {
        let options = Options {
            config: files.join("config.json"),
            out: out.to_owned(),
            seed: self.seed,
            layers: None,
            dtype: Dtype::F32,
            plan: None,
            shard_bytes: u64::MAX,
            for_training: true,
            restart: false,
        };
        init(&options, |_| {})
    }

    /// What else is read often: the words that the chat template puts around tools, and the functions.
    fn texts(&self, template: &Path) -> Result<Vec<String>> {
        let chat = read_json(&template.join("chat_template.json"))?;
        let mut texts = vec![chat["chat_template"].as_str().unwrap_or_default().to_owned()];
        let tools = self.data.join("train/tools.jsonl");
        for line in read_text(&tools)?.lines().take(TOOL_LINES) {
            let line: Value =
                serde_json::from_str(line).map_err(|error| Error::Request(format!("{}: {error}", tools.display())))?;
            texts.push(line["tools"].to_string());
        }
        Ok(texts)
    }
}

fn copy_files(from: &Path, names: &[&str], to: &Path) -> Result<()> {
    names.iter().try_for_each(|name| copy(&from.join(name), &to.join(name)))
}

/// The config of a thinker with the talker and the vocoder of another config.
fn with_parts_of(mut thinker: Value, mut other: Value) -> Result<Value> {
    for (key, _) in MEDIA_IDS {
        other["talker_config"][key] = thinker["thinker_config"][key].clone();
    }
    let width = thinker["thinker_config"]["text_config"]["hidden_size"].clone();
    if !width.is_u64() {
        return Err(Error::config("the thinker's config has no `thinker_config.text_config.hidden_size`"));
    }
    other["talker_config"]["thinker_hidden_size"] = width;
    for part in ["talker_config", "code2wav_config"] {
        thinker[part] = other[part].take();
    }
    thinker["dtype"] = other["dtype"].take();
    Ok(thinker)
}

/// A config whose ids of tokens, and the size of the vocabulary, are those of a tokenizer.
fn with_ids(mut config: Value, ids: &Map<String, Value>) -> Result<Value> {
    let id = |token: &str| {
        let missing = || Error::config(format!("the tokenizer has no `{token}`"));
        ids.get(token).and_then(Value::as_u64).ok_or_else(missing)
    };
    let vocabulary = ids.len().next_multiple_of(MULTIPLE);
    for (key, token) in [
        ("user_token_id", "user"),
        ("assistant_token_id", "assistant"),
        ("system_token_id", "system"),
        ("im_start_token_id", "<|im_start|>"),
        ("im_end_token_id", "<|im_end|>"),
        ("tts_pad_token_id", "<tts_pad>"),
        ("tts_bos_token_id", "<tts_text_bos>"),
        ("tts_eos_token_id", "<tts_text_eod>"),
    ] {
        config[key] = json!(id(token)?);
    }
    for section in ["thinker_config", "talker_config"] {
        for (key, token) in MEDIA_IDS {
            config[section][key] = json!(id(token)?);
        }
    }
    config["thinker_config"]["vision_end_token_id"] = json!(id("<|vision_end|>")?);
    config["thinker_config"]["user_token_id"] = json!(id("user")?);
    config["thinker_config"]["text_config"]["vocab_size"] = json!(vocabulary);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_talker_has_the_width_and_the_ids_of_its_thinker() {
        let [thinker, other] = [Path::new(TEMPLATE), Path::new(env!("CARGO_MANIFEST_DIR"))]
            .map(|folder| read_json(&folder.join("config.json")).unwrap());
        let config = with_parts_of(thinker.clone(), other.clone()).unwrap();
        assert_eq!(config["thinker_config"], thinker["thinker_config"]);
        assert_eq!(config["code2wav_config"], other["code2wav_config"]);
        let talker = &config["talker_config"];
        assert_eq!(talker["thinker_hidden_size"], thinker["thinker_config"]["text_config"]["hidden_size"]);
        assert_eq!(talker["text_config"], other["talker_config"]["text_config"]);
        for (key, _) in MEDIA_IDS {
            assert!(thinker["thinker_config"][key].is_u64(), "{key}");
            assert_eq!(talker[key], thinker["thinker_config"][key], "{key}");
        }
    }
}
