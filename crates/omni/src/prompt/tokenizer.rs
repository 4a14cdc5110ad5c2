use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use omni_core::{Error, Result};
use serde::Deserialize;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// Pattern that splits text into pieces, which BPE encodes separately (Qwen2: one digit per piece).
const PIECES: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The checkpoint's tokenizer: byte-level BPE with added tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: HashSet<u32>,
    size: u32,
    bytes: HashMap<char, u8>,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, Added>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
    #[serde(default)]
    special: bool,
}

impl Tokenizer {
    /// Loads the tokenizer from `tokenizer.json`, or else from `vocab.json`, `merges.txt` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Io`] naming the file.
    pub fn from_directory(directory: &Path) -> Result<Self> {
        let whole = directory.join("tokenizer.json");
        let inner = match whole.is_file() {
            true => tokenizers::Tokenizer::from_file(&whole).map_err(|error| config(&whole, &error))?,
            false => assemble(directory)?,
        };
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let size = inner.get_vocab(true).values().max().map_or(0, |id| id + 1);
        Ok(Self { inner, special, size, bytes: byte_alphabet() })
    }

    /// The largest id plus one.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Encodes a text. Added tokens in it are recognised; none are put around it.
    ///
    /// # Errors
    /// [`Error::Request`] if the text cannot be encoded.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|error| Error::Request(format!("the text cannot be encoded: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Decodes ids. Invalid UTF-8 becomes U+FFFD. With `skip_special`, tokens flagged special are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = self.stream(skip_special);
        let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// The id of an added token or vocabulary entry.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Starts a decoder that takes id by id and returns text at character boundaries.
    pub fn stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream { tokenizer: self, pending: PendingText::new(skip_special) }
    }

    /// The bytes of one token; an id without a token (an unused embedding row) has none.
    fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        let mapped: Option<Vec<u8>> = token.chars().map(|c| self.bytes.get(&c).copied()).collect();
        mapped.unwrap_or_else(|| token.into_bytes())
    }
}

/// A streaming decoder that never splits a character.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    pending: PendingText,
}

impl TextStream<'_> {
    /// Takes an id and returns the text that is complete, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        self.pending.push(self.tokenizer, id)
    }

    /// Returns the text that was held back; an incomplete character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        self.pending.finish()
    }
}

/// The state of a streaming decoder: bytes of an incomplete character.
#[derive(Debug, Clone)]
pub(crate) struct PendingText {
    bytes: Vec<u8>,
    skip_special: bool,
}

impl PendingText {
    pub(crate) fn new(skip_special: bool) -> Self {
        Self { bytes: Vec::new(), skip_special }
    }

    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if !(self.skip_special && tokenizer.special.contains(&id)) {
            self.bytes.extend(tokenizer.token_bytes(id));
        }
        let unfinished = unfinished_tail(&self.bytes);
        let complete: Vec<u8> = self.bytes.drain(..self.bytes.len() - unfinished).collect();
        String::from_utf8_lossy(&complete).into_owned()
    }

    pub(crate) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
    }
}

/// Length of an incomplete but valid character at the end.
fn unfinished_tail(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(_) => return 0,
            Err(error) => match error.error_len() {
                None => return rest.len() - error.valid_up_to(),
                Some(bad) => rest = &rest[error.valid_up_to() + bad..],
            },
        }
    }
}

/// The byte that each printable stand-in of byte-level BPE means.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let hidden = (0..=255u8).filter(|byte| !printable(byte));
    let moved = hidden.enumerate().map(|(n, byte)| (char::from_u32(256 + n as u32).expect("below 0xD800"), byte));
    (0..=255u8).filter(printable).map(|byte| (char::from(byte), byte)).chain(moved).collect()
}

/// Builds the tokenizer from the three files of the released directory.
fn assemble(directory: &Path) -> Result<tokenizers::Tokenizer> {
    let [vocab, merges, settings] = ["vocab.json", "merges.txt", "tokenizer_config.json"].map(|f| directory.join(f));
    for path in [&vocab, &merges, &settings] {
        if !path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(Error::Config(format!("{}: there is neither tokenizer.json nor {name}", directory.display())));
        }
    }
    let bpe = BPE::from_file(&vocab.to_string_lossy(), &merges.to_string_lossy());
    let bpe = bpe.build().map_err(|error| config(&vocab, &error))?;
    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    let split = Split::new(SplitPattern::Regex(PIECES.into()), SplitDelimiterBehavior::Isolated, false);
    let split = split.map_err(|error| Error::Config(format!("the tokenizer's pattern: {error}")))?;
    let bytes = ByteLevel::new(false, false, false);
    tokenizer.with_normalizer(Some(NFC)).map_err(|error| config(&vocab, &error))?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    tokenizer.with_decoder(Some(bytes));
    add_tokens(&mut tokenizer, &settings)?;
    Ok(tokenizer)
}

/// Adds the tokens of `tokenizer_config.json` and checks that each gets the id that the file names.
fn add_tokens(tokenizer: &mut tokenizers::Tokenizer, settings: &Path) -> Result<()> {
    let text = std::fs::read_to_string(settings).map_err(|source| Error::io(settings, source))?;
    let parsed: TokenizerConfig = serde_json::from_str(&text).map_err(|error| config(settings, &error))?;
    let mut added = Vec::new();
    for (id, token) in parsed.added_tokens_decoder {
        let id: u32 = id.parse().map_err(|_| config(settings, &format!("added token id `{id}` is no number")))?;
        added.push((id, token));
    }
    added.sort_by_key(|(id, _)| *id);
    for (id, Added { content, special }) in added {
        let token = AddedToken::from(content.clone(), special).normalized(false);
        let result = if special { tokenizer.add_special_tokens([token]) } else { tokenizer.add_tokens([token]) };
        result.map_err(|error| config(settings, &error))?;
        let given = tokenizer.token_to_id(&content);
        if given != Some(id) {
            let reason = format!("added token `{content}` should have id {id}, but the next free id is {given:?}");
            return Err(config(settings, &reason));
        }
    }
    Ok(())
}

fn config(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::Config(format!("{}: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tiny() -> Tokenizer {
        Tokenizer::from_directory(&testkit::tiny()).unwrap()
    }

    #[test]
    fn a_whole_tokenizer_file_and_the_three_files_agree() {
        let (parts, whole) = (tiny(), Tokenizer::from_directory(&testkit::tiny().join("alt")).unwrap());
        for text in ["Hello, world! 123", "<|im_start|>user\nÄh? 一二<|im_end|>", "don't  stop\n\n"] {
            assert_eq!(parts.encode(text).unwrap(), whole.encode(text).unwrap(), "{text:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let directory = testkit::copy_of_tiny(&["vocab.json", "tokenizer_config.json"]);
        let message = Tokenizer::from_directory(directory.path()).unwrap_err().to_string();
        assert!(message.contains("merges.txt"), "{message}");
    }

    proptest! {
        #[test]
        fn streaming_equals_decoding_at_once_and_cuts_no_character(text in "\\PC{0,40}") {
            let tokenizer = tiny();
            let ids = tokenizer.encode(&text).unwrap();
            let mut stream = tokenizer.stream(false);
            let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
            pieces.push(stream.finish());
            const CUT: char = char::REPLACEMENT_CHARACTER;
            prop_assert!(pieces.iter().all(|p| !p.contains(CUT) || text.contains(CUT)));
            let joined = pieces.concat();
            prop_assert_eq!(&joined, &tokenizer.decode(&ids, false));
            prop_assert_eq!(tokenizer.encode(&joined).unwrap(), ids);
        }
    }
}
