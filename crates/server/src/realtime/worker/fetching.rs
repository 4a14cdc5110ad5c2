//! Fetches pictures beside the session's thread, which meanwhile hears a person who speaks into an answer.

use std::collections::VecDeque;
use std::time::Instant;

use axum::extract::ws::Utf8Bytes;
use serde_json::Value;
use tracing::Instrument;

use super::Worker;
use crate::app::blocking;
use crate::body;
use crate::error::ApiResult;
use crate::media::{Awaited, Fetched, is_remote};
use crate::outbox::Taken;
use crate::realtime::answer::Waiting;
use crate::realtime::input::Input;

/// What waits until the files of an event are there.
pub(super) struct Fetching {
    /// Whether they are for an item: then sound goes on being heard.
    for_item: bool,
    /// Events of the client, in order.
    events: VecDeque<(Utf8Bytes, Taken)>,
    /// The end of a turn.
    stopped: Option<Stopped>,
    _task: Waiting,
    /// Ends the fetching when the session ends.
    _awaited: Awaited,
}

/// A turn that has ended behind the item whose files are fetched.
struct Stopped {
    end_ms: u64,
    at: Instant,
    /// The sound behind it.
    rest: Vec<f32>,
}

impl Fetching {
    /// Whether an event is handled at once: it does not touch the items, and nothing waits before it.
    fn passes(&self, event: &Value) -> bool {
        let kind = event["type"].as_str().unwrap_or_default();
        let apart = ["input_audio_buffer.append", "output_audio_buffer.clear", "response.cancel"];
        apart.contains(&kind) && self.for_item && self.events.is_empty() && self.stopped.is_none()
    }

    /// Keeps the end of a turn.
    pub(super) fn keep_stop(&mut self, end_ms: u64, rest: Vec<f32>) {
        self.stopped = Some(Stopped { end_ms, at: Instant::now(), rest });
    }
}

impl Worker {
    /// Handles an event of the client once its files are there and all events before it are done.
    pub(super) fn client_in_turn(&mut self, text: Utf8Bytes, room: Taken) {
        let event = match body::parse(text.as_bytes()) {
            Ok(event) => event,
            Err(error) => return self.out.error(&error, None),
        };
        if let Some(fetching) = self.fetching.as_mut().filter(|fetching| !fetching.passes(&event)) {
            return fetching.events.push_back((text, room));
        }
        let for_item = event["type"] == "conversation.item.create";
        // An answer that is refused needs no files.
        let addresses = if for_item || self.response.is_none() { addresses(&event) } else { Vec::new() };
        match addresses.is_empty() {
            true => self.event_of_client(&event, &text, Fetched::default()),
            false => self.fetch(for_item, (text, room), addresses),
        }
    }

    fn fetch(&mut self, for_item: bool, (text, room): (Utf8Bytes, Taken), addresses: Vec<(String, String)>) {
        let (app, own) = (self.app.clone(), self.own.clone());
        let awaited = Awaited::default();
        let over = awaited.over();
        let fetch = async move {
            let files = blocking(move || app.media.of_request().until(over).fetch_all(addresses)).await;
            let _ = own.send(Input::Fetched(text, room, files)).await;
        };
        let task = Waiting(self.runtime.spawn(fetch.in_current_span()).abort_handle());
        self.fetching =
            Some(Fetching { for_item, events: VecDeque::new(), stopped: None, _task: task, _awaited: awaited });
    }

    /// Handles the event whose files are there, then what waited for it.
    pub(super) fn fetched(&mut self, text: &str, files: ApiResult<Fetched>) {
        let Some(Fetching { mut events, stopped, .. }) = self.fetching.take() else { return };
        if let Ok(event) = body::parse(text.as_bytes()) {
            match files {
                Ok(files) => self.event_of_client(&event, text, files),
                Err(error) => self.out.error(&error, event["event_id"].as_str()),
            }
        }
        if let Some(Stopped { end_ms, at, rest }) = stopped {
            self.turn_stopped(end_ms, at, None);
            self.hear(rest, None);
        }
        while let Some((text, room)) = events.pop_front() {
            self.client_in_turn(text, room);
            if let Some(fetching) = &mut self.fetching {
                fetching.events.append(&mut events);
            }
        }
    }
}

/// The addresses from which the pictures of an event have to be fetched, each with the field that names it.
fn addresses(event: &Value) -> Vec<(String, String)> {
    let of_item = |(item, path): (&Value, String)| -> Vec<(String, String)> {
        let parts = item["content"].as_array().into_iter().flatten().enumerate();
        let pictures = parts.filter(|(_, part)| part["type"] == "input_image");
        let remote = pictures.filter_map(|(at, part)| Some((at, part["image_url"].as_str()?)));
        let remote = remote.filter(|(_, url)| is_remote(url));
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
