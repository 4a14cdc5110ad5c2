//! Nano's tokenizer: byte-pair encoding in which each word of its world is one token, with and without a space in front.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use qwen3_omni::{Error, Result, Tokenizer};
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{Model as _, SplitDelimiterBehavior, TokenizerBuilder};

use crate::files::{read_text, write_json, write_text};

/// How often a word of the world counts, so that it becomes a token before anything else does.
const WORD: usize = 100;

/// How often the name of a role counts.
const ROLE: usize = 200;

/// Trains a tokenizer on words and on other texts, of which what occurs often gets tokens too, and writes its files into `out`.
/// `template` is a directory whose added tokens and settings it takes. Returns the ids of all tokens.
///
/// # Errors
/// Those of the files, and of the training.
pub(crate) fn write(
    words: &[String],
    texts: &[String],
    size: usize,
    template: &Path,
    out: &Path,
) -> Result<Map<String, Value>> {
    let failed = |error: &dyn std::fmt::Display| Error::Request(format!("training the tokenizer: {error}"));
    let split = Split::new(SplitPattern::Regex(Tokenizer::PIECES.into()), SplitDelimiterBehavior::Isolated, false);
    let split = split.map_err(|error| failed(&error))?;
    let pieces = Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)),
    ]);
    let tokenizer = TokenizerBuilder::<_, _, _, ByteLevel, ByteLevel>::default()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC))
        .with_pre_tokenizer(Some(pieces));
    let mut tokenizer = tokenizer.build().map_err(|error| failed(&error))?;
    let alphabet: HashSet<char> = ByteLevel::alphabet().into_iter().collect();
    let trainer = BpeTrainer::builder().vocab_size(size).min_frequency(1).show_progress(false);
    let mut trainer = trainer.initial_alphabet(alphabet).build();
    let counted =
        words.iter().flat_map(|word| std::iter::repeat_n([word.clone(), format!("x {word}")], WORD)).flatten();
    let roles = ["user", "assistant", "system"].into_iter().flat_map(|role| std::iter::repeat_n(role.to_owned(), ROLE));
    let all: Vec<String> = counted.chain(roles).chain(texts.iter().cloned()).collect();
    tokenizer.train(&mut trainer, all.iter()).map_err(|error| failed(&error))?;
    tokenizer.get_model().save(out, None).map_err(|error| failed(&error))?;
    let mut ids: Map<String, Value> =
        serde_json::from_str(&read_text(&out.join("vocab.json"))?).map_err(|error| failed(&error))?;
    let settings = with_added(&read_text(&template.join("tokenizer_config.json"))?, &mut ids)?;
    write_json(&out.join("tokenizer_config.json"), &settings)?;
    write_text(&out.join("chat_template.json"), &read_text(&template.join("chat_template.json"))?)?;
    Ok(ids)
}

/// Settings whose added tokens follow the others; their ids are added to `ids`.
fn with_added(settings: &str, ids: &mut Map<String, Value>) -> Result<Value> {
    let mut settings: Value = serde_json::from_str(settings).map_err(|error| Error::Config(error.to_string()))?;
    let added = settings["added_tokens_decoder"].as_object().cloned().unwrap_or_default();
    let by_id: BTreeMap<u64, Value> =
        added.into_iter().filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect();
    let first = ids.len();
    let renumbered = by_id.into_values().enumerate().map(|(index, token)| {
        let id = first + index;
        ids.insert(token["content"].as_str().unwrap_or_default().to_owned(), json!(id));
        (id.to_string(), token)
    });
    settings["added_tokens_decoder"] = Value::Object(renumbered.collect());
    Ok(settings)
}
