//! When the answers of a session come, and what they answer.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::realtime::{Talk, spoken, words};
use crate::{ANSWER, Running, SUM, config};

/// A server whose only place is taken until the connection is dropped.
fn busy() -> (Running, std::net::TcpStream) {
    let server = Running::new(config().max_answers(1));
    let busy = server.endless();
    server.wait_until(|| server.server.running() == 1);
    (server, busy)
}

fn system(text: &str) -> Value {
    json!({"item": {"type": "message", "role": "system", "content": [{"type": "input_text", "text": text}]}})
}

#[test]
fn a_turn_that_ends_during_an_answer_is_answered_after_it() {
    let (server, busy) = busy();
    let mut talk = Talk::new(&server);
    talk.configure(
        json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "interrupt_response": false}}}}),
    );
    talk.say(SUM);
    let asked = talk.seen.last().unwrap()["item"]["id"].clone();
    talk.send("response.create", json!({}));
    talk.send_sound(&spoken("spoken_sum_question.wav", 0.1, 2.0), 48_000);
    talk.until("input_audio_buffer.committed");
    drop(busy);
    // The first answers what was there when it was asked for, and stands behind it.
    assert_eq!(talk.until("response.output_item.added")["output_index"], 0);
    assert_eq!(talk.until("conversation.item.added")["previous_item_id"], asked);
    let first = talk.until("response.done")["response"].clone();
    assert_eq!(words(&first), ANSWER);
    let second = talk.until("response.done")["response"].clone();
    assert_eq!(second["status"], "completed", "{second}");
    assert_ne!(first["id"], second["id"]);
    assert!(second["usage"]["input_token_details"]["audio_tokens"].as_u64() > Some(10), "{second}");
}

#[test]
fn a_committed_turn_is_written_down_after_the_first_sound_of_its_answer() {
    let server = Running::new(config().max_answers(1));
    let mut talk = Talk::new(&server);
    let transcription = json!({"model": "nano", "prompt": "what did i say"});
    talk.configure(json!({"audio": {"input": {"turn_detection": null, "transcription": transcription}}}));
    talk.send_sound(&spoken("spoken_words_question.wav", 0.0, 0.0), 48_000);
    // Both lie in the server's hands before either is looked at.
    let events = ["input_audio_buffer.commit", "response.create"].map(|kind| json!({"type": kind}).to_string());
    server.runtime.block_on(async {
        for event in events {
            talk.socket.feed(Message::text(event)).await.unwrap();
        }
        talk.socket.flush().await.unwrap();
    });
    let done = talk.until("conversation.item.input_audio_transcription.completed");
    assert_eq!(done["transcript"], "you said three eight purple");
    let place = |kind: &str| talk.types().iter().position(|seen| seen.starts_with(kind)).expect(kind);
    let transcript = place("conversation.item.input_audio_transcription");
    assert!(place("response.output_audio.delta") < transcript, "{:?}", talk.types());
    // Without an answer it is not waited for.
    talk.send_sound(&spoken("spoken_words_question.wav", 0.0, 0.0), 48_000);
    talk.send("input_audio_buffer.commit", json!({}));
    talk.until("conversation.item.input_audio_transcription.completed");
}

#[test]
fn an_answer_reads_what_was_there_when_it_was_asked_for() {
    let (server, busy) = busy();
    let mut talk = Talk::new(&server);
    talk.say(SUM);
    let asked = talk.seen.last().unwrap()["item"]["id"].clone();
    talk.send("response.create", json!({}));
    talk.send("conversation.item.delete", json!({"item_id": asked}));
    talk.until("conversation.item.deleted");
    drop(busy);
    assert_eq!(words(&talk.until("response.done")["response"]), ANSWER);
}

#[test]
fn instructions_alone_are_answered_and_so_is_a_question_twice() {
    let server = Running::new(config());
    let mut talk = Talk::new(&server);
    talk.send("response.create", json!({}));
    assert_eq!(talk.error()["param"], "response");
    talk.send("response.create", json!({"response": {"instructions": SUM}}));
    assert_eq!(words(&talk.until("response.done")["response"]), ANSWER);
    talk.send("conversation.item.create", system("repeat red cat nine"));
    talk.until("conversation.item.done");
    for _ in 0..2 {
        assert_eq!(words(&talk.ask()), "red cat nine");
    }
    let call = json!({"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"});
    talk.send("conversation.item.create", json!({ "item": call }));
    talk.until("conversation.item.done");
    talk.send("response.create", json!({}));
    let error = talk.error();
    assert!(error["message"].as_str().unwrap().contains("function_call_output"), "{error}");
}

#[test]
fn answers_of_sessions_that_are_refused_are_counted() {
    let server = Running::new(config().max_answers(1).max_waiting(0));
    let busy = server.endless();
    server.wait_until(|| server.server.running() == 1);
    let mut talk = Talk::new(&server);
    talk.say(SUM);
    assert_eq!(talk.ask()["status_details"]["error"]["code"], "rate_limit_exceeded");
    let mut reader = Talk::at(&server, "/v1/audio/speech/stream");
    for event in [json!({"type": "session.config"}), json!({"type": "input.text", "text": "red cat! b"})] {
        reader.send_frame(Message::text(event.to_string()));
    }
    assert_eq!(reader.until("error")["code"], "rate_limit_exceeded");
    let metrics = server.get("/metrics").1;
    let counted = "omni:requests_refused_total{code=\"rate_limit_exceeded\",model_name=\"nano\"} 2";
    assert!(metrics.as_str().unwrap().contains(counted), "{metrics}");
    drop(busy);
}
