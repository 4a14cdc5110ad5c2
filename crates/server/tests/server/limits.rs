//! What a session may make the server hold.

use std::time::Duration;

use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::realtime::Talk;
use crate::{Running, SUM, config};

#[test]
fn a_client_that_does_not_read_is_not_read_from_and_loses_nothing() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    let event = json!({"type": "session.update", "session": {"instructions": "a".repeat(4 << 20)}}).to_string();
    // More than may wait, and less than in number.
    let most = 60;
    let mut sent = 0;
    let sends = async {
        while sent < most {
            sent += 1;
            let send = talk.socket.send(Message::text(event.clone()));
            if tokio::time::timeout(Duration::from_secs(2), send).await.is_err() {
                return;
            }
        }
    };
    server.runtime.block_on(sends);
    assert!(sent < most, "all were taken");
    for _ in 0..sent {
        // Reading also sends what is left of the last one.
        talk.until("session.updated");
        talk.seen.clear();
    }
    talk.say(SUM);
}

#[test]
fn all_that_items_hold_is_counted() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    // A number takes more room in memory than in the text.
    let arguments = json!({"a": vec![0; 1 << 18]}).to_string();
    let call = json!({"type": "function_call", "call_id": "c", "name": "look", "arguments": arguments});
    let full = (0..40).any(|_| {
        talk.send("conversation.item.create", json!({ "item": call }));
        talk.either("conversation.item.done", "error")["error"]["code"] == "conversation_full"
    });
    assert!(full);
    let long = "a".repeat(7 << 20);
    for settings in [json!({"instructions": long}), json!({"prompt": {"variables": {"a": long}}})] {
        talk.configure(settings);
    }
    talk.send("session.update", json!({"session": {"tracing": {"metadata": {"a": long}}}}));
    assert_eq!(talk.error()["param"], "session");
}

#[test]
fn a_client_that_writes_faster_than_is_read_aloud_is_not_read_from() {
    let server = Running::new(config());
    let mut talk = Talk::at(&server, "/v1/audio/speech/stream");
    talk.send("session.config", json!({}));
    let text = json!({"type": "input.text", "text": "red cat! ".repeat(110_000)}).to_string();
    let sends = async {
        for sent in 0..100 {
            let send = talk.socket.send(Message::text(text.clone()));
            if tokio::time::timeout(Duration::from_secs(2), send).await.is_err() {
                return Some(sent);
            }
        }
        None
    };
    assert!(server.runtime.block_on(sends).is_some(), "all were taken");
}
