//! Nano's tokenizer: byte-pair encoding in which each word of its world is one token, with and without a space in front.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use qwen3_omni::{Error, Result, Tokenizer};
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{Model as _, SplitDelimiterBehavior, TokenizerBuilder};

use crate::files::{read_json, read_text, write_json, write_text};

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

/// Extends the tokenizer of `from` so that each word is one token, with and without a space in front, and writes its files into `out`.
/// Words that were one token before stay the same token. Returns the ids of all tokens.
///
/// # Errors
/// Those of the files, and [`Error::Config`] for a tokenizer that is no byte-pair encoding.
pub(crate) fn extend(words: &[String], from: &Path, out: &Path) -> Result<Map<String, Value>> {
    let path = from.join("vocab.json");
    let no_ids = || Error::config(format!("{}: expected tokens and their ids", path.display()));
    let Value::Object(mut ids) = read_json(&path)? else { return Err(no_ids()) };
    let merges = read_text(&from.join("merges.txt"))?;
    let pair = |line: &str| line.split_once(' ').map(|(first, second)| (first.to_owned(), second.to_owned()));
    let mut pairs: Vec<(String, String)> =
        merges.lines().filter(|line| !line.starts_with("#version")).filter_map(pair).collect();
    let settings = read_json(&from.join("tokenizer_config.json"))?;
    // Added tokens keep their ids and become part of the vocabulary: new ids follow theirs, and a vocabulary must have no gap.
    for (id, token) in settings["added_tokens_decoder"].as_object().into_iter().flatten() {
        let id: u64 = id.parse().map_err(|_| Error::config(format!("added token `{id}`: expected an id")))?;
        ids.insert(token["content"].as_str().unwrap_or_default().to_owned(), json!(id));
    }
    for word in words.iter().filter(|word| word.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
        for text in [format!("Ġ{word}"), word.clone()] {
            merge(&text, &mut ids, &mut pairs)?;
        }
    }
    let lines: Vec<String> = pairs.iter().map(|(first, second)| format!("{first} {second}\n")).collect();
    write_text(&out.join("merges.txt"), &format!("#version: 0.2\n{}", lines.concat()))?;
    write_json(&out.join("vocab.json"), &Value::Object(ids.clone()))?;
    Ok(ids)
}

/// Adds merges until a text is one token. They rank last, so that all earlier merges are applied before them.
fn merge(text: &str, ids: &mut Map<String, Value>, pairs: &mut Vec<(String, String)>) -> Result<()> {
    loop {
        let vocabulary = ids.iter().map(|(token, id)| (token.clone(), id.as_u64().unwrap_or_default() as u32));
        let model = BPE::builder().vocab_and_merges(vocabulary.collect::<Vocab>(), pairs.clone()).build();
        let tokens = model.and_then(|model| model.tokenize(text));
        let tokens =
            tokens.map_err(|error| Error::config(format!("the tokenizer, for `{text}`: {error}")).caused_by(error))?;
        let [first, second, ..] = &tokens[..] else { return Ok(()) };
        pairs.push((first.value.clone(), second.value.clone()));
        let next = ids.len();
        ids.entry(format!("{}{}", first.value, second.value)).or_insert_with(|| json!(next));
    }
}

/// Settings whose added tokens follow the others; their ids are added to `ids`.
fn with_added(settings: &str, ids: &mut Map<String, Value>) -> Result<Value> {
    let mut settings: Value =
        serde_json::from_str(settings).map_err(|error| Error::config(error.to_string()).caused_by(error))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_words_are_one_token_and_those_that_were_stay_the_same() {
        let nano = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/nano"));
        let out = tempfile::tempdir().unwrap();
        let words = ["zebra", "zeppelin", "zero"].map(String::from);
        let ids = extend(&words, nano, out.path()).unwrap();
        for file in ["tokenizer_config.json", "chat_template.json"] {
            std::fs::copy(nano.join(file), out.path().join(file)).unwrap();
        }
        let [before, after] = [nano, out.path()].map(|folder| Tokenizer::from_directory(folder).unwrap());
        let tokens = |text: &str| after.encode(text).unwrap();
        for word in &words {
            assert_eq!((tokens(word).len(), tokens(&format!(" {word}")).len()), (1, 1), "{word}");
        }
        for text in ["what is seven plus five", "<|im_start|>user\nred cat zero<|im_end|>"] {
            assert_eq!(tokens(text), before.encode(text).unwrap(), "{text}");
        }
        let mut all: Vec<u64> = ids.values().filter_map(Value::as_u64).collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..ids.len() as u64));
    }
}
