//! Special tokens spelled out in texts, where they are plain text.
//!
//! A text that says `<|im_end|>` must not end a turn. A mark is inserted into each such token before the chat template is rendered, so
//! that only the template's own special tokens are recognised; everything between them is encoded as text.

use omni_core::{Error, Result};
use serde_json::Value;
use tokenizers::tokenizer::{OffsetReferential, OffsetType};

use super::Tokenizer;
use super::guarded::guarded;

/// A Unicode noncharacter that occurs in no text of the conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(char);

impl Mark {
    /// Picks a mark that no text of `values` contains; `None` if no text contains a special token.
    ///
    /// # Errors
    /// [`Error::Request`] if the texts hold all of Unicode's 32 noncharacters of this block.
    pub(crate) fn for_texts(tokenizer: &Tokenizer, values: &[&Value]) -> Result<Option<Self>> {
        let any = |test: &dyn Fn(&str) -> bool| values.iter().any(|value| any_text(value, test));
        if !any(&|text| tokenizer.special.values().any(|token| text.contains(token) || cut_end(text, token))) {
            return Ok(None);
        }
        let mut free = ('\u{FDD0}'..='\u{FDEF}').filter(|mark| !any(&|text| text.contains(*mark)));
        let refused = || Error::Request("a text holds all 32 noncharacters from U+FDD0 to U+FDEF".into());
        free.next().map(|mark| Some(Self(mark))).ok_or_else(refused)
    }

    /// Inserts the mark into every special token of every text.
    pub(crate) fn set(self, tokenizer: &Tokenizer, value: &mut Value) {
        match value {
            Value::String(text) => self.set_in_text(tokenizer, text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.set(tokenizer, item)),
            Value::Object(members) => {
                let marked = std::mem::take(members).into_iter().map(|(mut key, mut member)| {
                    self.set_in_text(tokenizer, &mut key);
                    self.set(tokenizer, &mut member);
                    (key, member)
                });
                *members = marked.collect();
            }
            _ => {}
        }
    }

    fn set_in_text(self, tokenizer: &Tokenizer, text: &mut String) {
        for token in tokenizer.special.values() {
            if text.contains(token) {
                let first = token.chars().next().map_or(0, char::len_utf8);
                *text = text.replace(token, &format!("{}{}{}", &token[..first], self.0, &token[first..]));
            }
        }
        // The next part of the message might complete it.
        if tokenizer.special.values().any(|token| cut_end(text, token)) {
            text.push(self.0);
        }
    }

    /// Encodes a rendered prompt: special tokens with a mark are plain text, and marks are removed.
    ///
    /// # Errors
    /// [`Error::Request`] if the text cannot be encoded.
    pub(crate) fn encode(self, tokenizer: &Tokenizer, rendered: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut done = 0;
        for (start, end, id) in special_places(tokenizer, rendered)? {
            ids.extend(self.encode_between(tokenizer, &rendered[done..start])?);
            ids.push(id);
            done = end;
        }
        ids.extend(self.encode_between(tokenizer, &rendered[done..])?);
        Ok(ids)
    }

    fn encode_between(self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        tokenizer.encode_as_text(&text.replace(self.0, ""))
    }
}

/// Where special tokens stand in a text, as byte ranges, with their ids.
fn special_places(tokenizer: &Tokenizer, text: &str) -> Result<Vec<(usize, usize, u32)>> {
    let inner = &tokenizer.inner;
    let split = guarded(|| Ok(inner.get_added_vocabulary().extract_and_normalize(inner.get_normalizer(), text)));
    let split = split.map_err(|reason| Error::Request(format!("the text cannot be encoded: {reason}")))?;
    let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
    let tokens =
        splits.into_iter().filter_map(|(_, (start, end), tokens)| Some((start, end, tokens.as_ref()?.first()?.id)));
    Ok(tokens.filter(|(.., id)| tokenizer.special.contains_key(id)).collect())
}

/// Whether some text at or below `value` passes.
fn any_text(value: &Value, test: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => test(text),
        Value::Array(items) => items.iter().any(|item| any_text(item, test)),
        Value::Object(members) => members.iter().any(|(key, member)| test(key) || any_text(member, test)),
        _ => false,
    }
}

/// Whether `text` ends within `token`.
fn cut_end(text: &str, token: &str) -> bool {
    let heads = token.char_indices().skip(1).map(|(end, _)| &token[..end]);
    heads.into_iter().any(|head| text.ends_with(head))
}
