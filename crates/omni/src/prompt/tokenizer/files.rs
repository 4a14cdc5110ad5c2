//! Reads a tokenizer from the files of a checkpoint directory.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use checkpoint::read_json;
use omni_core::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::guarded::guarded;

const WHOLE: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
const ADDED: &str = "added_tokens.json";

/// Reads the tokenizer of a directory and adds the tokens that stand beside it.
pub(super) fn read(directory: &Path) -> Result<Tokenizer> {
    let whole = directory.join(WHOLE);
    let mut tokenizer = if whole.is_file() { from_whole(&whole)? } else { assemble(directory)? };
    add_tokens(&mut tokenizer, directory)?;
    Ok(tokenizer)
}

/// Reads a `tokenizer.json`. A length that it was last used with is no property of the model: prompts are neither cut nor padded,
/// as in the reference, which resets both.
fn from_whole(path: &Path) -> Result<Tokenizer> {
    let mut tokenizer =
        guarded(|| Tokenizer::from_file(path)).map_err(|error| config(path, &error).caused_by(error))?;
    tokenizer.with_padding(None);
    guarded(|| tokenizer.with_truncation(None).map(drop)).map_err(|error| config(path, &error).caused_by(error))?;
    Ok(tokenizer)
}

/// Builds the tokenizer from the files of the released directory, without its added tokens.
fn assemble(directory: &Path) -> Result<Tokenizer> {
    let [vocab, merges] = ["vocab.json", "merges.txt"].map(|file| directory.join(file));
    let settings = [SETTINGS, ADDED].map(|file| directory.join(file));
    let added = settings.iter().find(|path| path.exists()).unwrap_or(&settings[0]);
    for path in [&vocab, &merges, added] {
        if !path.exists() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(Error::config(format!("{}: there is neither {WHOLE} nor {name}", directory.display())));
        }
        if !path.is_file() {
            return Err(config(path, &"this is no regular file"));
        }
    }
    let bpe = BPE::from_file(&vocab.to_string_lossy(), &merges.to_string_lossy());
    let bpe = guarded(|| bpe.build()).map_err(|error| config(&vocab, &error).caused_by(error))?;
    let mut tokenizer = Tokenizer::new(bpe);
    let split =
        Split::new(SplitPattern::Regex(super::Tokenizer::PIECES.into()), SplitDelimiterBehavior::Isolated, false);
    let split = split.map_err(|error| Error::config(format!("the tokenizer's pattern: {error}")).caused_by(error))?;
    let bytes = ByteLevel::new(false, false, false);
    tokenizer.with_normalizer(Some(NFC)).map_err(|error| config(&vocab, &error).caused_by(error))?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    tokenizer.with_decoder(Some(bytes));
    Ok(tokenizer)
}

/// The part of `tokenizer_config.json` and `special_tokens_map.json` about added tokens.
#[derive(Default, Deserialize)]
struct Settings {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, Added>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
    #[serde(default)]
    special: bool,
}

impl Settings {
    fn read(path: &Path) -> Result<Self> {
        if path.exists() { Ok(read_json(path)?) } else { Ok(Self::default()) }
    }

    /// Tokens that a key names as special: `eos_token` and its like, and the lists of further ones.
    fn named_special(&self) -> impl Iterator<Item = &str> {
        let of_key = |(key, value): (&String, &'_ Value)| {
            key.ends_with("_token") || key.ends_with("_special_tokens") && !value.is_null()
        };
        self.rest.iter().filter(move |(key, value)| of_key((key, value))).flat_map(|(_, value)| texts(value))
    }
}

/// The texts in a token, or in a list or table of tokens. A token is a string or an object with `content`.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(token) => match token.get("content").and_then(Value::as_str) {
            Some(text) => vec![text],
            None => token.values().flat_map(texts).collect(),
        },
        _ => Vec::new(),
    }
}

/// Adds the tokens of `tokenizer_config.json` and `added_tokens.json` that are not there yet, and checks that each has the id that
/// its file names.
fn add_tokens(tokenizer: &mut Tokenizer, directory: &Path) -> Result<()> {
    let [settings_path, added_path, map_path] =
        [SETTINGS, ADDED, "special_tokens_map.json"].map(|file| directory.join(file));
    let (settings, map) = (Settings::read(&settings_path)?, Settings::read(&map_path)?);
    let special: HashSet<&str> = settings.named_special().chain(map.named_special()).collect();
    let mut tokens: Vec<(u32, &str, bool, &PathBuf)> = Vec::new();
    for (id, Added { content, special }) in &settings.added_tokens_decoder {
        let parsed = id.parse().map_err(|_| config(&settings_path, &format!("added token id `{id}` is no number")))?;
        tokens.push((parsed, content, *special, &settings_path));
    }
    let listed: HashSet<&str> = tokens.iter().map(|(_, content, ..)| *content).collect();
    let by_text: BTreeMap<String, u32> = if added_path.exists() { read_json(&added_path)? } else { BTreeMap::new() };
    let unlisted = by_text.iter().filter(|(text, _)| !listed.contains(text.as_str()));
    tokens.extend(unlisted.map(|(text, id)| (*id, text.as_str(), special.contains(text.as_str()), &added_path)));
    tokens.sort_by_key(|(id, ..)| *id);
    let known = tokenizer.get_added_tokens_decoder();
    let is_known = |id: &u32, content: &str| known.get(id).is_some_and(|token| token.content == content);
    let absent = tokens.iter().filter(|(id, content, ..)| !is_known(id, content));
    let absent = absent.map(|(_, content, special, _)| AddedToken::from(*content, *special).normalized(false));
    // All at once: the library rebuilds its matcher at each call.
    guarded(|| tokenizer.add_tokens(absent.collect::<Vec<_>>()))
        .map_err(|error| config(&settings_path, &error).caused_by(error))?;
    for (id, content, _, path) in tokens {
        let given = tokenizer.token_to_id(content);
        if given != Some(id) {
            let reason = format!("added token `{content}` should have id {id}, but the tokenizer gives {given:?}");
            return Err(config(path, &reason));
        }
    }
    Ok(())
}

fn config(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::config(format!("{}: {reason}", path.display()))
}
