//! The answers of a session: asked for, generated, interrupted.

use std::time::{Duration, Instant};

use qwen3_omni::{Answer, Event, GenerateOptions, Message, Session};
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use super::{Generating, Worker};
use crate::admission::Permit;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::media::RequestMedia;
use crate::metrics::AnswerClock;
use crate::realtime::answer::{Ending, Response, Waiting};
use crate::realtime::input::Input;
use crate::realtime::item::Item;
use crate::realtime::items::Items;
use crate::realtime::settings::AnswerSettings;

impl Worker {
    pub(super) fn create_response(&mut self, fields: &Fields, media: &RequestMedia) -> ApiResult<()> {
        if self.response.is_some() {
            let message = "a response is being made; cancel it, or wait for response.done";
            let active = "conversation_already_has_active_response";
            return Err(ApiError::invalid("response", message).code(active));
        }
        let Some(asked) = fields.object("response")? else {
            return self.respond(self.response(self.settings.answer.clone(), None));
        };
        let settings = self.settings.answer.merge(&self.app, &asked)?;
        let mut response = self.response(settings, None).with_metadata(asked.get("metadata"));
        asked.check(&[], &[], &["metadata", "prompt"])?;
        let words = [("auto", true), ("none", false)];
        response.in_conversation = asked.one_of("conversation", &words)?.unwrap_or(true);
        if let Some(input) = asked.list("input")? {
            response.input = self.read_input(input, &asked.name("input"), media)?;
        }
        self.respond(response)
    }

    /// A response to the conversation as it is.
    fn response(&self, settings: AnswerSettings, turn_ended: Option<Instant>) -> Response {
        Response::new(&self.conversation_id, settings, self.items.clone(), turn_ended)
    }

    /// The items of one answer alone; a reference names one of the conversation.
    fn read_input(&self, input: &[Value], path: &str, media: &RequestMedia) -> ApiResult<Items> {
        let mut items = Items::default();
        for (index, value) in input.iter().enumerate() {
            let fields = Fields::at(value, format!("{path}[{index}]"))?;
            let item = match fields.string("type")? {
                Some("item_reference") => {
                    let id = fields.string("id")?;
                    self.items.copy(fields.required("id", id)?, &fields.name("id"))?
                }
                _ => Item::read(media, &fields)?,
            };
            items.insert(item, None)?;
        }
        Ok(items)
    }

    /// Begins a response: it waits for a place like every other answer.
    ///
    /// # Errors
    /// 400 if there is nothing to answer, or no room for an answer.
    pub(super) fn respond(&mut self, mut response: Response) -> ApiResult<()> {
        response.question()?;
        if response.in_conversation {
            self.items.check_room(None)?;
            response.after = self.items.last().map(str::to_owned);
        }
        self.expected = None;
        response.created(&self.out);
        let (app, own, id) = (self.app.clone(), self.own.clone(), response.id.clone());
        let waits = self.runtime.spawn(async move {
            let place = app.admission.admit_one().await;
            let _ = own.send(Input::Placed(id, place)).await;
        });
        response.wait(Waiting(waits.abort_handle()));
        self.response = Some(response);
        Ok(())
    }

    /// Whether turns are answered without being asked to.
    pub(super) fn answers_turns(&self) -> bool {
        self.settings.turn_detection.as_ref().is_some_and(|turns| turns.create_response)
    }

    /// Answers a turn that ended while an answer was made, once that has ended. Of several the answer hears all.
    pub(super) fn answer_turn(&mut self) {
        if self.response.is_some() {
            return;
        }
        if let Some(ended) = self.unanswered.take().filter(|_| self.answers_turns()) {
            let response = self.response(self.settings.answer.clone(), Some(ended));
            if let Err(error) = self.respond(response) {
                self.out.error(&error, None);
            }
        }
    }

    pub(super) fn placed(&mut self, id: &str, place: ApiResult<Permit>) {
        let Some(response) = self.response.as_mut().filter(|response| response.id == id) else {
            // It was cancelled meanwhile, and its place is free again.
            return;
        };
        match place {
            Ok(permit) => {
                response.permit = Some(permit);
                self.generate();
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Ends the present response with an error.
    fn fail(&mut self, error: &ApiError) {
        self.app.metrics.refuse(error.code);
        self.break_off(&Ending::Failed(error));
    }

    /// Generates the answer of the present response, if it has its place and the one before has ended.
    fn generate(&mut self) {
        if self.generating.is_some() {
            return;
        }
        let Some(response) = &mut self.response else { return };
        let Some(permit) = response.permit.take() else { return };
        let asked = response.question().and_then(|messages| Ok((messages, response.settings.options(&self.app)?)));
        response.input = Items::default();
        match asked.and_then(|(messages, options)| begin(self.session(), &messages, &options)) {
            Ok(answer) => self.begun(answer, permit),
            Err(error) => self.fail(&error),
        }
    }

    /// Has the answer of the present response read.
    fn begun(&mut self, answer: Answer, permit: Permit) {
        let Some(response) = &mut self.response else { return };
        response.reads(answer.prompt_tokens_by_kind());
        let (response, asked) = (response.id.clone(), response.asked);
        let prompt_tokens = answer.prompt_tokens();
        let held = (prompt_tokens, self.app.share_of_positions(prompt_tokens));
        self.generating = Some(Generating {
            canceller: answer.canceller(),
            clock: AnswerClock::new(self.app.metrics.clone(), asked, held),
            _permit: permit,
            _limit: self.after(self.app.config.request_time, Input::TimeOver(response.clone())),
            response,
            item: None,
        });
        if let Err(error) = read(answer, self.own.clone()) {
            tracing::error!(%error, "no thread for an answer");
            self.answer_ended();
        }
    }

    /// Tells this worker something after a time, unless what is returned is dropped before.
    pub(super) fn after(&self, time: Duration, news: Input) -> Waiting {
        let own = self.own.clone();
        let ends = self.runtime.spawn(async move {
            tokio::time::sleep(time).await;
            let _ = own.send(news).await;
        });
        Waiting(ends.abort_handle())
    }

    pub(super) fn time_over(&mut self, id: &str) {
        if self.response.as_ref().is_some_and(|response| response.id == id) {
            self.fail(&ApiError::too_slow(self.app.config.request_time));
        }
    }

    /// Takes an event of the answer.
    pub(super) fn event(&mut self, event: qwen3_omni::Result<Event>) {
        let Some(generating) = &mut self.generating else { return };
        if let Ok(event) = &event {
            generating.clock.observe(event);
        }
        if let (Ok(Event::Done(reply)), Some(id)) = (&event, &generating.item) {
            // Of a response that was cancelled.
            self.items.keep_reply(id, reply.clone());
            return;
        }
        let Some(response) = self.response.as_mut().filter(|response| response.id == generating.response) else {
            return;
        };
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
                let item = response.end(&self.app.omni, out, items, &Ending::Done(&reply));
                if let Some(id) = item {
                    items.keep_reply(&id, reply);
                }
                self.response = None;
            }
            Ok(_) => {}
            Err(error) => {
                generating.clock.fail();
                self.fail(&ApiError::of_answer(&error, &[]));
            }
        }
    }

    pub(super) fn answer_ended(&mut self) {
        let Some(mut ended) = self.generating.take() else { return };
        if self.response.as_ref().is_some_and(|response| response.id == ended.response) {
            tracing::error!("an answer ended before it was complete");
            ended.clock.fail();
            self.fail(&ApiError::internal());
        }
        drop(ended);
        // What was heard of the last answer decides what the next one reads.
        for text in std::mem::take(&mut self.deferred) {
            self.client(&text);
        }
        self.generate();
    }

    pub(super) fn cancel_response(&mut self, fields: &Fields) -> ApiResult<()> {
        let named = fields.string("response_id")?;
        let active = self.response.as_ref().is_some_and(|response| named.is_none_or(|id| id == response.id));
        if !active {
            let message = "there is no active response to cancel";
            return Err(ApiError::invalid("response_id", message).code("response_cancel_not_active"));
        }
        self.cancel("client_cancelled");
        Ok(())
    }

    pub(super) fn cancel(&mut self, reason: &'static str) {
        self.break_off(&Ending::Cancelled(reason));
    }

    /// Ends the response for the client at once; what still generates it stops after the step it is in.
    fn break_off(&mut self, ending: &Ending) {
        let Some(mut response) = self.response.take() else { return };
        let item = response.end(&self.app.omni, &self.out, &mut self.items, ending);
        // What is generated may belong to an earlier response, which was cancelled and keeps its item.
        if let Some(generating) = self.generating.as_mut().filter(|generating| generating.response == response.id) {
            generating.canceller.cancel();
            generating.item = item;
        }
    }
}

/// Begins an answer to these messages. What the session computed for those before is not computed again.
fn begin(session: &mut Session, messages: &[Message], options: &GenerateOptions) -> ApiResult<Answer> {
    session.truncate(0);
    messages.iter().for_each(|message| session.push(message.clone()));
    session.answer(options).map_err(|error| ApiError::of_answer(&error, messages).param("response"))
}

/// Reads an answer in a thread of its own; what it makes comes as inputs, and so does its end, even if the thread panics.
///
/// # Errors
/// If there is no thread for it.
pub(super) fn read(
    answer: impl Iterator<Item = qwen3_omni::Result<Event>> + Send + 'static,
    inputs: Sender<Input>,
) -> std::io::Result<()> {
    let reader = move || {
        // Dropped behind the answer.
        let reading = Reading(inputs);
        for event in answer {
            if reading.0.blocking_send(Input::Answer(event)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("realtime answer".into()).spawn(reader).map(drop)
}

/// Tells when it is dropped that an answer is read no longer.
struct Reading(Sender<Input>);

impl Drop for Reading {
    fn drop(&mut self) {
        // Without a session nobody waits for it.
        let _ = self.0.blocking_send(Input::AnswerEnded);
    }
}
