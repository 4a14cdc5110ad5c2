//! Messages of a line: roles, tags, typed parts, function calls.

use qwen3_omni::{Message, Part, PartKind, Role};
use serde_json::{Map, Value};

use super::entries::{MediaLists, part};
use super::fields::kind;
use super::location::Location;
use crate::Result;

const TAGS: [(&str, PartKind); 3] =
    [("<image>", PartKind::Image), ("<audio>", PartKind::Audio), ("<video>", PartKind::Video)];

/// The messages of a line, and which answers are learned.
#[derive(Default)]
pub(super) struct Turns {
    pub(super) messages: Vec<Message>,
    pub(super) learns: Vec<bool>,
}

/// One message as it is written.
struct Written<'a> {
    role: &'a str,
    fields: &'a Map<String, Value>,
    name: String,
    location: &'a Location,
}

impl Turns {
    pub(super) fn read(messages: &Value, lists: &mut MediaLists, location: &Location) -> Result<Self> {
        let mut turns = Self::default();
        for message in written(messages, location)? {
            turns.push(&message?, lists)?;
        }
        Ok(turns)
    }

    fn push(&mut self, written: &Written, lists: &mut MediaLists) -> Result<()> {
        let (loss, mut joins) = (written.loss()?, false);
        let message = match written.role {
            // A call belongs to the turn that it follows, whose `loss` counts.
            "tool_call" => {
                let turn = self.messages.pop_if(|last| last.role() == Role::Assistant);
                joins = turn.is_some();
                written.add_calls(turn.unwrap_or_else(|| Message::new(Role::Assistant)), written.calls()?)?
            }
            "assistant" => {
                let calls = written.fields.get("tool_calls").map_or(&[][..], listed);
                written.add_calls(written.answer(lists)?, calls.to_vec())?
            }
            "tool" | "tool_response" => written.message(Role::Tool, lists)?,
            "user" => written.message(Role::User, lists)?,
            "system" => written.message(Role::System, lists)?,
            other => {
                return Err(written.refuse(format!(
                    "role `{other}`, expected system, user, assistant, tool, tool_response or tool_call"
                )));
            }
        };
        if message.role() == Role::Assistant && !joins {
            self.learns.push(loss);
        }
        self.messages.push(message);
        Ok(())
    }
}

impl Written<'_> {
    fn refuse(&self, reason: impl std::fmt::Display) -> crate::Error {
        self.location.refuse(format!("{}: {reason}", self.name))
    }

    fn loss(&self) -> Result<bool> {
        match self.fields.get("loss") {
            None | Some(Value::Null) => Ok(true),
            Some(Value::Bool(loss)) => Ok(*loss),
            Some(other) => Err(self.refuse(format!("`loss` is {}, expected true or false", kind(other)))),
        }
    }

    /// An answer, with its `reasoning_content` in front as a model writes it.
    fn answer(&self, lists: &mut MediaLists) -> Result<Message> {
        let answer = self.message(Role::Assistant, lists)?;
        let reasoning = match self.fields.get("reasoning_content") {
            None | Some(Value::Null) => return Ok(answer),
            Some(Value::String(reasoning)) => reasoning,
            Some(other) => {
                return Err(self.refuse(format!("`reasoning_content` is {}, expected a string", kind(other))));
            }
        };
        let thought = Message::new(Role::Assistant).text(format!("<think>\n{reasoning}\n</think>\n\n"));
        Ok(answer.parts().iter().cloned().fold(thought, Message::part))
    }

    /// The message with its content; tags are those of media in user messages only, since no other may hold any.
    fn message(&self, role: Role, lists: &mut MediaLists) -> Result<Message> {
        let message = Message::new(role);
        match self.fields.get("content") {
            Some(Value::String(text)) if role == Role::User => tagged(message, text, lists),
            Some(Value::String(text)) => Ok(message.text(text)),
            Some(Value::Array(parts)) => {
                parts.iter().try_fold(message, |message, part| Ok(message.part(self.part(part, lists)?)))
            }
            None | Some(Value::Null) if self.fields.contains_key("tool_calls") => Ok(message),
            other => {
                let found = other.map_or("missing", kind);
                Err(self.refuse(format!("`content` is {found}, expected a string or a list of typed parts")))
            }
        }
    }

    /// A part `{"type": KIND, KIND: …}`. Media may also name a `path` or `base64`, or nothing: then the next entry of the line's list
    /// is meant.
    fn part(&self, value: &Value, lists: &mut MediaLists) -> Result<Part> {
        let name = value.get("type").and_then(Value::as_str);
        let kinds = [PartKind::Text, PartKind::Image, PartKind::Audio, PartKind::Video];
        let Some(of) = kinds.into_iter().find(|kind| Some(kind.name()) == name) else {
            let found = name.map_or("a part without a `type`".into(), |name| format!("a part of type `{name}`"));
            return Err(self.refuse(format!("{found}, expected text, image, audio or video")));
        };
        let given =
            [of.name(), "path", "url"].into_iter().find_map(|key| value.get(key)).filter(|value| !value.is_null());
        match (of, given, value.get("base64").and_then(Value::as_str)) {
            (PartKind::Text, Some(Value::String(text)), _) => Ok(Part::Text(text.clone())),
            (PartKind::Text, ..) => Err(self.refuse("a text part without a string `text`")),
            (_, Some(entry), _) => part(of, entry, value.get("fps").and_then(Value::as_f64), self.location),
            (_, None, Some(data)) => self.encoded(of, data),
            (_, None, None) => lists.next(of).map(|part| part.unwrap_or(Part::Text(String::new()))),
        }
    }

    fn encoded(&self, kind: PartKind, data: &str) -> Result<Part> {
        let uri = format!("data:;base64,{}", data.rsplit(',').next().unwrap_or(data));
        part(kind, &Value::String(uri), None, self.location)
    }

    /// The calls of a `tool_call` message: an object, a list of them, or the JSON of either.
    fn calls(&self) -> Result<Vec<Value>> {
        let content = match self.fields.get("content") {
            Some(Value::String(text)) => serde_json::from_str(text)
                .map_err(|error| self.refuse(format!("a function call that is no JSON ({error})")))?,
            Some(other) => other.clone(),
            None => Value::Null,
        };
        Ok(listed(&content).to_vec())
    }

    /// Adds calls `{"name": …, "arguments": …}`, or `{"function": CALL}`.
    fn add_calls(&self, message: Message, calls: Vec<Value>) -> Result<Message> {
        calls.into_iter().try_fold(message, |message, call| {
            let call = call.get("function").unwrap_or(&call);
            let Some(name) = call.get("name").and_then(Value::as_str) else {
                return Err(self.refuse("a function call without a string `name`"));
            };
            let arguments = call.get("arguments").cloned().unwrap_or_else(|| Value::Object(Map::new()));
            Ok(message.tool_call(name, arguments))
        })
    }
}

/// The text of the last message of a list, which must be an answer.
pub(super) fn last_answer(messages: &Value, location: &Location) -> Result<String> {
    let refuse = || location.refuse("`rejected_messages`, expected a list that ends with an assistant message of text");
    let last = written(messages, location)?.last().ok_or_else(refuse)??;
    match (last.role, last.fields.get("content")) {
        ("assistant", Some(Value::String(text))) => Ok(text.clone()),
        ("assistant", Some(Value::Array(parts))) => {
            let text = parts.iter().map(|part| part.get("text").and_then(Value::as_str));
            text.collect::<Option<String>>().ok_or_else(refuse)
        }
        _ => Err(refuse()),
    }
}

fn written<'a>(messages: &'a Value, location: &'a Location) -> Result<impl Iterator<Item = Result<Written<'a>>>> {
    let refuse = |reason: String| location.refuse(reason);
    let list = messages.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| refuse("`messages`, expected a list of one message or more".into()))?;
    Ok(list.iter().enumerate().map(move |(index, message)| {
        let name = format!("message {}", index + 1);
        let fields =
            message.as_object().ok_or_else(|| refuse(format!("{name} is {}, expected an object", kind(message))))?;
        let role = fields.get("role").and_then(Value::as_str);
        let role = role.ok_or_else(|| refuse(format!("{name} has no `role`, expected a string")))?;
        Ok(Written { role, fields, name, location })
    }))
}

/// A list as it is, or one value as a list of one; null is none.
fn listed(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        Value::Null => &[],
        one => std::slice::from_ref(one),
    }
}

/// Adds a text in which each tag stands for the next entry of its kind.
fn tagged(mut message: Message, text: &str, lists: &mut MediaLists) -> Result<Message> {
    let mut left = text;
    let first = |text: &str| {
        TAGS.iter().filter_map(|(tag, kind)| Some((text.find(tag)?, tag.len(), *kind))).min_by_key(|(at, ..)| *at)
    };
    while let Some((at, length, kind)) = first(left) {
        if at > 0 {
            message = message.text(&left[..at]);
        }
        if let Some(part) = lists.next(kind)? {
            message = message.part(part);
        }
        left = &left[at + length..];
    }
    Ok(if left.is_empty() { message } else { message.text(left) })
}
