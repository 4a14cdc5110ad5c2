//! Conversations by voice.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::{SinkExt, StreamExt};
use qwen3_omni::media::audio::read_at;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::{ANSWER, KEY, Running, SUM, config};

pub(crate) struct Talk<'a> {
    server: &'a Running,
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) seen: Vec<Value>,
}

const PATH: &str = "/v1/realtime?model=nano";

fn connect(
    server: &Running,
    path: &str,
    headers: &[(&'static str, &'static str)],
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Error> {
    let mut request = format!("ws://{}{path}", server.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    server.runtime.block_on(connect_async(request)).map(|(socket, _)| socket)
}

impl<'a> Talk<'a> {
    pub(crate) fn new(server: &'a Running) -> Self {
        let mut talk = Self::at(server, PATH);
        talk.until("session.created");
        talk
    }

    /// Opens a session of another kind.
    pub(crate) fn at(server: &'a Running, path: &str) -> Self {
        Self { server, socket: connect(server, path, &[]).unwrap(), seen: Vec::new() }
    }

    pub(crate) fn send(&mut self, kind: &str, mut event: Value) {
        event["type"] = json!(kind);
        self.send_frame(Message::text(event.to_string()));
    }

    pub(crate) fn send_frame(&mut self, frame: Message) {
        self.server.runtime.block_on(self.socket.send(frame)).unwrap();
    }

    /// The next frame but for pings.
    pub(crate) fn next(&mut self) -> Message {
        // Pings do not put it off.
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let next = async { tokio::time::timeout_at(end, self.socket.next()).await };
            let next = self.server.runtime.block_on(next).expect("an event in time");
            match next.expect("an open connection").unwrap() {
                Message::Ping(_) => {}
                frame => return frame,
            }
        }
    }

    /// Reads events up to one of this type.
    pub(crate) fn until(&mut self, kind: &str) -> Value {
        self.either(kind, kind)
    }

    /// Reads events up to one of either type.
    pub(crate) fn either(&mut self, one: &str, other: &str) -> Value {
        loop {
            let Message::Text(text) = self.next() else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            self.seen.push(event.clone());
            if event["type"] == one || event["type"] == other {
                return event;
            }
            assert_ne!(event["type"], "error", "{event}");
        }
    }

    pub(crate) fn error(&mut self) -> Value {
        self.until("error")["error"].clone()
    }

    pub(crate) fn configure(&mut self, mut session: Value) -> Value {
        session["type"] = json!("realtime");
        self.send("session.update", json!({ "session": session }));
        self.until("session.updated")["session"].clone()
    }

    pub(crate) fn say(&mut self, text: &str) {
        let content = json!([{"type": "input_text", "text": text}]);
        self.send("conversation.item.create", json!({"item": {"type": "message", "role": "user", "content": content}}));
        self.until("conversation.item.done");
    }

    pub(crate) fn ask(&mut self) -> Value {
        self.send("response.create", json!({}));
        self.until("response.done")["response"].clone()
    }

    pub(crate) fn send_sound(&mut self, samples: &[f32], piece: usize) {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| ((sample * 32767.0) as i16).to_le_bytes()).collect();
        for piece in bytes.chunks(piece) {
            self.send("input_audio_buffer.append", json!({"audio": BASE64_STANDARD.encode(piece)}));
        }
    }

    pub(crate) fn types(&self) -> Vec<&str> {
        self.seen.iter().filter_map(|event| event["type"].as_str()).collect()
    }
}

/// A recording at 24 kHz with silence around it.
pub(crate) fn spoken(name: &str, before: f32, after: f32) -> Vec<f32> {
    let file = testkit::nano().join("../nano-samples").join(name);
    let silence = |seconds: f32| vec![0.0; (seconds * 24_000.0) as usize];
    [silence(before), read_at(&file.into(), 24_000).unwrap(), silence(after)].concat()
}

pub(crate) fn words(response: &Value) -> &str {
    response["output"][0]["content"][0]["transcript"].as_str().unwrap_or_default()
}

#[test]
fn a_turn_is_noticed_in_pieces_that_end_inside_a_sample() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    talk.send_sound(&spoken("spoken_sum_question.wav", 0.5, 2.0), 4801);
    let response = talk.until("response.done")["response"].clone();
    assert_eq!((response["status"].as_str(), words(&response)), (Some("completed"), "five plus seven is twelve"));
    let place = |kind| talk.types().iter().position(|seen| *seen == kind).expect(kind);
    let order = [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ];
    assert!(order.map(place).is_sorted(), "{:?}", talk.types());
    assert!(
        server
            .get("/metrics")
            .1
            .as_str()
            .unwrap()
            .contains("omni:realtime_turn_latency_seconds_count{model_name=\"nano\"} 1")
    );
}

#[test]
fn a_long_turn_is_computed_while_it_is_spoken() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    // Words without a pause that would end the turn, for about twenty seconds.
    let words: Vec<f32> = (0..10).flat_map(|_| spoken("spoken_sum_question.wav", 0.0, 0.0)).collect();
    talk.send_sound(&[&words[..], &vec![0.0; 48_000]].concat(), 4800);
    let response = talk.until("response.done")["response"].clone();
    assert_eq!(response["status"], "completed", "{response}");
    let input = &response["usage"]["input_token_details"];
    // Two windows of 8 seconds, 13 tokens a second.
    assert!(
        input["audio_tokens"].as_u64().unwrap() > 220 && input["cached_tokens"].as_u64().unwrap() >= 200,
        "{input}"
    );
}

#[test]
fn speech_interrupts_an_answer_and_nothing_of_it_comes_afterwards() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    // Long enough that it is still being made.
    talk.configure(json!({"audio": {"output": {"voice": "ethan"}}}));
    talk.say("repeat red cat nine");
    talk.send("response.create", json!({}));
    talk.send_sound(&spoken("spoken_sum_question.wav", 0.1, 2.0), 48_000);
    talk.until("input_audio_buffer.speech_started");
    let started = talk.seen.len();
    let first = talk.seen.iter().find(|event| event["type"] == "response.created").unwrap()["response"]["id"].clone();
    talk.until("input_audio_buffer.committed");
    let second = talk.until("response.created")["response"]["id"].clone();
    assert_ne!(first, second);
    let done = talk.until("response.done")["response"].clone();
    assert_eq!((&done["id"], words(&done)), (&second, "five plus seven is twelve"));
    let late = talk.seen[started..].iter().any(|event| event["response_id"] == first && event["delta"].is_string());
    assert!(!late, "{:?}", talk.types());
}

#[test]
fn a_cut_answer_is_what_the_model_remembers_and_what_is_beyond_it_is_refused() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    talk.say(SUM);
    let response = talk.ask();
    let (id, all) = (response["output"][0]["id"].clone(), words(&response).to_owned());
    assert_eq!(all, ANSWER);
    let cut = |talk: &mut Talk, ms: u64| {
        talk.send("conversation.item.truncate", json!({"item_id": id, "content_index": 0, "audio_end_ms": ms}));
    };
    cut(&mut talk, 600);
    talk.until("conversation.item.truncated");
    talk.send("conversation.item.retrieve", json!({"item_id": id}));
    let kept = talk.until("conversation.item.retrieved")["item"]["content"][0]["transcript"].clone();
    let kept = kept.as_str().unwrap();
    assert!(all.starts_with(kept) && kept.len() < all.len(), "{kept}");
    // It was cut already.
    cut(&mut talk, 601 + 1);
    assert_eq!(talk.error()["param"], "audio_end_ms");
    cut(&mut talk, 0);
    talk.until("conversation.item.truncated");
    talk.send("conversation.item.delete", json!({"item_id": id}));
    talk.until("conversation.item.deleted");
    cut(&mut talk, 0);
    assert_eq!(talk.error()["param"], "item_id");
}

#[test]
fn what_was_not_heard_of_a_cancelled_answer_is_not_read_by_the_next() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    talk.say(SUM);
    talk.send("response.create", json!({}));
    let item = talk.until("response.output_audio.delta")["item_id"].clone();
    talk.send("response.cancel", json!({}));
    talk.send("conversation.item.truncate", json!({"item_id": item, "content_index": 0, "audio_end_ms": 0}));
    let content = json!([{"type": "input_text", "text": "repeat red cat nine"}]);
    talk.send("conversation.item.create", json!({"item": {"type": "message", "role": "user", "content": content}}));
    talk.send("response.create", json!({}));
    let cut = talk.until("response.done")["response"].clone();
    let next = if cut["status"] == "cancelled" { talk.until("response.done")["response"].clone() } else { cut };
    let mut fresh = Talk::new(&server);
    fresh.say(SUM);
    fresh.say("repeat red cat nine");
    assert_eq!(next["usage"]["input_tokens"], fresh.ask()["usage"]["input_tokens"]);
}

#[test]
fn an_answer_can_be_cut_after_two_interruptions() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    talk.say(SUM);
    talk.send("response.create", json!({}));
    let item = talk.until("response.output_audio.delta")["item_id"].clone();
    // The second is cancelled while the first may still end.
    for event in ["response.cancel", "response.create", "response.cancel"] {
        talk.send(event, json!({}));
    }
    talk.send("conversation.item.truncate", json!({"item_id": item, "content_index": 0, "audio_end_ms": 0}));
    while talk.seen.last().is_none_or(|event| event["type"] != "conversation.item.truncated") {
        let Message::Text(text) = talk.next() else { continue };
        let event: Value = serde_json::from_str(&text).unwrap();
        // A small model may be faster than its cancellation.
        assert!(event["type"] != "error" || event["error"]["code"] == "response_cancel_not_active", "{event}");
        talk.seen.push(event);
    }
}

#[test]
fn cancelled_responses_keep_nobody_waiting() {
    let server = Running::new(config().max_answers(1).max_waiting(2));
    let busy = server.endless();
    server.wait_until(|| server.server.running() == 1);
    let mut talk = Talk::new(&server);
    talk.say(SUM);
    for _ in 0..6 {
        talk.send("response.create", json!({}));
        talk.send("response.cancel", json!({}));
        assert_eq!(talk.until("response.done")["response"]["usage"]["total_tokens"], 0);
    }
    assert!(server.server.running() <= 1 + 1, "cancelled responses wait");
    drop(busy);
}

#[test]
fn an_answer_outside_the_conversation_leaves_no_trace() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    talk.say("repeat red cat nine");
    let content = json!([{"type": "input_text", "text": SUM}]);
    let input = json!([{"type": "message", "role": "user", "content": content}]);
    let asked = json!({"conversation": "none", "input": input, "output_modalities": ["text"], "metadata": {"a": "b"}});
    talk.send("response.create", json!({ "response": asked }));
    let before = talk.seen.len();
    let response = talk.until("response.done")["response"].clone();
    assert_eq!(response["output"][0]["content"][0]["text"], ANSWER);
    assert!(response["conversation_id"].is_null() && response["metadata"]["a"] == "b");
    assert!(talk.seen[before..].iter().all(|event| !event["type"].as_str().unwrap().starts_with("conversation.")));
    assert_eq!(words(&talk.ask()), "red cat nine");
}

#[test]
fn errors_name_their_event_and_change_nothing() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    let wrong = [
        ("no.such.event", json!({}), "type"),
        ("input_audio_buffer.append", json!({"audio": "%%"}), "audio"),
        ("input_audio_buffer.commit", json!({}), "audio"),
        (
            "session.update",
            json!({"session": {"type": "realtime", "audio": {"output": {"voice": "nobody"}}}}),
            "session.audio.output.voice",
        ),
        ("session.update", json!({"session": {"output_modalities": ["text", "audio"]}}), "session.output_modalities"),
        (
            "session.update",
            json!({"session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}}),
            "session.audio.input.format.type",
        ),
        ("session.update", json!({"session": {"max_output_tokens": 0}}), "session.max_output_tokens"),
        (
            "conversation.item.create",
            json!({"item": {"type": "message", "role": "user", "content": []}}),
            "item.content",
        ),
        (
            "conversation.item.create",
            json!({"previous_item_id": "x", "item": {"type": "function_call_output", "call_id": "c", "output": "o"}}),
            "previous_item_id",
        ),
        ("conversation.item.retrieve", json!({"item_id": "x"}), "item_id"),
        ("session.update", json!({"session": {"truncation": 5}}), "session.truncation"),
        ("session.update", json!({"session": {"truncation": "nonsense"}}), "session.truncation"),
        ("session.update", json!({"session": {"truncation": {"type": 1}}}), "session.truncation.type"),
        ("session.update", json!({"session": {"tracing": 5}}), "session.tracing"),
        ("session.update", json!({"session": {"tracing": {"group_id": 5}}}), "session.tracing.group_id"),
        ("session.update", json!({"session": {"include": [5]}}), "session.include[0]"),
        ("session.update", json!({"session": {"prompt": {"id": 5}}}), "session.prompt.id"),
        (
            "session.update",
            json!({"session": {"audio": {"input": {"noise_reduction": {"type": "far"}}}}}),
            "session.audio.input.noise_reduction.type",
        ),
        ("response.create", json!({"response": {"tool_choice": "required"}}), "response.tool_choice"),
        ("response.cancel", json!({}), "response_id"),
    ];
    let before = talk.configure(json!({"instructions": "be kind"}));
    for (index, (kind, mut event, param)) in wrong.into_iter().enumerate() {
        event["event_id"] = json!(format!("mine_{index}"));
        talk.send(kind, event);
        let error = talk.error();
        assert_eq!(
            (error["param"].as_str(), error["event_id"].as_str()),
            (Some(param), Some(format!("mine_{index}").as_str())),
            "{kind}"
        );
    }
    talk.send_frame(Message::text("{"));
    assert_eq!(talk.error()["code"], "invalid_json");
    talk.send_frame(Message::binary(vec![1, 2, 3]));
    talk.error();
    assert_eq!(talk.configure(json!({})), before);
    talk.say(SUM);
    assert_eq!(words(&talk.ask()), ANSWER);
}

#[test]
fn sessions_are_bounded_in_number_in_time_and_in_the_size_of_a_frame() {
    let server = Running::new(config().max_sessions(1).session_time(Duration::from_secs(4)));
    let mut talk = Talk::new(&server);
    let refused = connect(&server, PATH, &[]);
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 429));
    assert_eq!(talk.error()["code"], "session_expired");
    let Message::Close(Some(close)) = talk.next() else { panic!("it is not closed") };
    assert_eq!(close.code, CloseCode::Away);
    drop(talk);
    let mut next = loop {
        // The place is free a moment later.
        if let Ok(socket) = connect(&server, PATH, &[]) {
            break Talk { server: &server, socket, seen: Vec::new() };
        }
    };
    next.send_frame(Message::text("a".repeat(17 << 20)));
    loop {
        if let Message::Close(Some(close)) = next.next() {
            assert_eq!(close.code, CloseCode::Size);
            break;
        }
    }
}

#[test]
fn an_answer_whose_time_is_over_has_failed_and_the_session_goes_on() {
    let server = Running::new(config().request_time(Duration::ZERO));
    let mut talk = Talk::new(&server);
    // Long to read, so that no answer is complete before its time is over, however busy the machine.
    talk.say(&"seven plus five ".repeat(1000));
    for _ in 0..2 {
        let response = talk.ask();
        let details = &response["status_details"];
        assert_eq!((response["status"].as_str(), details["error"]["code"].as_str()), (Some("failed"), Some("timeout")));
        assert!(response["usage"]["input_token_details"]["text_tokens"].as_u64() > Some(1000), "{response}");
    }
}

#[test]
fn draining_closes_sessions_with_a_word() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    server.server.drain();
    assert_eq!(talk.error()["code"], "shutting_down");
    assert!(matches!(talk.next(), Message::Close(Some(close)) if close.code == CloseCode::Away));
    assert!(matches!(connect(&server, PATH, &[]), Err(Error::Http(response)) if response.status() == 503));
}

#[test]
fn pages_of_other_origins_cannot_open_a_session() {
    let server = Running::new(config());
    let refused = connect(&server, PATH, &[("origin", "http://evil.example")]);
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 403));
}
