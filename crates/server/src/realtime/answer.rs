//! One answer of a session, as the events of a response.

use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qwen3_omni::{Audio, FinishReason, Message, Omni, PromptTokens, Reply, ToolCall, Usage};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::item::{COMPLETED, Content, IN_PROGRESS, INCOMPLETE, Item, SpokenAnswer};
use super::items::Items;
use super::output::Emitter;
use super::settings::AnswerSettings;
use crate::admission::Permit;
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::sound::pcm;

/// A response that was asked for and has not ended.
pub(super) struct Response {
    pub(super) id: String,
    conversation_id: String,
    pub(super) settings: AnswerSettings,
    /// Whether its items become part of the conversation.
    pub(super) in_conversation: bool,
    /// What it answers, until it is generated: items of its own, or the conversation as it was when the answer was asked for.
    pub(super) input: Items,
    /// The item that its next one stands behind, `None` for the beginning.
    pub(super) after: Option<String>,
    /// Its place, until it is generated.
    pub(super) permit: Option<Permit>,
    /// Waits for its place.
    waiting: Option<Waiting>,
    metadata: Value,
    /// Items that are complete.
    output: Vec<Value>,
    message: Option<OpenMessage>,
    /// The last piece of a spoken text. It is sent with the first sound or the next piece, so that words and sound come in turns even
    /// where the text is complete before the first sound.
    held: Option<String>,
    /// When it was asked for.
    pub(super) asked: Instant,
    /// When the turn ended that it answers.
    turn_ended: Option<Instant>,
    begun: bool,
    made: Made,
}

/// What was made of an answer so far.
#[derive(Default)]
struct Made {
    prompt: PromptTokens,
    text: String,
    samples: usize,
    calls: usize,
}

impl Made {
    /// The counts of an answer that has not ended by itself. The text of calls and the tokens that were cached are known only at the end.
    fn usage(&self, omni: &Omni) -> Usage {
        let mut usage = Usage::default();
        (usage.prompt, usage.prompt_tokens) = (self.prompt, self.prompt.total());
        usage.text_tokens = omni.tokenizer().encode(&self.text).map_or(0, |tokens| tokens.len());
        let frame = omni.config().code2wav.as_ref().map_or(0, |vocoder| vocoder.samples_per_frame());
        // The first frames are cut at the beginning.
        usage.frames = if frame == 0 { 0 } else { self.samples.div_ceil(frame) };
        usage
    }
}

/// The item of the answer's words.
struct OpenMessage {
    id: String,
    index: usize,
    answer: SpokenAnswer,
}

/// A task on behalf of an answer or of a spoken turn, which ends with it: a cancelled answer must keep nobody else waiting.
pub(super) struct Waiting(pub(super) AbortHandle);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a response ended.
pub(super) enum Ending<'a> {
    Done(&'a Reply),
    Cancelled(&'static str),
    Failed(&'a ApiError),
}

impl Response {
    pub(super) fn new(
        conversation_id: &str,
        settings: AnswerSettings,
        input: Items,
        turn_ended: Option<Instant>,
    ) -> Self {
        Self {
            id: ids::new("resp_"),
            conversation_id: conversation_id.to_owned(),
            settings,
            in_conversation: true,
            input,
            after: None,
            permit: None,
            waiting: None,
            metadata: Value::Null,
            output: Vec::new(),
            message: None,
            held: None,
            asked: Instant::now(),
            turn_ended,
            begun: false,
            made: Made::default(),
        }
    }

    pub(super) fn with_metadata(mut self, metadata: Option<&Value>) -> Self {
        self.metadata = metadata.cloned().unwrap_or_default();
        self
    }

    /// The id of the item that is being made.
    pub(super) fn open_item(&self) -> Option<&str> {
        self.message.as_ref().map(|message| message.id.as_str())
    }

    /// Whether its first sound, or without speech its first word, is still waited for.
    pub(super) fn is_awaited(&self) -> bool {
        !self.begun
    }

    /// What the model reads.
    ///
    /// # Errors
    /// 400 if there is nothing to answer.
    pub(super) fn question(&self) -> ApiResult<Vec<Message>> {
        self.input.question(&self.settings.instructions)
    }

    /// Takes the number of tokens that the model reads.
    pub(super) fn reads(&mut self, prompt: PromptTokens) {
        self.made.prompt = prompt;
    }

    /// Takes the task that waits for the response's place.
    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.waiting = Some(waiting);
    }

    pub(super) fn created(&self, out: &Emitter) {
        out.emit("response.created", json!({"response": self.to_json(IN_PROGRESS, Value::Null, Value::Null)}));
    }

    /// Takes a piece of text.
    pub(super) fn text(&mut self, out: &Emitter, items: &mut Items, piece: String) {
        self.made.text.push_str(&piece);
        if !self.settings.spoken {
            self.begun = true;
            self.word(out, items, "response.output_text.delta", piece);
        } else if let Some(before) = self.held.replace(piece) {
            self.word(out, items, "response.output_audio_transcript.delta", before);
        }
    }

    fn word(&mut self, out: &Emitter, items: &mut Items, event: &str, piece: String) {
        let place = self.open(out, items);
        if let Some(message) = &mut self.message {
            message.answer.text.push_str(&piece);
        }
        out.emit(event, with(place, json!({"content_index": 0, "delta": piece})));
    }

    fn release(&mut self, out: &Emitter, items: &mut Items) {
        if let Some(piece) = self.held.take() {
            self.word(out, items, "response.output_audio_transcript.delta", piece);
        }
    }

    /// Takes a piece of sound. Returns how long after the end of the turn the first one comes.
    pub(super) fn audio(&mut self, out: &Emitter, items: &mut Items, audio: &Audio) -> Option<f64> {
        let place = self.open(out, items);
        let samples = audio.to_i16();
        self.made.samples += samples.len();
        if let Some(message) = &mut self.message {
            message.answer.samples += samples.len();
        }
        let delta = BASE64_STANDARD.encode(pcm(&samples).collect::<Vec<u8>>());
        out.emit("response.output_audio.delta", with(place, json!({"content_index": 0, "delta": delta})));
        self.release(out, items);
        let first = !std::mem::replace(&mut self.begun, true);
        self.turn_ended.filter(|_| first).map(|ended| ended.elapsed().as_secs_f64())
    }

    /// Opens the item of the answer's words, if it is not open. Returns its place.
    fn open(&mut self, out: &Emitter, items: &mut Items) -> Value {
        if let Some(message) = &self.message {
            return self.place(&message.id, message.index);
        }
        let (id, index) = (ids::new("item_"), self.output.len());
        let spoken = self.settings.spoken;
        let answer = || SpokenAnswer { spoken, ..SpokenAnswer::default() };
        let item = Item { id: id.clone(), status: IN_PROGRESS, content: Content::Answer(answer()) };
        let place = self.place(&id, index);
        self.announce(out, items, item, index);
        let part =
            if spoken { json!({"type": "audio", "transcript": ""}) } else { json!({"type": "text", "text": ""}) };
        out.emit("response.content_part.added", with(place.clone(), json!({"content_index": 0, "part": part})));
        self.message = Some(OpenMessage { id, index, answer: answer() });
        place
    }

    fn place(&self, item_id: &str, index: usize) -> Value {
        json!({"response_id": self.id, "item_id": item_id, "output_index": index})
    }

    /// Tells of a new item and puts it into the conversation.
    fn announce(&mut self, out: &Emitter, items: &mut Items, item: Item, index: usize) {
        let shown = item.to_json();
        out.emit("response.output_item.added", json!({"response_id": self.id, "output_index": index, "item": shown}));
        if self.in_conversation {
            let id = item.id.clone();
            let previous = items.insert_answer(item, self.after.as_deref());
            self.after = Some(id);
            out.emit("conversation.item.added", json!({"previous_item_id": previous, "item": shown}));
        }
    }

    /// Takes a call of a function. Returns whether another one may follow.
    pub(super) fn call(&mut self, out: &Emitter, items: &mut Items, call: &ToolCall) -> bool {
        let several = self.settings.several_calls();
        if self.made.calls > 0 && !several {
            return false;
        }
        self.made.calls += 1;
        self.close_message(out, items, COMPLETED);
        let (index, call_id) = (self.output.len(), ids::new("call_"));
        let content = |arguments: Value| Content::Call { call_id: call_id.clone(), name: call.name.clone(), arguments };
        let mut item = Item { id: ids::new("item_"), status: IN_PROGRESS, content: content(json!({})) };
        let place = self.place(&item.id, index);
        let added = Item { id: item.id.clone(), status: IN_PROGRESS, content: content(json!({})) };
        self.announce(out, items, added, index);
        let arguments = call.arguments.to_string();
        let named = |field: &str| with(place.clone(), json!({"call_id": call_id, field: arguments}));
        out.emit("response.function_call_arguments.delta", named("delta"));
        out.emit("response.function_call_arguments.done", with(named("arguments"), json!({"name": call.name})));
        (item.status, item.content) = (COMPLETED, content(call.arguments.clone()));
        self.close(out, items, item, index);
        several
    }

    /// Tells that an item is complete.
    fn close(&mut self, out: &Emitter, items: &mut Items, item: Item, index: usize) {
        let shown = item.to_json();
        if self.in_conversation {
            out.emit("conversation.item.done", json!({"previous_item_id": items.before(&item.id), "item": shown}));
            items.replace(item);
        }
        out.emit("response.output_item.done", json!({"response_id": self.id, "output_index": index, "item": shown}));
        self.output.push(shown);
    }

    fn close_message(&mut self, out: &Emitter, items: &mut Items, status: &'static str) {
        self.release(out, items);
        let Some(OpenMessage { id, index, answer }) = self.message.take() else { return };
        let place = with(self.place(&id, index), json!({"content_index": 0}));
        let part = match answer.spoken {
            true => {
                out.emit("response.output_audio.done", place.clone());
                let done = with(place.clone(), json!({"transcript": answer.text}));
                out.emit("response.output_audio_transcript.done", done);
                json!({"type": "audio", "transcript": answer.text})
            }
            false => {
                out.emit("response.output_text.done", with(place.clone(), json!({"text": answer.text})));
                json!({"type": "text", "text": answer.text})
            }
        };
        out.emit("response.content_part.done", with(place, json!({ "part": part })));
        self.close(out, items, Item { id, status, content: Content::Answer(answer) }, index);
    }

    /// Ends the response. Returns the id of the item that holds its words.
    pub(super) fn end(&mut self, omni: &Omni, out: &Emitter, items: &mut Items, ending: &Ending) -> Option<String> {
        if matches!(ending, Ending::Done(reply) if reply.tool_calls.is_empty()) {
            // An answer without words is an item, too.
            self.open(out, items);
        }
        if matches!(ending, Ending::Cancelled(_)) {
            // Words that no sound went with were not said.
            self.held = None;
        }
        let (status, details) = match ending {
            Ending::Done(reply) if is_cut(reply) => {
                ("incomplete", json!({"type": "incomplete", "reason": "max_output_tokens"}))
            }
            Ending::Done(_) => ("completed", Value::Null),
            Ending::Cancelled(reason) => ("cancelled", json!({"type": "cancelled", "reason": reason})),
            Ending::Failed(error) => ("failed", json!({"type": "failed", "error": error.to_json()})),
        };
        let usage = match ending {
            Ending::Done(reply) => usage(&reply.usage),
            _ => usage(&self.made.usage(omni)),
        };
        let item = self.open_item().map(str::to_owned);
        self.close_message(out, items, if status == "completed" { COMPLETED } else { INCOMPLETE });
        out.emit("response.done", json!({"response": self.to_json(status, details, usage)}));
        item
    }

    fn to_json(&self, status: &str, details: Value, usage: Value) -> Value {
        json!({
            "object": "realtime.response",
            "id": self.id,
            "conversation_id": self.in_conversation.then_some(&self.conversation_id),
            "status": status,
            "status_details": details,
            "output": self.output,
            "output_modalities": self.settings.modalities(),
            "audio": {"output": self.settings.output_json()},
            "max_output_tokens": self.settings.limit_json(),
            "metadata": self.metadata,
            "usage": usage,
        })
    }
}

/// One object with the fields of both.
fn with(mut all: Value, more: Value) -> Value {
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    all
}

fn is_cut(reply: &Reply) -> bool {
    matches!(reply.finish_reason, FinishReason::Limit | FinishReason::Context)
}

fn usage(usage: &Usage) -> Value {
    let prompt = usage.prompt;
    let made = usage.text_tokens + usage.frames;
    json!({
        "total_tokens": usage.prompt_tokens + made,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": made,
        "input_token_details": {
            "text_tokens": prompt.text,
            "audio_tokens": prompt.audio,
            "image_tokens": prompt.image + prompt.video,
            "cached_tokens": usage.cached_tokens,
        },
        "output_token_details": {"text_tokens": usage.text_tokens, "audio_tokens": usage.frames},
    })
}
