//! Pictures at addresses are fetched beside the session: it goes on hearing who speaks into an answer.

use std::collections::VecDeque;

use axum::extract::ws::Utf8Bytes;
use serde_json::Value;

use super::Worker;
use crate::body;
use crate::media::{Fetched, is_remote};
use crate::outbox::Taken;
use crate::realtime::input::Input;

/// What waits until the files of an event are there.
#[derive(Default)]
pub(super) struct Fetching {
    /// Events of the client, in order.
    events: VecDeque<(Utf8Bytes, Taken)>,
    /// The end of a turn, in milliseconds, and the sound behind it.
    stopped: Option<(u64, Vec<f32>)>,
}

impl Fetching {
    /// Whether an event is taken at once: one that the items of the conversation do not matter to, before any that waits.
    fn passes(&self, event: &Value) -> bool {
        let kind = event["type"].as_str().unwrap_or_default();
        let apart = ["input_audio_buffer.append", "output_audio_buffer.clear", "response.cancel"];
        apart.contains(&kind) && self.events.is_empty() && self.stopped.is_none()
    }

    /// Keeps the end of a turn: it stands behind the item whose files are fetched.
    pub(super) fn keep_stop(&mut self, end_ms: u64, rest: Vec<f32>) {
        self.stopped = Some((end_ms, rest));
    }
}

impl Worker {
    /// Takes an event of the client when its files are there, and those before it were.
    pub(super) fn client_in_turn(&mut self, text: Utf8Bytes, room: Taken) {
        let event = match body::parse(text.as_bytes()) {
            Ok(event) => event,
            Err(error) => return self.out.error(&error, None),
        };
        if let Some(fetching) = self.fetching.as_mut().filter(|fetching| !fetching.passes(&event)) {
            return fetching.events.push_back((text, room));
        }
        let addresses = addresses(&event);
        match addresses.is_empty() {
            true => self.event_of_client(&event, &text, Fetched::default()),
            false => self.fetch(text, room, addresses),
        }
    }

    fn fetch(&mut self, text: Utf8Bytes, room: Taken, addresses: Vec<(String, String)>) {
        self.fetching = Some(Fetching::default());
        let (app, own) = (self.app.clone(), self.own.clone());
        self.runtime.spawn_blocking(move || {
            let files = app.media.of_request().fetch_all(addresses);
            let _ = own.blocking_send(Input::Fetched(text, room, files));
        });
    }

    /// Takes the event whose files are there, then what waited for it.
    pub(super) fn fetched(&mut self, text: &str, files: Fetched) {
        let Some(Fetching { events, stopped }) = self.fetching.take() else { return };
        if let Ok(event) = body::parse(text.as_bytes()) {
            self.event_of_client(&event, text, files);
        }
        if let Some((end_ms, rest)) = stopped {
            self.turn_stopped(end_ms, None);
            self.hear(rest, None);
        }
        events.into_iter().for_each(|(text, room)| self.client_in_turn(text, room));
    }
}

/// The addresses from which the pictures of an event have to be fetched, each with the field that names it.
fn addresses(event: &Value) -> Vec<(String, String)> {
    let of_item = |(item, path): (&Value, String)| -> Vec<(String, String)> {
        let parts = item["content"].as_array().into_iter().flatten().enumerate();
        let remote =
            parts.filter_map(|(at, part)| Some((at, part["image_url"].as_str().filter(|url| is_remote(url))?)));
        remote.map(|(at, url)| (url.to_owned(), format!("{path}.content[{at}].image_url"))).collect()
    };
    match event["type"].as_str() {
        Some("conversation.item.create") => of_item((&event["item"], "item".into())),
        Some("response.create") => {
            let items = event["response"]["input"].as_array().into_iter().flatten().enumerate();
            items.flat_map(|(at, item)| of_item((item, format!("response.input[{at}]")))).collect()
        }
        _ => Vec::new(),
    }
}
