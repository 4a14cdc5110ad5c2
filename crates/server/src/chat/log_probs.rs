//! Log-probabilities in OpenAI's form: of the tokens that make up the answer's text, and no others.

use std::collections::VecDeque;

use qwen3_omni::{Omni, Reply, TokenLogProbs};
use serde_json::{Value, json};

fn token(bytes: &[u8], log_prob: f32) -> Value {
    // A token may end within a character.
    json!({"token": String::from_utf8_lossy(bytes), "logprob": log_prob, "bytes": bytes})
}

fn described(omni: &Omni, told: &TextToken) -> Value {
    let mut chosen = token(&told.bytes, told.place.token.log_prob);
    let best = told.place.best.iter().map(|best| token(&omni.tokenizer().token_bytes(best.id), best.log_prob));
    chosen["top_logprobs"] = best.collect();
    chosen
}

/// The object `logprobs` of tokens.
pub(super) fn log_probs(omni: &Omni, tokens: &[TextToken]) -> Value {
    let content: Value = tokens.iter().map(|token| described(omni, token)).collect();
    json!({"content": content, "refusal": null})
}

/// The object `logprobs` of a whole answer.
pub(super) fn log_probs_of(omni: &Omni, reply: &Reply) -> Value {
    let mut tokens = TextTokens::default();
    reply.log_probs.iter().for_each(|place| tokens.push(omni, place.clone()));
    let complete = tokens.text(&reply.text);
    log_probs(omni, &[complete, tokens.finish()].concat())
}

/// A token, and the bytes that it is of the answer's text.
#[derive(Debug, Clone)]
pub(super) struct TextToken {
    place: TokenLogProbs,
    bytes: Vec<u8>,
}

/// Shares the text that is sent among its tokens, so that the bytes of all tokens joined are the text: without thinking, tool calls and
/// special tokens, and without what a stop string cut off.
#[derive(Default)]
pub(super) struct TextTokens {
    /// Tokens whose text was not sent yet, with all of their bytes.
    waiting: VecDeque<TextToken>,
    text: String,
    /// Bytes of the text whose tokens were returned.
    taken: usize,
}

impl TextTokens {
    /// Takes a token, before the text that it completes.
    pub(super) fn push(&mut self, omni: &Omni, place: TokenLogProbs) {
        let bytes = omni.tokenizer().token_bytes(place.token.id);
        self.push_bytes(bytes, place);
    }

    fn push_bytes(&mut self, bytes: Vec<u8>, place: TokenLogProbs) {
        let end = place.text_end;
        if self.waiting.back().is_some_and(|last| last.place.text_end > end) {
            // Line ends before a tool call were none of the text, or nothing was, because it was thinking.
            self.waiting.iter_mut().for_each(|token| token.place.text_end = token.place.text_end.min(end));
        }
        if end < self.taken {
            (self.text, self.taken) = (String::new(), 0);
        }
        self.waiting.push_back(TextToken { place, bytes });
    }

    /// Takes text and returns the tokens that are complete with it.
    pub(super) fn text(&mut self, piece: &str) -> Vec<TextToken> {
        self.text.push_str(piece);
        let mut complete = Vec::new();
        while let Some(last) = self.waiting.iter().position(|token| self.is_complete(token)) {
            let end = self.waiting[last].place.text_end;
            if end > self.text.len() {
                break;
            }
            complete.extend(self.take(last + 1, end));
        }
        complete
    }

    fn is_complete(&self, token: &TextToken) -> bool {
        token.place.text_end > self.taken && !ends_within_character(&token.bytes)
    }

    /// Returns the last tokens of a text that was cut within one, or that ends within a character.
    pub(super) fn finish(&mut self) -> Vec<TextToken> {
        let end = self.text.len();
        if self.taken >= end {
            return Vec::new();
        }
        let last = self.waiting.iter().position(|token| token.place.text_end >= end);
        self.take(last.map_or(self.waiting.len(), |last| last + 1), end)
    }

    /// Takes `count` tokens, with which the text is complete up to `end`.
    fn take(&mut self, count: usize, end: usize) -> Vec<TextToken> {
        let text = self.text.as_bytes().get(self.taken..end).unwrap_or_default();
        let tokens = share(self.waiting.drain(..count).collect(), text);
        self.taken = end;
        tokens
    }
}

/// The tokens that make up a text, each with its part of it.
fn share(mut tokens: Vec<TextToken>, text: &[u8]) -> Vec<TextToken> {
    let mut length = 0;
    let first = tokens.iter().rposition(|token| {
        length += token.bytes.len();
        length >= text.len()
    });
    let parts = tokens.split_off(first.unwrap_or_default());
    if parts.iter().flat_map(|token| &token.bytes).eq(text) {
        // Those before them are none of the text.
        return parts;
    }
    // Part of a token, or bytes that are no text and stand in it as a replacement character.
    parts.into_iter().next_back().map(|token| TextToken { bytes: text.to_vec(), ..token }).into_iter().collect()
}

/// Whether the last character of bytes goes on in the next token.
fn ends_within_character(bytes: &[u8]) -> bool {
    let mut last = bytes.iter().rev().take(3).enumerate();
    let lead = last.find(|(_, byte)| **byte & 0xC0 != 0x80);
    lead.is_some_and(|(following, byte)| byte.leading_ones() as usize > following + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a token, the end of its text, and the piece of text that follows it.
    type Step<'a> = (&'a [u8], usize, &'a str);

    fn told(steps: &[Step]) -> Vec<Vec<u8>> {
        let (mut tokens, mut told) = (TextTokens::default(), Vec::new());
        for (bytes, end, piece) in steps {
            let place = json!({"token": {"id": 0, "log_prob": 0.0}, "best": [], "text_end": end});
            tokens.push_bytes(bytes.to_vec(), serde_json::from_value(place).unwrap());
            told.extend(tokens.text(piece));
        }
        told.extend(tokens.finish());
        told.into_iter().map(|token| token.bytes).collect()
    }

    #[test]
    fn the_bytes_of_all_tokens_are_the_text() {
        let parts: [&[u8]; 2] = ["x\u{5b57}".as_bytes().split_at(2).0, "x\u{5b57}".as_bytes().split_at(2).1];
        let cases: [(&[Step], &[&[u8]]); 9] = [
            (&[(b"seven ", 6, "seven "), (b"plus", 10, "plus")], &[b"seven ", b"plus"]),
            // A stop string from the second token on, and one within it.
            (&[(b"seven ", 6, "seven "), (b"plus", 10, "")], &[b"seven "]),
            (&[(b"seven ", 6, "seven "), (b"plus", 10, "pl")], &[b"seven ", b"pl"]),
            (&[(b"seven", 5, "")], &[]),
            // A character of two tokens, and one that the limit cut.
            (&[(parts[0], 1, "x"), (parts[1], 4, "\u{5b57}")], &parts),
            (&[(parts[0], 1, "x\u{fffd}")], &["x\u{fffd}".as_bytes()]),
            // Thinking, and bytes that are no text.
            (
                &[(b"hm", 0, ""), (b"</think>", 0, ""), (b"\n\n", 0, ""), (b"ab", 2, "ab"), (b"\xff", 5, "\u{fffd}")],
                &[b"ab", "\u{fffd}".as_bytes()],
            ),
            // A tool call behind a line end that is dropped, and one that is none.
            (&[(b"a\n", 2, "a"), (b"<tool_call>", 2, ""), (b"</tool_call>", 1, ""), (b"b", 2, "b")], &[b"a", b"b"]),
            (&[(b"<tool_call>", 0, ""), (b"x", 0, "<tool_call>x")], &[b"<tool_call>", b"x"]),
        ];
        for (steps, expected) in cases {
            assert_eq!(told(steps), expected, "{steps:?}");
        }
    }

    #[test]
    fn text_that_was_thinking_has_no_tokens_in_the_reply() {
        let mut tokens = TextTokens::default();
        for (bytes, end) in [("ab", 2), ("</think>", 0), ("cd", 2)] {
            let place = json!({"token": {"id": 0, "log_prob": 0.0}, "best": [], "text_end": end});
            tokens.push_bytes(bytes.into(), serde_json::from_value(place).unwrap());
        }
        let told: Vec<_> = tokens.text("cd").into_iter().map(|token| token.bytes).collect();
        assert_eq!((told, tokens.finish().len()), (vec![b"cd".to_vec()], 0));
    }
}
