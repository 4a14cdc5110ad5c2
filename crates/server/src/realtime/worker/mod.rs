//! The thread of a session: takes the client's events and what its answers make, one after the other.

mod answers;
mod fetching;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use qwen3_omni::media::audio::AudioInput;
use qwen3_omni::{Canceller, Session};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender};
use tracing::Instrument;

use fetching::Fetching;

use super::answer::{Response, Waiting};
use super::ear::Ear;
use super::input::{Input, Transcript};
use super::item::{Content, Item};
use super::items::Items;
use super::output::Emitter;
use super::prefill::Prefill;
use super::settings::Settings;
use super::transcriber::transcribe;
use super::weight;
use crate::admission::Permit;
use crate::app::App;
use crate::audio::question;
use crate::body;
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, brief};
use crate::ids;
use crate::media::{Fetched, RequestMedia};
use crate::metrics::AnswerClock;
use crate::outbox::Outbox;

/// Nobody is left to work for.
struct Closed;

/// Bytes of the settings, which a client gets back in one frame.
const MOST_SETTINGS: usize = 16 << 20;
/// Bytes of events that wait until an answer has ended.
const MOST_DEFERRED: usize = 1 << 20;
/// Turns that are written down at once.
const TRANSCRIPTS: usize = 2;

pub(crate) struct Worker {
    app: Arc<App>,
    runtime: Handle,
    own: Sender<Input>,
    inputs: Receiver<Input>,
    out: Emitter,
    conversation_id: String,
    settings: Settings,
    items: Items,
    /// Away while it listens to a turn.
    session: Option<Session>,
    prefill: Option<Prefill>,
    ear: Ear,
    /// Half a sample at the end of the last piece of sound.
    half: Option<u8>,
    /// The id that the turn which is being spoken will have.
    turn: Option<String>,
    response: Option<Response>,
    generating: Option<Generating>,
    /// When the last turn ended that is to be answered after the present answer.
    unanswered: Option<Instant>,
    /// Tells when an answer to the last turn is expected no longer.
    expected: Option<Waiting>,
    /// Spoken turns that will be written down when nothing more urgent is to be done.
    unwritten: VecDeque<(String, AudioInput)>,
    /// What writes turns down, by their items; what is not done ends with the session. A turn is done when its last news have come: its
    /// task may end a moment later, of which nobody would be told.
    transcripts: HashMap<String, Waiting>,
    /// Events of the client that wait until the answer that was cancelled has ended.
    deferred: VecDeque<String>,
    /// What waits while files are fetched for an event.
    fetching: Option<Fetching>,
}

/// An answer that is being generated. It may outlive its response, which is over for the client when it is cancelled.
struct Generating {
    /// The id of its response.
    response: String,
    canceller: Canceller,
    clock: AnswerClock,
    _permit: Permit,
    /// Tells when its time is over.
    _limit: Waiting,
    /// The item that holds its words, if its response was cancelled after the first.
    item: Option<String>,
}

impl Worker {
    pub(crate) fn new(app: Arc<App>, own: Sender<Input>, inputs: Receiver<Input>, outbox: Outbox) -> Self {
        let settings = Settings::new(&app);
        Self {
            runtime: Handle::current(),
            own,
            inputs,
            out: Emitter::new(outbox),
            conversation_id: ids::new("conv_"),
            ear: Ear::new(settings.turn_detection.as_ref()),
            session: Some(app.omni.session()),
            prefill: None,
            settings,
            items: Items::default(),
            half: None,
            turn: None,
            response: None,
            generating: None,
            unanswered: None,
            expected: None,
            unwritten: VecDeque::new(),
            transcripts: HashMap::new(),
            deferred: VecDeque::new(),
            fetching: None,
            app,
        }
    }

    pub(super) fn run(mut self) {
        self.out.emit("session.created", json!({"session": self.settings.to_json()}));
        while !self.out.is_gone() {
            let Some(input) = self.inputs.blocking_recv() else { break };
            if self.take(input).is_break() {
                break;
            }
        }
        if let Some(generating) = &self.generating {
            generating.canceller.cancel();
        }
    }

    fn take(&mut self, input: Input) -> ControlFlow<Closed> {
        match input {
            Input::Client(text, room) => self.client_in_turn(text, room),
            Input::Fetched(text, _room, files) => self.fetched(&text, files),
            Input::Binary => {
                let message = "binary frames are not read, expected events as JSON text";
                self.out.error(&ApiError::invalid("event", message), None);
            }
            Input::Placed(id, place) => self.placed(&id, place),
            Input::Answer(event) => self.event(event),
            Input::AnswerEnded => self.answer_ended(),
            Input::TimeOver(id) => self.time_over(&id),
            Input::Transcript(id, news) => self.transcript(&id, news),
            Input::NotAsked => self.expected = None,
            Input::End(error, code, reason) => {
                if let Some(error) = error {
                    self.out.error(&error, None);
                }
                self.out.close(code, reason);
                return ControlFlow::Break(Closed);
            }
            Input::Gone => return ControlFlow::Break(Closed),
        }
        // What the client has put into the conversation is read by the answer.
        if self.fetching.is_none() {
            self.answer_turn();
            self.write_down();
        }
        ControlFlow::Continue(())
    }

    /// Takes an event of the client, and fetches on this thread what it names; what is wrong with it is told and ends nothing.
    pub(crate) fn client(&mut self, text: &str) {
        match body::parse(text.as_bytes()) {
            Ok(event) => self.event_of_client(&event, text, Fetched::default()),
            Err(error) => self.out.error(&error, None),
        }
    }

    fn event_of_client(&mut self, event: &Value, text: &str, files: Fetched) {
        let (app, cause) = (self.app.clone(), event["event_id"].as_str());
        let media = app.media.of_request().with(files);
        let done = Fields::of_request(event).and_then(|fields| self.act(&fields, text, &media));
        if let Err(error) = done {
            self.out.error(&error, cause);
        }
    }

    fn act(&mut self, fields: &Fields, text: &str, media: &RequestMedia) -> ApiResult<()> {
        let kind = fields.string("type")?;
        fields.string("event_id")?;
        match fields.required("type", kind)? {
            "session.update" => self.update(fields),
            "input_audio_buffer.append" => self.append(fields),
            "input_audio_buffer.commit" => self.commit(),
            "input_audio_buffer.clear" => {
                self.end_prefill();
                self.ear.take();
                (self.half, self.turn) = (None, None);
                self.out.emit("input_audio_buffer.cleared", json!({}));
                Ok(())
            }
            "output_audio_buffer.clear" => {
                self.out.emit("output_audio_buffer.cleared", json!({"response_id": null}));
                Ok(())
            }
            "conversation.item.create" => self.create_item(fields, media),
            "conversation.item.retrieve" => {
                let item = self.items.get(item_id(fields)?)?.to_json();
                self.out.emit("conversation.item.retrieved", json!({ "item": item }));
                Ok(())
            }
            "conversation.item.delete" => self.delete_item(item_id(fields)?),
            "conversation.item.truncate" => self.truncate(fields, text),
            "response.create" => self.create_response(fields, media),
            "response.cancel" => self.cancel_response(fields),
            other => {
                let message = format!("there is no event `{}`", brief(other));
                Err(ApiError::invalid("type", message))
            }
        }
    }

    fn update(&mut self, fields: &Fields) -> ApiResult<()> {
        let session = fields.object("session")?;
        let merged = self.settings.merge(&self.app, &fields.required("session", session)?)?;
        if weight::of_value(&merged.to_json()) > MOST_SETTINGS {
            return Err(ApiError::invalid("session", format_args!("larger than {} MiB", MOST_SETTINGS >> 20)));
        }
        if merged.turn_detection != self.settings.turn_detection {
            self.ear.set(merged.turn_detection.as_ref());
            // Where turns are looked for no longer, all sound is kept, that of the turn that was announced too.
            if merged.turn_detection.is_some() {
                self.turn = None;
            }
        }
        self.settings = merged;
        self.out.emit("session.updated", json!({"session": self.settings.to_json()}));
        Ok(())
    }

    fn add_item(&mut self, item: Item, after: Option<&str>) -> ApiResult<()> {
        let shown = item.to_json();
        let previous = self.items.insert(item, after)?;
        self.tell_of_item(previous.as_deref(), &shown);
        Ok(())
    }

    /// Tells of an item that is complete from the beginning.
    fn tell_of_item(&self, previous: Option<&str>, shown: &Value) {
        for event in ["conversation.item.added", "conversation.item.done"] {
            self.out.emit(event, json!({"previous_item_id": previous, "item": shown}));
        }
    }

    fn create_item(&mut self, fields: &Fields, media: &RequestMedia) -> ApiResult<()> {
        let item = fields.object("item")?;
        let item = Item::read(media, &fields.required("item", item)?)?;
        self.add_item(item, fields.string("previous_item_id")?)
    }

    fn delete_item(&mut self, id: &str) -> ApiResult<()> {
        if self.response.as_ref().is_some_and(|response| response.open_item() == Some(id)) {
            return Err(ApiError::invalid("item_id", "this item is being made; cancel its response first"));
        }
        self.items.remove(id)?;
        self.unwritten.retain(|(unwritten, _)| unwritten != id);
        self.out.emit("conversation.item.deleted", json!({"item_id": id}));
        Ok(())
    }

    /// Cuts an answer to what can have been heard of it.
    fn truncate(&mut self, fields: &Fields, text: &str) -> ApiResult<()> {
        let id = item_id(fields)?;
        let index = fields.integer("content_index", 0..=0)?.unwrap_or(0);
        let end = fields.integer("audio_end_ms", 0..=i64::from(u32::MAX))?;
        let end = fields.required("audio_end_ms", end)? as u64;
        let is = |item: Option<&str>| item == Some(id);
        let generating = self.generating.as_ref().is_some_and(|generating| is(generating.item.as_deref()))
            || self.response.as_ref().is_some_and(|response| is(response.open_item()));
        if generating {
            // When its words were said is known when the answer has ended.
            if self.deferred.iter().map(String::len).sum::<usize>() + text.len() > MOST_DEFERRED {
                return Err(ApiError::invalid("item_id", "too much waits for the end of this answer already"));
            }
            self.deferred.push_back(text.to_owned());
            return Ok(());
        }
        let Content::Answer(answer) = &mut self.items.get_mut(id)?.content else {
            return Err(ApiError::invalid("item_id", "only spoken answers can be cut"));
        };
        let rate = u64::from(self.app.omni.sample_rate());
        let samples = end * rate / 1000;
        let sent = answer.samples as u64 * 1000 / rate;
        // The last millisecond may not be a whole one.
        if !answer.spoken || end > sent + 1 {
            return Err(ApiError::invalid("audio_end_ms", format_args!("{end} ms, but only {sent} ms were sent")));
        }
        let Some(reply) = &answer.reply else {
            return Err(ApiError::invalid("item_id", "only answers of this session can be cut"));
        };
        answer.text = reply.played(samples as usize).text;
        answer.samples = samples as usize;
        if let Some(response) = &mut self.response {
            // What was not heard is not read by an answer that has not begun either.
            response.input.cut(id, &answer.text);
        }
        let told = json!({"item_id": id, "content_index": index, "audio_end_ms": end});
        self.out.emit("conversation.item.truncated", told);
        Ok(())
    }

    /// Whether the beginning of an answer is waited for, asked for already or not.
    fn awaits_answer(&self) -> bool {
        let awaited = self.response.as_ref().is_some_and(Response::is_awaited);
        awaited || self.expected.is_some() || self.unanswered.is_some()
    }

    /// Writes spoken turns down when no answer is waited for: that comes first.
    fn write_down(&mut self) {
        if self.awaits_answer() {
            return;
        }
        while self.transcripts.len() < TRANSCRIPTS
            && let Some((id, recording)) = self.unwritten.pop_front()
        {
            let own = self.settings.transcription.as_ref().and_then(|transcription| transcription.prompt.as_deref());
            let prompt = own.unwrap_or(&self.app.config.transcription_prompt);
            let asked = question(recording, prompt);
            let work = transcribe(self.app.clone(), id.clone(), asked, self.own.clone()).in_current_span();
            self.transcripts.insert(id, Waiting(self.runtime.spawn(work).abort_handle()));
        }
    }

    fn transcript(&mut self, id: &str, news: Transcript) {
        const NAME: &str = "conversation.item.input_audio_transcription";
        let place = |mut fields: Value| {
            (fields["item_id"], fields["content_index"]) = (json!(id), json!(0));
            fields
        };
        if !matches!(news, Transcript::Piece(_)) {
            self.transcripts.remove(id);
        }
        match news {
            Transcript::Piece(piece) => self.out.emit(&format!("{NAME}.delta"), place(json!({"delta": piece}))),
            Transcript::Done { text, usage } => {
                self.items.keep_transcript(id, &text);
                self.out.emit(&format!("{NAME}.completed"), place(json!({"transcript": text, "usage": usage})));
            }
            Transcript::Failed(error) => {
                self.app.metrics.refuse(error.code);
                self.out.emit(&format!("{NAME}.failed"), place(json!({"error": error.to_json()})))
            }
        }
    }
}

fn item_id<'a>(fields: &Fields<'a>) -> ApiResult<&'a str> {
    let id = fields.string("item_id")?;
    fields.required("item_id", id)
}
