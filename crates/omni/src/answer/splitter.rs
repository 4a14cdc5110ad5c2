//! Splitting of generated text into thinking text, the answer, and tool calls.

use serde::Deserialize;
use serde_json::Value;

use crate::output::{Event, ToolCall};
use crate::prompt::{CALL_CLOSE, CALL_OPEN, PendingText, Tokenizer};

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

/// Splits text, while it is generated, at the tokens that open and close thinking and tool calls. The contents of a
/// tool call that cannot be parsed stay in the answer's text.
pub(crate) struct Splitter {
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
    /// Whether line ends are skipped: those between thinking, tool calls and the answer belong to none of them.
    skip_line_ends: bool,
    call_open: Option<u32>,
    call_close: Option<u32>,
    /// Text of the tool call that has not ended.
    call: Option<String>,
    /// Number of newlines at the end of the answer so far; dropped if a tool call follows.
    held: usize,
    /// The answer's text so far.
    said: String,
    tool_calls: Vec<ToolCall>,
}

/// A tool call as the chat template tells the model to write it.
#[derive(Deserialize)]
struct WrittenCall {
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl Splitter {
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
            skip_line_ends: thinking,
            call_open: tokenizer.id(CALL_OPEN),
            call_close: tokenizer.id(CALL_CLOSE),
            call: None,
            held: 0,
            said: String::new(),
            tool_calls: Vec::new(),
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
        if Some(id) == self.close && self.call.is_none() {
            let rest = self.finish();
            self.answer_start = self.count;
            self.said.clear();
            (self.thinking, self.skip_line_ends) = (false, true);
            return rest;
        }
        if self.call.is_some() {
            return self.push_call(tokenizer, id);
        }
        if Some(id) == self.call_open && !self.thinking {
            let piece = self.pending.finish();
            let rest = self.event(piece);
            self.call = Some(String::new());
            return rest;
        }
        self.speaks = !self.thinking;
        let piece = self.pending.push(tokenizer, id);
        self.event(piece)
    }

    /// Takes an id within a tool call.
    fn push_call(&mut self, tokenizer: &Tokenizer, id: u32) -> Option<Event> {
        if Some(id) != self.call_close {
            let piece = self.pending.push(tokenizer, id);
            self.call.iter_mut().for_each(|call| call.push_str(&piece));
            return None;
        }
        let mut text = self.call.take().unwrap_or_default();
        text.push_str(&self.pending.finish());
        match serde_json::from_str::<WrittenCall>(text.trim()) {
            Ok(WrittenCall { name, arguments }) => {
                (self.skip_line_ends, self.held) = (true, 0);
                let call = ToolCall { name, arguments };
                self.tool_calls.push(call.clone());
                Some(Event::ToolCall(call))
            }
            Err(error) => {
                tracing::warn!(%error, "a tool call is no JSON object with a name; it stays text");
                self.event(format!("{CALL_OPEN}{text}{CALL_CLOSE}"))
            }
        }
    }

    /// Returns the text that was held back.
    pub(crate) fn finish(&mut self) -> Option<Event> {
        let piece = self.pending.finish();
        let piece = match self.call.take() {
            Some(call) => format!("{CALL_OPEN}{call}{piece}"),
            None => piece,
        };
        let event = self.event(piece);
        let rest = "\n".repeat(std::mem::take(&mut self.held));
        self.said.push_str(&rest);
        match event {
            _ if rest.is_empty() => event,
            Some(Event::Text(text)) => Some(Event::Text(text + &rest)),
            _ => Some(Event::Text(rest)),
        }
    }

    fn event(&mut self, mut piece: String) -> Option<Event> {
        if self.skip_line_ends {
            piece = piece.trim_start_matches('\n').to_owned();
            self.skip_line_ends = piece.is_empty();
        }
        match self.thinking {
            true => (!piece.is_empty()).then_some(Event::Thinking(piece)),
            false => self.text(&piece),
        }
    }

    /// Adds text to the answer. If the model may call tools, line ends wait for what follows.
    fn text(&mut self, piece: &str) -> Option<Event> {
        let kept = match self.call_open {
            Some(_) => piece.trim_end_matches('\n'),
            None => piece,
        };
        let ends = piece.len() - kept.len();
        if kept.is_empty() {
            self.held += ends;
            return None;
        }
        let text = "\n".repeat(std::mem::replace(&mut self.held, ends)) + kept;
        self.said.push_str(&text);
        Some(Event::Text(text))
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
        self.said.len() + self.held
    }

    /// Returns thinking text and answer as the reference does, split at the last closing token.
    pub(crate) fn texts(&self, tokenizer: &Tokenizer, ids: &[u32]) -> (Option<String>, String) {
        let thinking = |ids: &[u32]| {
            let rest = ids.split_first().filter(|(first, _)| Some(**first) == self.open).map_or(ids, |(_, rest)| rest);
            tokenizer.decode(rest, true).trim_matches('\n').to_owned()
        };
        match (self.answer_start, self.thinking) {
            // The token limit stopped the text before the end of thinking.
            (0, true) => (Some(thinking(ids)), String::new()),
            (0, false) => (None, self.said.clone()),
            (start, _) => (Some(thinking(&ids[..start - 1])), self.said.clone()),
        }
    }

    /// The tool calls of the answer, in order.
    pub(crate) fn into_tool_calls(self) -> Vec<ToolCall> {
        self.tool_calls
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
        let mut splitter = Splitter::new(&tokenizer, &[], starts);
        let mut events: Vec<Event> = ids.iter().filter_map(|id| splitter.push(&tokenizer, *id)).collect();
        events.extend(splitter.finish());
        let (mut thought, mut said) = (String::new(), String::new());
        for event in events {
            match event {
                Event::Thinking(piece) => thought.push_str(&piece),
                Event::Text(piece) => said.push_str(&piece),
                Event::ToolCall(call) => said.push_str(&format!("[{} {}]", call.name, call.arguments)),
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

    #[test]
    fn tool_calls_are_taken_out_of_the_text_and_what_is_none_stays() {
        let call = |body: &str| format!("<tool_call>\n{body}\n</tool_call>");
        let one = call("{\"name\": \"look\", \"arguments\": {\"at\": 3}}");
        let cases = [
            (one.clone(), "[look {\"at\":3}]", ""),
            (format!("let me see\n{one}\n{one}"), "let me see[look {\"at\":3}][look {\"at\":3}]", "let me see"),
            (format!("{one}\nthree\n\n"), "[look {\"at\":3}]three\n\n", "three\n\n"),
            (call("three"), "<tool_call>\nthree\n</tool_call>", "<tool_call>\nthree\n</tool_call>"),
            ("a\n<tool_call>\n{".into(), "a\n<tool_call>\n{", "a\n<tool_call>\n{"),
            ("a\n\nb\n".into(), "a\n\nb\n", "a\n\nb\n"),
        ];
        for (text, streamed, last) in cases {
            let (thought, said, (thinking, answer)) = read(&text, None);
            assert_eq!(
                (thought.as_str(), said.as_str(), thinking, answer.as_str()),
                ("", streamed, None, last),
                "{text}"
            );
        }
        let both = read(&format!("<think>\n{one}\n</think>\n{one}"), None);
        assert_eq!((both.0.trim(), both.1.as_str()), (one.as_str(), "[look {\"at\":3}]"));
    }
}
