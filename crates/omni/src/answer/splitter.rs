//! Splitting of generated text into thinking text and the answer.

use crate::output::Event;
use crate::prompt::{PendingText, Tokenizer};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Removes the thinking part that the chat template writes into the answer's opening, since it is not spoken. Text after it belongs
/// to the answer.
pub(crate) fn without_thinking(prompt: &[u32], im_start: u32, tokenizer: &Tokenizer) -> Vec<u32> {
    let turn = prompt.iter().rposition(|id| *id == im_start).unwrap_or(0);
    let place = |token: &str, from: usize| {
        let id = tokenizer.id(token)?;
        prompt[from..].iter().position(|found| *found == id).map(|at| from + at)
    };
    let Some(open) = place(OPEN, turn) else { return prompt.to_vec() };
    let rest = place(CLOSE, open).map_or(&[][..], |close| &prompt[close + 1..]);
    let blank = |id: &u32| tokenizer.decode(&[*id], true).trim().is_empty();
    let begins = rest.iter().position(|id| !blank(id)).unwrap_or(rest.len());
    [&prompt[..open], &rest[begins..]].concat()
}

/// Splits text, while it is generated, at the tokens that open and close thinking.
pub(crate) struct ReasoningSplitter {
    pending: PendingText,
    open: Option<u32>,
    close: Option<u32>,
    thinking: bool,
    /// Number of ids so far.
    count: usize,
    /// Index of the first id of the answer, after the last closing token.
    answer_start: usize,
    /// Whether the last id belongs to the answer.
    speaks: bool,
    /// Bytes of the answer's text so far.
    answer_bytes: usize,
    /// Whether line ends are skipped: those between thinking and the answer belong to neither.
    skip_line_ends: bool,
}

impl ReasoningSplitter {
    pub(crate) fn new(tokenizer: &Tokenizer, prompt: &[u32], starts_thinking: Option<bool>) -> Self {
        let (open, close) = (tokenizer.id(OPEN), tokenizer.id(CLOSE));
        let last = prompt.iter().rev().find(|id| [open, close].contains(&Some(**id)));
        // Only an opening token at the end of the prompt counts, not one of an earlier turn.
        let tail = &prompt[prompt.len().saturating_sub(3)..];
        let opened = open.is_some_and(|open| last == Some(&open) && tail.contains(&open));
        let thinking = starts_thinking.unwrap_or(opened) && close.is_some();
        let pending = PendingText::new(true);
        Self {
            pending,
            open,
            close,
            thinking,
            count: 0,
            answer_start: 0,
            speaks: false,
            answer_bytes: 0,
            skip_line_ends: thinking,
        }
    }

    /// Takes an id and returns an event if it completes any text.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Option<Event> {
        self.count += 1;
        self.speaks = false;
        if self.count == 1 && Some(id) == self.open {
            (self.thinking, self.skip_line_ends) = (true, true);
            return None;
        }
        if Some(id) == self.close {
            let rest = self.finish();
            self.answer_start = self.count;
            self.answer_bytes = 0;
            (self.thinking, self.skip_line_ends) = (false, true);
            return rest;
        }
        self.speaks = !self.thinking;
        let piece = self.pending.push(tokenizer, id);
        self.event(piece)
    }

    /// Returns the text that was held back.
    pub(crate) fn finish(&mut self) -> Option<Event> {
        let piece = self.pending.finish();
        self.event(piece)
    }

    fn event(&mut self, mut piece: String) -> Option<Event> {
        if self.skip_line_ends {
            piece = piece.trim_start_matches('\n').to_owned();
            self.skip_line_ends = piece.is_empty();
        }
        self.answer_bytes += if self.thinking { 0 } else { piece.len() };
        (!piece.is_empty()).then_some(if self.thinking { Event::Thinking(piece) } else { Event::Text(piece) })
    }

    /// Whether the last id closed the thinking.
    pub(crate) fn closed(&self) -> bool {
        self.count > 0 && self.answer_start == self.count
    }

    /// Whether the last id is to be spoken: thinking and its closing token are not.
    pub(crate) fn speaks(&self) -> bool {
        self.speaks
    }

    /// Bytes of the answer's text so far.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Returns thinking text and answer as the reference does, split at the last closing token.
    pub(crate) fn texts(&self, tokenizer: &Tokenizer, ids: &[u32]) -> (Option<String>, String) {
        let decode = |ids: &[u32]| tokenizer.decode(ids, true);
        let without_open = |ids: &[u32]| match ids.split_first() {
            Some((first, rest)) if Some(*first) == self.open => decode(rest),
            _ => decode(ids),
        };
        match (self.answer_start, self.thinking) {
            // The token limit stopped the text before the end of thinking.
            (0, true) => (Some(without_open(ids).trim_matches('\n').to_owned()), String::new()),
            (0, false) => (None, decode(ids)),
            (start, _) => {
                let thinking = without_open(&ids[..start - 1]).trim_matches('\n').to_owned();
                (Some(thinking), decode(&ids[start..]).trim_start_matches('\n').to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_directory(&testkit::tiny()).unwrap()
    }

    /// Thinking events, text events, and the final texts.
    fn read(text: &str, starts: Option<bool>) -> (String, String, (Option<String>, String)) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(text).unwrap();
        let mut splitter = ReasoningSplitter::new(&tokenizer, &[], starts);
        let mut events: Vec<Event> = ids.iter().filter_map(|id| splitter.push(&tokenizer, *id)).collect();
        events.extend(splitter.finish());
        let (mut thought, mut said) = (String::new(), String::new());
        for event in events {
            match event {
                Event::Thinking(piece) => thought.push_str(&piece),
                Event::Text(piece) => said.push_str(&piece),
                other => panic!("{other:?}"),
            }
        }
        (thought, said, splitter.texts(&tokenizer, &ids))
    }

    #[test]
    fn thinking_ends_at_its_closing_token() {
        let some = |thinking: &str, text: &str| (Some(thinking.to_owned()), text.to_owned());
        let opened = read("<think>\nlet me see\n</think>\n\nit is three", None);
        assert_eq!(opened, ("let me see\n".into(), "it is three".into(), some("let me see", "it is three")));
        let told = read("let me see</think>three", Some(true));
        assert_eq!(told, ("let me see".into(), "three".into(), some("let me see", "three")));
        let endless = read("<think>let me", None);
        assert_eq!(endless, ("let me".into(), String::new(), some("let me", "")));
    }

    #[test]
    fn without_an_opening_only_the_end_can_tell() {
        let plain = read("it is three", None);
        assert_eq!(plain, (String::new(), "it is three".into(), (None, "it is three".into())));
        let late = read("let me see</think>three", None);
        assert_eq!((late.0.as_str(), late.1.as_str()), ("", "let me seethree"));
        assert_eq!(late.2, (Some("let me see".into()), "three".into()));
    }
}
