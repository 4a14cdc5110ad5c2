//! The items of a conversation, and the messages that the model reads of them.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qwen3_omni::media::audio::{AudioInput, log_mel};
use qwen3_omni::{Message, Reply, Role};
use serde_json::{Value, json};

use super::ear::CLIENT_RATE;
use super::weight;
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, brief};
use crate::ids;
use crate::media::RequestMedia;

#[derive(Clone)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) status: &'static str,
    pub(super) content: Content,
}

#[derive(Clone)]
pub(super) enum Content {
    /// What a user or the system said, with the parts as the client sees them.
    Said { message: Message, parts: Vec<Value> },
    /// What the model said.
    Answer(SpokenAnswer),
    /// A call of a function.
    Call { call_id: String, name: String, arguments: Value },
    /// What a function gave back.
    CallOutput { call_id: String, output: String },
}

/// An answer of the model, perhaps cut to what was heard of it.
#[derive(Clone, Default)]
pub(super) struct SpokenAnswer {
    pub(super) text: String,
    pub(super) spoken: bool,
    /// Samples that were sent.
    pub(super) samples: usize,
    /// The whole answer, once it has ended.
    pub(super) reply: Option<Box<Reply>>,
}

impl SpokenAnswer {
    /// Its part as it stands in an item.
    pub(super) fn part(&self) -> Value {
        match self.spoken {
            true => json!({"type": "output_audio", "transcript": self.text}),
            false => json!({"type": "output_text", "text": self.text}),
        }
    }
}

pub(super) const IN_PROGRESS: &str = "in_progress";
pub(super) const COMPLETED: &str = "completed";
pub(super) const INCOMPLETE: &str = "incomplete";

impl Item {
    pub(super) fn to_json(&self) -> Value {
        let (id, status) = (&self.id, self.status);
        let message = |role: &str, content: Value| json!({"id": id, "object": "realtime.item", "type": "message", "status": status, "role": role, "content": content});
        match &self.content {
            Content::Said { message: said, parts } => message(said.role().name(), json!(parts)),
            // Nothing of it was said yet.
            Content::Answer(answer) if status == IN_PROGRESS && answer.text.is_empty() => {
                message("assistant", json!([]))
            }
            Content::Answer(answer) => message("assistant", json!([answer.part()])),
            Content::Call { call_id, name, arguments } => {
                json!({"id": id, "object": "realtime.item", "type": "function_call",
                "status": status, "call_id": call_id, "name": name, "arguments": arguments.to_string()})
            }
            Content::CallOutput { call_id, output } => json!({"id": id, "object": "realtime.item",
                "type": "function_call_output", "status": status, "call_id": call_id, "output": output}),
        }
    }

    /// A turn that was spoken.
    pub(super) fn spoken(id: String, recording: AudioInput) -> Self {
        let message = Message::user().audio(recording);
        let parts = vec![json!({"type": "input_audio", "transcript": null})];
        Self { id, status: COMPLETED, content: Content::Said { message, parts } }
    }

    /// An item that a client writes itself.
    ///
    /// # Errors
    /// 400 that names the field.
    pub(super) fn read(media: &RequestMedia, fields: &Fields) -> ApiResult<Self> {
        let id = fields.string("id")?.map_or_else(|| ids::new("item_"), str::to_owned);
        let kind = fields.string("type")?;
        fields.check(&["object", "status"], &[], &[])?;
        let text = |field: &str| -> ApiResult<String> {
            let text = fields.string(field)?;
            Ok(fields.required(field, text)?.to_owned())
        };
        let content = match fields.required("type", kind)? {
            "message" => read_message(media, fields)?,
            "function_call_output" => Content::CallOutput { call_id: text("call_id")?, output: text("output")? },
            "function_call" => {
                let arguments = serde_json::from_str(&text("arguments")?);
                let arguments = arguments.map_err(|error| ApiError::invalid(fields.name("arguments"), error))?;
                Content::Call { call_id: text("call_id")?, name: text("name")?, arguments }
            }
            other => {
                let message = format!("`{}`, expected message, function_call or function_call_output", brief(other));
                return Err(ApiError::unsupported(fields.name("type"), message));
            }
        };
        Ok(Self { id, status: COMPLETED, content })
    }

    /// Adds what the model reads of the item.
    fn add_to(&self, messages: &mut Vec<Message>) {
        match &self.content {
            Content::Said { message, .. } if message.role() == Role::User => say(messages, message),
            Content::Said { message, .. } => messages.push(message.clone()),
            Content::Answer(answer) if answer.text.is_empty() => {}
            Content::Answer(answer) => messages.push(Message::assistant(&answer.text)),
            Content::Call { name, arguments, .. } => {
                let before = messages.pop_if(|last| last.role() == Role::Assistant);
                let message = before.unwrap_or_else(|| Message::assistant(""));
                messages.push(message.tool_call(name, arguments.clone()));
            }
            Content::CallOutput { output, .. } => messages.push(Message::tool(output)),
        }
    }
}

/// Adds the parts of a message as a user's. Turns of a user that follow each other become one: models were taught turns that alternate.
fn say(messages: &mut Vec<Message>, said: &Message) {
    let last = messages.pop_if(|last| last.role() == Role::User).unwrap_or_else(Message::user);
    messages.push(said.parts().iter().cloned().fold(last, Message::part));
}

/// Sound as the model reads it: made now, so that what comes later does not change it.
///
/// # Errors
/// 400 for sound that is too short to be heard.
pub(super) fn heard(sound: Vec<f32>, rate: u32, param: &str) -> ApiResult<AudioInput> {
    let frames = log_mel(&[AudioInput::samples(sound, rate, 1)]);
    let frames = frames.map_err(|error| ApiError::invalid(param, error).code("invalid_audio"))?;
    let only = frames.into_iter().next().ok_or_else(ApiError::internal)?;
    Ok(AudioInput::Frames(Arc::new(only)))
}

fn read_message(media: &RequestMedia, fields: &Fields) -> ApiResult<Content> {
    let roles = [("user", Role::User), ("assistant", Role::Assistant), ("system", Role::System)];
    let role = fields.one_of("role", &roles)?;
    let role = fields.required("role", role)?;
    let content = fields.list("content")?;
    let content = fields.required("content", content)?;
    let (mut message, mut parts) = (Message::new(role), Vec::new());
    for (index, part) in content.iter().enumerate() {
        let part = Fields::at(part, format!("{}[{index}]", fields.name("content")))?;
        let (with, shown) = read_part(media, role, message, &part)?;
        message = with;
        parts.push(shown);
    }
    if role == Role::Assistant {
        let text = parts.iter().filter_map(|part| part["text"].as_str()).collect();
        return Ok(Content::Answer(SpokenAnswer { text, ..SpokenAnswer::default() }));
    }
    if parts.is_empty() {
        return Err(ApiError::invalid(fields.name("content"), "empty, expected at least one part"));
    }
    Ok(Content::Said { message, parts })
}

fn read_part(media: &RequestMedia, role: Role, message: Message, part: &Fields) -> ApiResult<(Message, Value)> {
    let kind = part.string("type")?;
    let field = |name: &str| {
        let value = part.string(name)?;
        part.required(name, value)
    };
    match (role, part.required("type", kind)?) {
        (Role::Assistant, kind @ ("output_text" | "text" | "output_audio")) => {
            let text = field(if kind == "output_audio" { "transcript" } else { "text" })?;
            Ok((message, json!({"type": "output_text", "text": text})))
        }
        (Role::User | Role::System, "input_text" | "text") => {
            let text = field("text")?;
            Ok((message.text(text), json!({"type": "input_text", "text": text})))
        }
        (Role::User, "input_image") => {
            let (url, param) = (field("image_url")?, part.name("image_url"));
            part.check(&["detail"], &[], &[])?;
            let picture = media.picture_at_url(url, &param)?;
            // Shown without its data, which would be held twice.
            Ok((message.image(picture), json!({"type": "input_image"})))
        }
        (Role::User, "input_audio") => {
            let (data, param) = (field("audio")?, part.name("audio"));
            let sound = heard(samples(data, &param)?, CLIENT_RATE, &param)?;
            Ok((message.audio(sound), json!({"type": "input_audio", "transcript": null})))
        }
        (_, other) => {
            let message = format!("`{}` cannot stand in a message of this role", brief(other));
            Err(ApiError::unsupported(part.name("type"), message))
        }
    }
}

/// Decodes samples of 16 bits in base64; half a sample at the end is left out.
pub(super) fn samples(data: &str, param: &str) -> ApiResult<Vec<f32>> {
    let bytes = decode(data, param)?;
    Ok(to_samples(&bytes))
}

pub(super) fn decode(data: &str, param: &str) -> ApiResult<Vec<u8>> {
    BASE64_STANDARD.decode(data).map_err(|error| ApiError::invalid(param, error).code("invalid_base64"))
}

pub(super) fn to_samples(bytes: &[u8]) -> Vec<f32> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32768.0).collect()
}

/// All items, in order. A copy of the list shares its items until they are changed.
#[derive(Clone, Default)]
pub(super) struct Items {
    list: Vec<Arc<Item>>,
}

/// Items of a conversation.
const MOST_ITEMS: usize = 4096;
/// Bytes of all items together.
const MOST_BYTES: usize = 256 << 20;

fn unknown(param: &str, id: &str) -> ApiError {
    ApiError::invalid(param, format_args!("there is no item `{}`", brief(id))).code("item_not_found")
}

impl Items {
    /// Puts an item behind another one, or at the end; `root` means the beginning. Returns the id of the item before it.
    ///
    /// # Errors
    /// An id that is taken, or one that is not there.
    pub(super) fn insert(&mut self, item: Item, previous: Option<&str>) -> ApiResult<Option<String>> {
        if self.list.iter().any(|known| known.id == item.id) {
            return Err(ApiError::invalid("item.id", format_args!("there is an item `{}` already", brief(&item.id))));
        }
        self.check_room(Some(&item))?;
        let at = match previous {
            None => self.list.len(),
            Some("root") => 0,
            Some(id) => self.position(id, "previous_item_id")? + 1,
        };
        Ok(self.insert_at(at, item))
    }

    /// Puts an item of an answer behind the one that was the last when it was asked for; at the end if that was removed. For these there is
    /// room if there was some for the answer. Returns the id of the item before it.
    pub(super) fn insert_answer(&mut self, item: Item, after: Option<&str>) -> Option<String> {
        let behind = |id: &str| self.list.iter().position(|known| known.id == id).map_or(self.list.len(), |at| at + 1);
        self.insert_at(after.map_or(0, behind), item)
    }

    fn insert_at(&mut self, at: usize, item: Item) -> Option<String> {
        let before = at.checked_sub(1).map(|before| self.list[before].id.clone());
        self.list.insert(at, Arc::new(item));
        before
    }

    /// Refuses an item, or an answer, beyond what a session may hold.
    ///
    /// # Errors
    /// 400 `conversation_full`.
    pub(super) fn check_room(&self, item: Option<&Item>) -> ApiResult<()> {
        let bytes = self.list.iter().map(Arc::as_ref).chain(item).map(weight::of_item).sum::<usize>();
        match bytes > MOST_BYTES || self.list.len() >= MOST_ITEMS {
            true => {
                Err(ApiError::invalid("item", "the conversation is full; delete items first").code("conversation_full"))
            }
            false => Ok(()),
        }
    }

    fn position(&self, id: &str, param: &str) -> ApiResult<usize> {
        self.list.iter().position(|item| item.id == id).ok_or_else(|| unknown(param, id))
    }

    /// # Errors
    /// An id that is not there.
    pub(super) fn get(&self, id: &str) -> ApiResult<&Item> {
        Ok(&self.list[self.position(id, "item_id")?])
    }

    /// # Errors
    /// An id that is not there.
    pub(super) fn get_mut(&mut self, id: &str) -> ApiResult<&mut Item> {
        let at = self.position(id, "item_id")?;
        Ok(Arc::make_mut(&mut self.list[at]))
    }

    /// # Errors
    /// An id that is not there.
    pub(super) fn remove(&mut self, id: &str) -> ApiResult<()> {
        let at = self.position(id, "item_id")?;
        self.list.remove(at);
        Ok(())
    }

    /// The id of the item before this one.
    pub(super) fn before(&self, id: &str) -> Option<String> {
        let at = self.list.iter().position(|item| item.id == id)?;
        Some(self.list[at.checked_sub(1)?].id.clone())
    }

    /// Puts an item in the place of that with its id, unless that was removed meanwhile.
    pub(super) fn replace(&mut self, item: Item) {
        if let Some(place) = self.list.iter_mut().find(|known| known.id == item.id) {
            *place = Arc::new(item);
        }
    }

    /// A copy of an item, for an answer outside the conversation.
    ///
    /// # Errors
    /// An id that is not there.
    pub(super) fn copy(&self, id: &str, param: &str) -> ApiResult<Item> {
        Ok(Item::clone(&self.list[self.position(id, param)?]))
    }

    /// Keeps the whole answer that an item holds the words of.
    pub(super) fn keep_reply(&mut self, id: &str, reply: Box<Reply>) {
        if let Ok(Item { content: Content::Answer(answer), .. }) = self.get_mut(id) {
            answer.reply = Some(reply);
        }
    }

    /// Cuts an answer to the words that were heard of it, if it is here.
    pub(super) fn cut(&mut self, id: &str, heard: &str) {
        if let Ok(Item { content: Content::Answer(answer), .. }) = self.get_mut(id) {
            heard.clone_into(&mut answer.text);
        }
    }

    /// Keeps what was said in a spoken turn.
    pub(super) fn keep_transcript(&mut self, id: &str, text: &str) {
        if let Ok(Item { content: Content::Said { parts, .. }, .. }) = self.get_mut(id)
            && let Some(part) = parts.iter_mut().find(|part| part["type"] == "input_audio")
        {
            part["transcript"] = json!(text);
        }
    }

    /// The id of the last item.
    pub(super) fn last(&self) -> Option<&str> {
        self.list.last().map(|item| item.id.as_str())
    }

    /// What the model reads.
    pub(super) fn messages(&self, instructions: &str) -> Vec<Message> {
        // Without instructions there is no system turn, which a model may never have been taught.
        let mut messages: Vec<Message> =
            Some(instructions).filter(|text| !text.is_empty()).map(Message::system).into_iter().collect();
        self.list.iter().for_each(|item| item.add_to(&mut messages));
        messages
    }

    /// What the model is to answer. Models were taught to answer users and functions: behind the last of these an answer is given anew, and
    /// what the system said last, be it the instructions alone, is put to it as a user's turn.
    ///
    /// # Errors
    /// A function whose output is missing, and a conversation with nothing in it.
    pub(super) fn question(&self, instructions: &str) -> ApiResult<Vec<Message>> {
        let mut messages = self.messages(instructions);
        let is_answer = |last: &mut Message| last.role() == Role::Assistant && last.tool_calls().is_empty();
        while messages.pop_if(is_answer).is_some() {}
        if let Some(said) = messages.pop_if(|last| last.role() == Role::System) {
            say(&mut messages, &said);
        }
        match messages.last().map(Message::role) {
            Some(Role::Assistant) => {
                let missing = "the last function call has no output yet; add a function_call_output item";
                Err(ApiError::invalid("response", missing))
            }
            None => Err(ApiError::invalid("response", "there is nothing to answer; add an item or give instructions")),
            Some(_) => Ok(messages),
        }
    }
}

#[cfg(test)]
impl Items {
    /// A conversation that holds as many items as it may.
    pub(super) fn full() -> Self {
        let call_output = |index: usize| Item {
            id: index.to_string(),
            status: COMPLETED,
            content: Content::CallOutput { call_id: String::new(), output: String::new() },
        };
        Self { list: (0..MOST_ITEMS).map(call_output).map(Arc::new).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(id: &str, message: Message) -> Item {
        Item { id: id.into(), status: COMPLETED, content: Content::Said { message, parts: Vec::new() } }
    }

    fn answer(id: &str, text: &str) -> Item {
        let answer = SpokenAnswer { text: text.into(), ..SpokenAnswer::default() };
        Item { id: id.into(), status: COMPLETED, content: Content::Answer(answer) }
    }

    #[test]
    fn turns_alternate_and_what_was_not_heard_is_no_turn() {
        let mut items = Items::default();
        let call = Content::Call { call_id: "c".into(), name: "look".into(), arguments: json!({}) };
        let output = Content::CallOutput { call_id: "c".into(), output: "red".into() };
        for item in [
            said("a", Message::user().text("one")),
            answer("b", ""),
            said("c", Message::user().text("two")),
            answer("d", "three"),
            Item { id: "e".into(), status: COMPLETED, content: call },
            Item { id: "f".into(), status: COMPLETED, content: output },
        ] {
            items.insert(item, None).unwrap();
        }
        let messages = items.messages("be kind");
        let roles: Vec<&str> = messages.iter().map(|message| message.role().name()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool"]);
        assert_eq!((messages[1].parts().len(), messages[2].tool_calls().len()), (2, 1));
        assert_eq!(items.messages("")[0].role(), Role::User);
    }

    #[test]
    fn items_stand_where_they_were_put() {
        let mut items = Items::default();
        assert_eq!(items.insert(answer("a", ""), None).unwrap(), None);
        assert_eq!(items.insert(answer("c", ""), None).unwrap().as_deref(), Some("a"));
        assert_eq!(items.insert(answer("b", ""), Some("a")).unwrap().as_deref(), Some("a"));
        assert_eq!(items.insert(answer("0", ""), Some("root")).unwrap(), None);
        assert_eq!(items.insert(answer("0", ""), None).unwrap_err().param.as_deref(), Some("item.id"));
        assert_eq!(items.insert(answer("d", ""), Some("x")).unwrap_err().param.as_deref(), Some("previous_item_id"));
        items.remove("b").unwrap();
        assert_eq!(items.remove("b").unwrap_err().param.as_deref(), Some("item_id"));
        assert_eq!(items.last(), Some("c"));
    }

    #[test]
    fn a_full_conversation_takes_no_item_and_no_answer() {
        let mut items = Items::full();
        items.remove("0").unwrap();
        items.insert(answer("last", ""), None).unwrap();
        for refused in [items.insert(answer("more", ""), None).map(drop), items.check_room(None)] {
            assert_eq!(refused.unwrap_err().code, "conversation_full");
        }
    }
}
