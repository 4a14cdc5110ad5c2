//! The parsers of requests and events alone, for tests that feed them arbitrary input: nothing is answered.

use tokio::sync::mpsc::channel;

use crate::Server;
use crate::audio::{check_speech, check_speech_events};
use crate::chat::ChatRequest;
use crate::error::ApiError;
use crate::outbox::Outbox;
use crate::realtime::Worker;

/// Reads the body of a request for a chat completion.
pub fn chat(server: &Server, body: &[u8]) -> Result<(), u16> {
    ChatRequest::read(&server.app, body, &server.app.media.of_request()).map(drop).map_err(status)
}

/// Reads the body of a request for speech.
pub fn speech(server: &Server, body: &[u8]) -> Result<(), u16> {
    check_speech(&server.app, body).map_err(status)
}

/// Reads the text frames of a session that reads text aloud as it comes, one a line, and returns the number of things they ask for.
pub fn speech_events(server: &Server, frames: &str) -> usize {
    check_speech_events(&server.app, frames.lines())
}

/// Takes text frames of a realtime session, one a line, and returns the number of events that answer them. Must be called within a
/// runtime, from a thread that may block.
pub fn events(server: &Server, frames: &str) -> usize {
    /// More than any input of a test makes.
    const EVENTS: usize = 1 << 16;
    let ((inputs, received), (outbox, mut outputs)) = (channel(EVENTS), Outbox::holding(EVENTS));
    let mut worker = Worker::new(server.app.clone(), inputs, received, outbox);
    frames.lines().for_each(|frame| worker.client(frame));
    drop(worker);
    std::iter::from_fn(|| outputs.try_recv().ok()).count()
}

fn status(error: ApiError) -> u16 {
    error.status.as_u16()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::Config;

    fn server() -> &'static Server {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            let omni = qwen3_omni::Omni::builder(testkit::nano()).load().unwrap();
            Server::new(omni, Config::default().model_name("nano"))
        })
    }

    fn chats() -> Vec<Value> {
        let tool = json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}});
        let picture = std::fs::read(testkit::nano().join("../nano-samples/picture_one.png")).unwrap();
        let picture = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, picture);
        vec![
            json!({"model": "nano", "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
                "temperature": 1, "top_p": 0.5, "stop": ["x"], "n": 2, "seed": 3, "stream": true,
                "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 2, "logit_bias": {"3": 1}}),
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{picture}")}},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}]}],
                "modalities": ["text", "audio"], "audio": {"voice": {"id": "chelsie"}, "format": "wav"}}),
            json!({"messages": [{"role": "user", "content": "a"},
                {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function",
                    "function": {"name": "look", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "b"}], "tools": [tool], "tool_choice": "auto",
                "response_format": {"type": "json_object"}}),
        ]
    }

    fn frames() -> Vec<Value> {
        vec![
            json!({"type": "session.update", "session": {"type": "realtime", "instructions": "a",
                "audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}, "transcription": {}},
                    "output": {"voice": "ethan"}}, "tools": [{"type": "function", "name": "look"}],
                "tool_choice": {"type": "function", "name": "look"}, "max_output_tokens": "inf"}}),
            json!({"type": "input_audio_buffer.append", "audio": "AAAAAAAA", "event_id": "e"}),
            json!({"type": "input_audio_buffer.commit"}),
            json!({"type": "conversation.item.create", "previous_item_id": "root", "item": {"id": "i", "type": "message",
                "role": "user", "content": [{"type": "input_text", "text": "a"}]}}),
            json!({"type": "conversation.item.truncate", "item_id": "i", "content_index": 0, "audio_end_ms": 5}),
            json!({"type": "response.create", "response": {"conversation": "none", "input":
                [{"type": "item_reference", "id": "i"}], "output_modalities": ["text"], "metadata": {}}}),
            json!({"type": "response.cancel", "response_id": "r"}),
        ]
    }

    /// Puts another value in the place that a walk through `value` ends at.
    fn damage(value: &mut Value, mut walk: impl Iterator<Item = usize>, other: Value) {
        let step = walk.next().unwrap_or(0);
        let inner = match value {
            Value::Array(list) if !list.is_empty() && step % 4 != 3 => {
                let at = step % list.len();
                list.get_mut(at)
            }
            Value::Object(object) if !object.is_empty() && step % 4 != 3 => {
                let at = step % object.len();
                object.values_mut().nth(at)
            }
            _ => None,
        };
        match inner {
            Some(inner) => damage(inner, walk, other),
            None => *value = other,
        }
    }

    fn other() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z\u{e9}:/,%{}]{0,12}".prop_map(Value::from),
            Just(json!([])),
            Just(json!({})),
            Just(json!(["text", 1, null])),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn a_damaged_request_is_read_or_refused(
            which in 0usize..3,
            walk in proptest::collection::vec(0usize..12, 8),
            other in other(),
        ) {
            let mut body = chats().swap_remove(which);
            damage(&mut body, walk.into_iter(), other);
            let read = chat(server(), body.to_string().as_bytes());
            prop_assert!(matches!(read, Ok(()) | Err(400 | 404)), "{body}: {read:?}");
        }

        #[test]
        fn a_damaged_event_is_answered(
            which in 0usize..7,
            walk in proptest::collection::vec(0usize..12, 8),
            other in other(),
        ) {
            static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
            let _within = RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap()).enter();
            let mut all = frames();
            damage(&mut all[which], walk.into_iter(), other);
            let lines: Vec<String> = all.iter().map(Value::to_string).collect();
            // Each event but `append` is answered with one event at least.
            prop_assert!(events(server(), &lines.join("\n")) >= all.len() - 1);
        }

        #[test]
        fn a_damaged_event_of_a_text_is_read_or_refused(
            which in 0usize..3,
            walk in proptest::collection::vec(0usize..12, 8),
            other in other(),
        ) {
            let mut all = [
                json!({"type": "session.config", "voice": "ethan", "response_format": "pcm", "stream_audio": true}),
                json!({"type": "input.text", "text": "a! b? c"}),
                json!({"type": "input.done"}),
            ];
            damage(&mut all[which], walk.into_iter(), other);
            let lines = all.map(|event| event.to_string()).join("\n");
            // Two sentences, the rest, and the end; or less text, or errors.
            prop_assert!((1..=4).contains(&speech_events(server(), &lines)), "{lines}");
        }

        #[test]
        fn any_bytes_are_no_request_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(chat(server(), &bytes), Err(400));
            prop_assert_eq!(speech(server(), &bytes), Err(400));
        }
    }

    #[test]
    fn undamaged_requests_are_read() {
        for body in chats() {
            assert_eq!(chat(server(), body.to_string().as_bytes()), Ok(()), "{body}");
        }
        assert_eq!(speech(server(), br#"{"input": "a", "voice": "ethan"}"#), Ok(()));
    }
}
