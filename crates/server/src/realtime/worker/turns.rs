//! The sound of a session: turns that are heard in it, or committed by the client.

use std::time::{Duration, Instant};

use qwen3_omni::Session;
use qwen3_omni::media::audio::SAMPLE_RATE;
use serde_json::json;

use super::Worker;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::ids;
use crate::realtime::ear::{CLIENT_RATE, Heard};
use crate::realtime::input::Input;
use crate::realtime::item::{Item, decode, heard, to_samples};
use crate::realtime::prefill::Prefill;

/// Seconds after which a turn is prefilled while it goes on: the window of the audio encoder, before which nothing can be.
const LONG_TURN: usize = 8;
/// Sound of a turn that is shorter is no turn.
const LEAST_TURN_MS: u64 = 100;
/// Time after a turn in which an answer to it is expected.
const EXPECTED: Duration = Duration::from_millis(500);

impl Worker {
    pub(super) fn append(&mut self, fields: &Fields) -> ApiResult<()> {
        let audio = fields.string("audio")?;
        let mut bytes = decode(fields.required("audio", audio)?, "audio")?;
        if let Some(half) = self.half.take() {
            bytes.insert(0, half);
        }
        if bytes.len() % 2 == 1 {
            self.half = bytes.pop();
        }
        self.check_room(bytes.len() / 2)?;
        let sound = self.ear.push(&to_samples(&bytes))?;
        self.hear(sound, fields.string("event_id")?);
        // What is being fetched will stand before this turn.
        if self.fetching.is_none() {
            self.listen();
        }
        Ok(())
    }

    /// Looks for turns in the sound that has come.
    pub(super) fn hear(&mut self, mut sound: Vec<f32>, cause: Option<&str>) {
        while let Some((found, rest)) = self.ear.search(sound) {
            match (found, &mut self.fetching) {
                (Heard::Started { start_ms }, _) => self.speech_started(start_ms),
                (Heard::Stopped { end_ms }, Some(fetching)) => return fetching.keep_stop(end_ms, rest),
                (Heard::Stopped { end_ms }, None) => self.turn_stopped(end_ms, Instant::now(), cause),
            }
            sound = rest;
        }
    }

    /// Ends a turn. Whether it can be kept or not, what comes behind it may be the next one.
    pub(super) fn turn_stopped(&mut self, end_ms: u64, ended: Instant, cause: Option<&str>) {
        if let Err(error) = self.speech_stopped(end_ms, ended) {
            self.out.error(&error, cause);
        }
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
    pub(super) fn end_prefill(&mut self) {
        if let Some(prefill) = self.prefill.take() {
            self.session = prefill.end();
        }
    }

    /// The session, which listens no longer.
    pub(super) fn session(&mut self) -> &mut Session {
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
            // What is being said now is answered with what was said before.
            self.unanswered = None;
            self.cancel("turn_detected");
        }
    }

    fn speech_stopped(&mut self, end_ms: u64, ended: Instant) -> ApiResult<()> {
        let id = self.turn.take().unwrap_or_else(|| ids::new("item_"));
        self.out.emit("input_audio_buffer.speech_stopped", json!({"audio_end_ms": end_ms, "item_id": id}));
        let sound = self.ear.take();
        self.commit_turn(id, sound)?;
        self.unanswered = self.answers_turns().then_some(ended);
        self.answer_turn();
        Ok(())
    }

    pub(super) fn commit(&mut self) -> ApiResult<()> {
        // Without turns being looked for all sound counts, otherwise only a turn that is going on.
        let idle = self.settings.turn_detection.is_some() && !self.ear.is_speaking();
        let buffered = if idle { 0 } else { self.ear.buffered_ms() };
        if buffered < LEAST_TURN_MS {
            let message = match idle {
                true => {
                    "no speech was found in the buffer, and only speech is a turn while turns are looked for".to_owned()
                }
                false => format!("the buffer holds {buffered} ms of sound, expected at least {LEAST_TURN_MS}"),
            };
            return Err(ApiError::invalid("audio", message).code("input_audio_buffer_commit_empty"));
        }
        self.half = None;
        let id = self.turn.take().unwrap_or_else(|| ids::new("item_"));
        let sound = self.ear.take();
        self.commit_turn(id, sound)
    }

    /// Makes sound a turn of the conversation. It is told and written down only if there is room for it.
    fn commit_turn(&mut self, id: String, sound: Vec<f32>) -> ApiResult<()> {
        let recording = heard(sound, SAMPLE_RATE, "audio")?;
        let item = Item::spoken(id.clone(), recording.clone());
        let shown = item.to_json();
        let previous = self.items.insert(item, None)?;
        self.out.emit("input_audio_buffer.committed", json!({"previous_item_id": previous, "item_id": id}));
        self.tell_of_item(previous.as_deref(), &shown);
        if self.settings.transcription.is_some() {
            self.unwritten.push_back((id, recording));
            if self.expected.is_none() {
                self.expected = Some(self.after(EXPECTED, Input::NotAsked));
            }
        }
        Ok(())
    }
}
