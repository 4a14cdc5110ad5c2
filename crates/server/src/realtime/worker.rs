//! The thread of a session: takes the client's events and what its answers make, one after the other.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use qwen3_omni::media::audio::SAMPLE_RATE;
use qwen3_omni::{Answer, Canceller, Event, GenerateOptions, Message, Session};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinSet;

use super::answer::{Ending, Response, Waiting};
use super::ear::{CLIENT_RATE, Ear, Heard};
use super::items::{Content, Item, Items, decode, to_samples};
use super::output::Emitter;
use super::prefill::Prefill;
use super::settings::Settings;
use super::socket::Output;
use super::transcriber::{Transcript, transcribe};
use crate::admission::Permit;
use crate::app::App;
use crate::audio::question;
use crate::body;
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, brief};
use crate::ids;
use crate::metrics::AnswerClock;

/// What the worker is told.
pub(crate) enum Input {
    /// A text frame of the client.
    Client(String),
    /// A binary frame, which has no meaning.
    Binary,
    /// A place for the response of this id.
    Placed(String, ApiResult<Permit>),
    /// An item of the answer that is being generated.
    Answer(qwen3_omni::Result<Event>),
    /// That answer has been read to its end.
    AnswerEnded,
    Transcript(String, Transcript),
    /// The session ends: what to say, and how to close.
    End(Option<ApiError>, u16, &'static str),
    /// The client has gone.
    Gone,
}

/// Nobody is left to work for.
struct Closed;

/// Seconds after which a turn is prefilled while it goes on: the window of the audio encoder, before which nothing can be.
const LONG_TURN: usize = 8;
/// Turns that are written down at once.
const TRANSCRIPTS: usize = 2;
/// Sound of a turn that is shorter is no turn.
const LEAST_TURN_MS: u64 = 100;

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
    /// Spoken turns that will be written down when nothing more urgent is to be done.
    unwritten: VecDeque<(String, Message)>,
    /// Turns that are being written down; what is not done ends with the session.
    transcripts: JoinSet<()>,
    /// Events of the client that wait until the answer that was cancelled has ended.
    deferred: VecDeque<String>,
}

/// An answer that is being generated. It may outlive its response, which is over for the client when it is cancelled.
struct Generating {
    canceller: Canceller,
    clock: AnswerClock,
    _permit: Permit,
    /// Cancels it when its time is over.
    _limit: Waiting,
    /// The item that holds its words, if its response was cancelled after the first.
    item: Option<String>,
    /// Whether its response was cancelled.
    abandoned: bool,
}

impl Worker {
    pub(crate) fn new(app: Arc<App>, own: Sender<Input>, inputs: Receiver<Input>, outputs: Sender<Output>) -> Self {
        let settings = Settings::new(&app);
        Self {
            runtime: Handle::current(),
            own,
            inputs,
            out: Emitter::new(outputs),
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
            unwritten: VecDeque::new(),
            transcripts: JoinSet::new(),
            deferred: VecDeque::new(),
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
            Input::Client(text) => self.client(&text),
            Input::Binary => {
                let message = "binary frames are not read, expected events as JSON text";
                self.out.error(&ApiError::invalid("event", message), None);
            }
            Input::Placed(id, place) => self.placed(&id, place),
            Input::Answer(event) => self.event(event),
            Input::AnswerEnded => self.answer_ended(),
            Input::Transcript(id, news) => self.transcript(&id, news),
            Input::End(error, code, reason) => {
                if let Some(error) = error {
                    self.out.error(&error, None);
                }
                self.out.close(code, reason);
                return ControlFlow::Break(Closed);
            }
            Input::Gone => return ControlFlow::Break(Closed),
        }
        self.write_down();
        ControlFlow::Continue(())
    }

    /// Takes an event of the client; what is wrong with it is told and ends nothing.
    pub(crate) fn client(&mut self, text: &str) {
        let value = match body::parse(text.as_bytes()) {
            Ok(value) => value,
            Err(error) => return self.out.error(&error, None),
        };
        let cause = value["event_id"].as_str();
        let done = Fields::of_request(&value).and_then(|fields| self.act(&fields, text));
        if let Err(error) = done {
            self.out.error(&error, cause);
        }
    }

    fn act(&mut self, fields: &Fields, text: &str) -> ApiResult<()> {
        let kind = fields.string("type")?;
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
            "conversation.item.create" => self.create_item(fields),
            "conversation.item.retrieve" => {
                let item = self.items.get(item_id(fields)?)?.to_json();
                self.out.emit("conversation.item.retrieved", json!({ "item": item }));
                Ok(())
            }
            "conversation.item.delete" => self.delete_item(item_id(fields)?),
            "conversation.item.truncate" => self.truncate(fields, text),
            "response.create" => self.create_response(fields),
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
        if merged.turn_detection != self.settings.turn_detection {
            self.ear.set(merged.turn_detection.as_ref());
            self.turn = None;
        }
        self.settings = merged;
        self.out.emit("session.updated", json!({"session": self.settings.to_json()}));
        Ok(())
    }

    fn append(&mut self, fields: &Fields) -> ApiResult<()> {
        let audio = fields.string("audio")?;
        let mut bytes = decode(fields.required("audio", audio)?, "audio")?;
        if let Some(half) = self.half.take() {
            bytes.insert(0, half);
        }
        if bytes.len() % 2 == 1 {
            self.half = bytes.pop();
        }
        self.check_room(bytes.len() / 2)?;
        let mut sound = self.ear.push(&to_samples(&bytes))?;
        while let Some((heard, rest)) = self.ear.search(sound) {
            match heard {
                Heard::Started { start_ms } => self.speech_started(start_ms),
                Heard::Stopped { end_ms } => self.speech_stopped(end_ms)?,
            }
            sound = rest;
        }
        self.listen();
        Ok(())
    }

    /// Prefills a turn that has become long, if no answer needs the session.
    fn listen(&mut self) {
        let Some(turn) = self.ear.turn().filter(|turn| turn.len() >= LONG_TURN * SAMPLE_RATE as usize) else { return };
        if self.prefill.is_none() && self.generating.is_none() {
            let settings = &self.settings.answer;
            let (Ok(options), Some(session)) = (settings.options(&self.app), self.session.take()) else { return };
            self.prefill = Prefill::begin(session, self.items.messages(&settings.instructions), options);
        }
        if let Some(prefill) = &mut self.prefill {
            prefill.listen(turn);
        }
    }

    /// Ends listening to a turn that is over.
    fn end_prefill(&mut self) {
        if let Some(prefill) = self.prefill.take() {
            self.session = prefill.end();
        }
    }

    /// The session, which listens no longer.
    fn session(&mut self) -> &mut Session {
        self.end_prefill();
        // A thread that is lost takes its session with it, and all that is lost with that is its cache.
        self.session.get_or_insert_with(|| self.app.omni.session())
    }

    /// Refuses sound that the model's context could never hold.
    fn check_room(&self, samples: usize) -> ApiResult<()> {
        /// Tokens of a second of sound.
        const TOKENS: u64 = 12;
        let most = self.app.omni.context_length() as u64 * 1000 / TOKENS;
        let more = samples as u64 * 1000 / u64::from(CLIENT_RATE);
        match self.ear.buffered_ms() + more > most {
            true => Err(ApiError::invalid("audio", format_args!("the buffer holds no more than {} s", most / 1000))),
            false => Ok(()),
        }
    }

    fn speech_started(&mut self, start_ms: u64) {
        self.end_prefill();
        let id = ids::new("item_");
        self.out.emit("input_audio_buffer.speech_started", json!({"audio_start_ms": start_ms, "item_id": id}));
        self.turn = Some(id);
        if self.settings.turn_detection.as_ref().is_some_and(|turns| turns.interrupt_response) {
            self.cancel("turn_detected");
        }
    }

    fn speech_stopped(&mut self, end_ms: u64) -> ApiResult<()> {
        let (id, ended) = (self.turn.take().unwrap_or_else(|| ids::new("item_")), Instant::now());
        self.out.emit("input_audio_buffer.speech_stopped", json!({"audio_end_ms": end_ms, "item_id": id}));
        let sound = self.ear.take();
        self.commit_turn(id, sound)?;
        if self.settings.turn_detection.as_ref().is_some_and(|turns| turns.create_response) && self.response.is_none() {
            self.respond(Response::new(&self.conversation_id, self.settings.answer.clone(), Some(ended)));
        }
        Ok(())
    }

    fn commit(&mut self) -> ApiResult<()> {
        // Without turns being looked for all sound counts, otherwise only a turn that is going on.
        let idle = self.settings.turn_detection.is_some() && !self.ear.is_speaking();
        let buffered = if idle { 0 } else { self.ear.buffered_ms() };
        if buffered < LEAST_TURN_MS {
            let message = format!("the buffer holds {buffered} ms of sound, expected at least {LEAST_TURN_MS}");
            return Err(ApiError::invalid("audio", message).code("input_audio_buffer_commit_empty"));
        }
        self.half = None;
        let id = self.turn.take().unwrap_or_else(|| ids::new("item_"));
        let sound = self.ear.take();
        self.commit_turn(id, sound)
    }

    /// Makes sound a turn of the conversation.
    fn commit_turn(&mut self, id: String, sound: Vec<f32>) -> ApiResult<()> {
        let item = Item::spoken(id.clone(), sound, SAMPLE_RATE)?;
        if self.settings.transcription.is_some()
            && let Content::Said { message, .. } = &item.content
        {
            self.unwritten.push_back((id.clone(), message.clone()));
        }
        let previous = self.items.last().map(str::to_owned);
        self.out.emit("input_audio_buffer.committed", json!({"previous_item_id": previous, "item_id": id}));
        self.add_item(item, None)
    }

    fn add_item(&mut self, item: Item, after: Option<&str>) -> ApiResult<()> {
        let shown = item.to_json();
        let previous = self.items.insert(item, after)?;
        for event in ["conversation.item.added", "conversation.item.done"] {
            self.out.emit(event, json!({"previous_item_id": previous, "item": shown}));
        }
        Ok(())
    }

    fn create_item(&mut self, fields: &Fields) -> ApiResult<()> {
        let item = fields.object("item")?;
        let item = Item::read(&self.app, &fields.required("item", item)?)?;
        self.add_item(item, fields.string("previous_item_id")?)
    }

    fn delete_item(&mut self, id: &str) -> ApiResult<()> {
        if self.response.as_ref().is_some_and(|response| response.open_item() == Some(id)) {
            return Err(ApiError::invalid("item_id", "this item is being made; cancel its response first"));
        }
        self.items.remove(id)?;
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
            self.deferred.push_back(text.to_owned());
            return Ok(());
        }
        let Content::Answer(answer) = &mut self.items.get(id)?.content else {
            return Err(ApiError::invalid("item_id", "only spoken answers can be cut"));
        };
        let rate = u64::from(self.app.omni.sample_rate());
        let samples = end * rate / 1000;
        let sent = answer.samples as u64 * 1000 / rate;
        // The last millisecond may not be a whole one.
        if !answer.spoken || end > sent + 1 {
            return Err(ApiError::invalid("audio_end_ms", format_args!("{end} ms, but only {sent} ms were sent")));
        }
        match &answer.reply {
            Some(reply) => answer.text = reply.played(samples as usize).text,
            None => return Err(ApiError::invalid("item_id", "only answers of this session can be cut")),
        }
        answer.samples = samples as usize;
        let told = json!({"item_id": id, "content_index": index, "audio_end_ms": end});
        self.out.emit("conversation.item.truncated", told);
        Ok(())
    }

    fn create_response(&mut self, fields: &Fields) -> ApiResult<()> {
        if self.response.is_some() {
            let message = "a response is being made; cancel it, or wait for response.done";
            let active = "conversation_already_has_active_response";
            return Err(ApiError::invalid("response", message).code(active));
        }
        let Some(asked) = fields.object("response")? else {
            self.respond(Response::new(&self.conversation_id, self.settings.answer.clone(), None));
            return Ok(());
        };
        let settings = self.settings.answer.merge(&self.app, &asked)?;
        let mut response = Response::new(&self.conversation_id, settings, None).with_metadata(asked.get("metadata"));
        asked.check(&[], &[], &["metadata"])?;
        let words = [("auto", true), ("none", false)];
        response.in_conversation = asked.one_of("conversation", &words)?.unwrap_or(true);
        if let Some(input) = asked.list("input")? {
            response.input = Some(self.read_input(input, &asked.name("input"))?);
        }
        self.respond(response);
        Ok(())
    }

    /// The items of one answer alone; a reference names one of the conversation.
    fn read_input(&self, input: &[Value], path: &str) -> ApiResult<Items> {
        let mut items = Items::default();
        for (index, value) in input.iter().enumerate() {
            let fields = Fields::at(value, format!("{path}[{index}]"))?;
            let item = match fields.string("type")? {
                Some("item_reference") => {
                    let id = fields.string("id")?;
                    self.items.copy(fields.required("id", id)?, &fields.name("id"))?
                }
                _ => Item::read(&self.app, &fields)?,
            };
            items.insert(item, None)?;
        }
        Ok(items)
    }

    /// Begins a response: it waits for a place like every other answer.
    fn respond(&mut self, mut response: Response) {
        response.created(&self.out);
        let (app, own, id) = (self.app.clone(), self.own.clone(), response.id.clone());
        let waits = self.runtime.spawn(async move {
            let place = app.admission.admit(1).await.map(|mut permits| permits.remove(0));
            let _ = own.send(Input::Placed(id, place)).await;
        });
        response.wait(Waiting(waits.abort_handle()));
        self.response = Some(response);
    }

    fn placed(&mut self, id: &str, place: ApiResult<Permit>) {
        let Some(response) = self.response.as_mut().filter(|response| response.id == id) else {
            // It was cancelled meanwhile, and its place is free again.
            return;
        };
        match place {
            Ok(permit) => {
                response.permit = Some(permit);
                self.generate();
            }
            Err(error) => self.end_response(&Ending::Failed(&error)),
        }
    }

    /// Generates the answer of the present response, if it has its place and the one before has ended.
    fn generate(&mut self) {
        if self.generating.is_some() {
            return;
        }
        let Some(response) = &mut self.response else { return };
        let Some(permit) = response.permit.take() else { return };
        let messages = response.input.as_ref().unwrap_or(&self.items).messages(&response.settings.instructions);
        let begun = response.settings.options(&self.app).and_then(|options| {
            begin(self.session(), &messages, &options).map_err(|error| ApiError::of_answer(&error, &messages))
        });
        match begun {
            Ok(answer) => {
                let clock = AnswerClock::new(self.app.metrics.clone(), Instant::now(), 0.0);
                let canceller = answer.canceller();
                let limit = self.limit(canceller.clone());
                let (item, abandoned) = (None, false);
                self.generating =
                    Some(Generating { canceller, clock, _permit: permit, _limit: limit, item, abandoned });
                read(answer, self.own.clone());
            }
            Err(error) => self.end_response(&Ending::Failed(&error)),
        }
    }

    /// Cancels an answer when its time is over.
    fn limit(&self, canceller: Canceller) -> Waiting {
        let time = self.app.config.request_time;
        let ends = self.runtime.spawn(async move {
            tokio::time::sleep(time).await;
            canceller.cancel();
        });
        Waiting(ends.abort_handle())
    }

    /// Takes an event of the answer.
    fn event(&mut self, event: qwen3_omni::Result<Event>) {
        let Some(generating) = &mut self.generating else { return };
        if let Ok(event) = &event {
            generating.clock.observe(event);
        }
        if let (Ok(Event::Done(reply)), Some(id)) = (&event, &generating.item) {
            // Of a response that was cancelled.
            self.items.keep_reply(id, reply.clone());
            return;
        }
        let Some(response) = self.response.as_mut().filter(|_| !generating.abandoned) else { return };
        let (out, items) = (&self.out, &mut self.items);
        match event {
            Ok(Event::Text(piece)) => response.text(out, items, piece),
            Ok(Event::Audio(audio)) => {
                if let Some(seconds) = response.audio(out, items, &audio) {
                    self.app.metrics.turn_latency.observe(seconds);
                }
            }
            Ok(Event::ToolCall(call)) => {
                if !response.call(out, items, &call) {
                    generating.canceller.cancel();
                }
            }
            Ok(Event::Done(reply)) => {
                let item = response.end(out, items, &Ending::Done(&reply));
                if let Some(id) = item {
                    items.keep_reply(&id, reply);
                }
                self.response = None;
            }
            Ok(_) => {}
            Err(error) => {
                generating.clock.fail();
                self.end_response(&Ending::Failed(&ApiError::of_answer(&error, &[])));
            }
        }
    }

    fn answer_ended(&mut self) {
        self.generating = None;
        // What was heard of the last answer decides what the next one reads.
        for text in std::mem::take(&mut self.deferred) {
            self.client(&text);
        }
        self.generate();
    }

    fn end_response(&mut self, ending: &Ending) {
        if let Some(mut response) = self.response.take() {
            response.end(&self.out, &mut self.items, ending);
        }
    }

    fn cancel_response(&mut self, fields: &Fields) -> ApiResult<()> {
        let named = fields.string("response_id")?;
        let active = self.response.as_ref().is_some_and(|response| named.is_none_or(|id| id == response.id));
        if !active {
            let message = "there is no active response to cancel";
            return Err(ApiError::invalid("response_id", message).code("response_cancel_not_active"));
        }
        self.cancel("client_cancelled");
        Ok(())
    }

    /// Ends the response for the client at once; what still generates it stops after the step it is in.
    fn cancel(&mut self, reason: &'static str) {
        let Some(mut response) = self.response.take() else { return };
        let item = response.end(&self.out, &mut self.items, &Ending::Cancelled(reason));
        if let Some(generating) = &mut self.generating {
            generating.canceller.cancel();
            (generating.item, generating.abandoned) = (item, true);
        }
    }

    /// Writes spoken turns down when no answer waits for its first sound: that comes first.
    fn write_down(&mut self) {
        let urgent = self.response.as_ref().is_some_and(|response| response.settings.spoken && !response.has_sound);
        if urgent {
            return;
        }
        while self.transcripts.try_join_next().is_some() {}
        while self.transcripts.len() < TRANSCRIPTS
            && let Some((id, message)) = self.unwritten.pop_front()
        {
            let own = self.settings.transcription.as_ref().and_then(|transcription| transcription.prompt.as_deref());
            let prompt = own.unwrap_or(&self.app.config.transcription_prompt);
            let recording = message.parts().iter().find_map(|part| match part {
                qwen3_omni::Part::Audio(audio) => Some(audio.clone()),
                _ => None,
            });
            let Some(recording) = recording else { continue };
            let asked = question(recording, prompt);
            self.transcripts.spawn_on(transcribe(self.app.clone(), id, asked, self.own.clone()), &self.runtime);
        }
    }

    fn transcript(&mut self, id: &str, news: Transcript) {
        const NAME: &str = "conversation.item.input_audio_transcription";
        let place = |mut fields: Value| {
            (fields["item_id"], fields["content_index"]) = (json!(id), json!(0));
            fields
        };
        match news {
            Transcript::Piece(piece) => self.out.emit(&format!("{NAME}.delta"), place(json!({"delta": piece}))),
            Transcript::Done { text, usage } => {
                self.items.keep_transcript(id, &text);
                self.out.emit(&format!("{NAME}.completed"), place(json!({"transcript": text, "usage": usage})));
            }
            Transcript::Failed(error) => {
                self.out.emit(&format!("{NAME}.failed"), place(json!({"error": error.to_json()})))
            }
        }
    }
}

fn item_id<'a>(fields: &Fields<'a>) -> ApiResult<&'a str> {
    let id = fields.string("item_id")?;
    fields.required("item_id", id)
}

/// Begins an answer to these messages. What the session computed for those before is not computed again.
fn begin(session: &mut Session, messages: &[Message], options: &GenerateOptions) -> qwen3_omni::Result<Answer> {
    session.truncate(0);
    messages.iter().for_each(|message| session.push(message.clone()));
    session.answer(options)
}

/// Reads an answer in a thread of its own; what it makes comes as inputs.
fn read(answer: Answer, inputs: Sender<Input>) {
    let reader = {
        let inputs = inputs.clone();
        move || {
            for event in answer {
                if inputs.blocking_send(Input::Answer(event)).is_err() {
                    return;
                }
            }
            let _ = inputs.blocking_send(Input::AnswerEnded);
        }
    };
    let spawned = std::thread::Builder::new().name("realtime answer".into()).spawn(reader);
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for an answer");
        let _ = inputs.try_send(Input::AnswerEnded);
    }
}
