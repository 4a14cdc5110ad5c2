//! The checkpoint's tokenizer: byte-level BPE with added tokens.

mod files;
mod guarded;
mod marks;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use omni_core::{Error, Result};

use guarded::guarded;
pub(crate) use marks::Mark;

/// The checkpoint's tokenizer: byte-level BPE with added tokens.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// let ids = omni.tokenizer().encode("seven plus five")?;
/// assert_eq!(omni.tokenizer().decode(&ids, true), "seven plus five");
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same tokenizer with special tokens encoded as plain text; created on first use.
    plain: Arc<OnceLock<tokenizers::Tokenizer>>,
    /// The added tokens that are flagged special.
    special: HashMap<u32, String>,
    size: u32,
    longest: usize,
    bytes: HashMap<char, u8>,
    /// Its tokens as a grammar's parser takes them; made on first use.
    #[cfg(feature = "grammar")]
    pub(super) grammar: Arc<OnceLock<llguidance::toktrie::TokEnv>>,
}

impl Tokenizer {
    /// Regular expression that splits texts into pieces, which byte-pair encoding encodes separately (Qwen2: one digit per piece).
    pub const PIECES: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// Loads the tokenizer from `tokenizer.json`, or else from `vocab.json` and `merges.txt`; added tokens also from
    /// `tokenizer_config.json` and `added_tokens.json`.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Io`] naming the file.
    pub fn from_directory(directory: &Path) -> Result<Self> {
        let inner = files::read(directory)?;
        let added = inner.get_added_tokens_decoder();
        let special: HashMap<u32, String> =
            added.into_iter().filter(|(_, token)| token.special).map(|(id, token)| (id, token.content)).collect();
        let vocabulary = inner.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |id| id.saturating_add(1));
        let longest = vocabulary.keys().map(|token| token.chars().count()).max().unwrap_or(1).max(1);
        Ok(Self {
            inner,
            plain: Arc::default(),
            special,
            size,
            longest,
            bytes: byte_alphabet(),
            #[cfg(feature = "grammar")]
            grammar: Arc::default(),
        })
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
        encode_with(&self.inner, text)
    }

    /// Encodes a text in which special tokens are text like any other.
    ///
    /// # Errors
    /// [`Error::Request`] if the text cannot be encoded.
    pub fn encode_as_text(&self, text: &str) -> Result<Vec<u32>> {
        if !self.special.values().any(|token| text.contains(token)) {
            return self.encode(text);
        }
        let plain = self.plain.get_or_init(|| {
            let mut plain = self.inner.clone();
            plain.set_encode_special_tokens(true);
            plain
        });
        encode_with(plain, text)
    }

    /// Lower bound on the number of tokens, from the text's length and the longest token; much cheaper than encoding.
    pub(crate) fn fewest_tokens(&self, text: &str) -> usize {
        text.chars().count() / self.longest
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

    /// The token of an id as the vocabulary writes it: a byte-level one in the alphabet of its own; `None` for an id without a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Starts a decoder that takes id by id and returns text at character boundaries.
    pub fn stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream { tokenizer: self, pending: PendingText::new(skip_special) }
    }

    /// The added tokens by id.
    #[cfg(feature = "grammar")]
    pub(super) fn added_tokens(&self) -> HashMap<u32, String> {
        let added = self.inner.get_added_tokens_decoder();
        added.into_iter().map(|(id, token)| (id, token.content)).collect()
    }

    /// The bytes of one token; an id without a token (an unused embedding row) has none.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        let mapped: Option<Vec<u8>> = token.chars().map(|c| self.bytes.get(&c).copied()).collect();
        mapped.unwrap_or_else(|| token.into_bytes())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("size", &self.size).finish_non_exhaustive()
    }
}

/// Encodes a text. Some configurations make the library panic; that must not end the program.
fn encode_with(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>> {
    let refused = |error: tokenizers::Error| Error::Request(format!("the text cannot be encoded: {error}"));
    let encoding = guarded(|| tokenizer.encode_fast(text, false)).map_err(refused)?;
    Ok(encoding.get_ids().to_vec())
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
        if !(self.skip_special && tokenizer.special.contains_key(&id)) {
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
