//! Texts read aloud while they are written.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::realtime::Talk;
use crate::{Running, config};

/// Opens a session, sends events, and reads it to its end: events in text frames, and the bytes between them.
fn talk(server: &Running, events: &[Value]) -> (Vec<Value>, Vec<Vec<u8>>, Option<CloseCode>) {
    let mut talk = Talk::at(server, "/v1/audio/speech/stream");
    for event in events {
        talk.send_frame(Message::text(event.to_string()));
    }
    let (mut seen, mut files, mut open) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match talk.next() {
            Message::Text(text) => {
                seen.push(serde_json::from_str::<Value>(&text).unwrap());
                if seen.last().unwrap()["type"] == "audio.done" {
                    files.push(std::mem::take(&mut open));
                }
            }
            Message::Binary(bytes) => open.extend(bytes),
            Message::Close(close) => return (seen, files, close.map(|close| close.code)),
            _ => {}
        }
    }
}

fn text(text: &str) -> Value {
    json!({"type": "input.text", "text": text})
}

fn types(seen: &[Value]) -> Vec<&str> {
    seen.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[test]
fn sentences_are_read_as_they_are_complete() {
    let server = Running::new(config());
    let mut talk = Talk::at(&server, "/v1/audio/speech/stream");
    let event = json!({"type": "session.config", "voice": "chelsie", "response_format": "pcm", "stream_audio": true});
    talk.send_frame(Message::text(event.to_string()));
    for piece in ["seven plus ", "five is twelve", "! re"] {
        talk.send_frame(Message::text(text(piece).to_string()));
    }
    // The first is read before the second is written.
    let mut first = Vec::new();
    let done = loop {
        match talk.next() {
            Message::Text(event) if event.contains("audio.done") => break event,
            Message::Binary(bytes) => first.extend(bytes),
            _ => {}
        }
    };
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!((done["total_bytes"].as_u64(), &done["error"]), (Some(first.len() as u64), &json!(false)));
    talk.send_frame(Message::text(text("d cat").to_string()));
    talk.send_frame(Message::text(json!({"type": "input.done"}).to_string()));
    let start = talk.until("audio.start");
    assert_eq!((start["sentence_text"].as_str(), &start["sentence_index"]), (Some("red cat"), &json!(1)));
    assert_eq!(talk.until("session.done")["total_sentences"], 2);
    // A sentence sounds as it does when it is the text of a request, within what bf16 costs: other answers may be made at the
    // same time, and pieces of sound that are joined go through the vocoder another way.
    let request =
        json!({"model": "nano", "voice": "chelsie", "input": "seven plus five is twelve!", "response_format": "pcm"});
    let (status, whole) = server.post_for_bytes("/v1/audio/speech", &request);
    assert!(
        status == 200 && whole.len() > 24_000 && whole.len() == first.len(),
        "{} bytes, {}",
        whole.len(),
        first.len()
    );
    let samples = |bytes: &[u8]| bytes.as_chunks().0.iter().copied().map(i16::from_le_bytes).collect::<Vec<_>>();
    let apart = samples(&whole).iter().zip(samples(&first)).map(|(a, b)| a.abs_diff(b)).max();
    assert!(apart < Some(i16::MAX as u16 / 100), "{apart:?}");
}

#[test]
fn each_sentence_is_a_file_unless_sound_is_streamed() {
    let server = Running::new(config());
    let config =
        json!({"type": "session.config", "response_format": "flac", "task_type": "CustomVoice", "model": "nano"});
    let events = [config, text("red cat! blue ball? ..."), json!({"type": "input.done"})];
    let (seen, files, close) = talk(&server, &events);
    assert_eq!(types(&seen), ["audio.start", "audio.done", "audio.start", "audio.done", "session.done"]);
    assert!(files.len() == 2 && files.iter().all(|file| file.starts_with(b"fLaC")));
    assert_eq!(close, Some(CloseCode::Normal));
}

#[test]
fn what_is_wrong_is_told_and_the_session_goes_on() {
    let server = Running::new(config());
    let config = |field: &str, value: Value| {
        let mut config = json!({"type": "session.config"});
        config[field] = value;
        config
    };
    let wrong = [
        (text("too early"), "type"),
        (json!({"type": "input.song"}), "type"),
        (json!({"text": "a"}), "type"),
        (config("voice", json!("nobody")), "voice"),
        (config("model", json!("other")), "model"),
        (config("response_format", json!("aac")), "response_format"),
        (config("speed", json!(2)), "speed"),
        (config("task_type", json!("VoiceDesign")), "task_type"),
        (config("ref_audio", json!("https://a/b.wav")), "ref_audio"),
        (config("split_granularity", json!("word")), "split_granularity"),
        (json!({"type": "session.config", "stream_audio": true, "response_format": "flac"}), "response_format"),
    ];
    let mut events: Vec<Value> = wrong.iter().map(|(event, _)| event.clone()).collect();
    events.extend([config("voice", json!("ethan")), json!({"type": "input.text"}), text("red cat")]);
    events.push(json!({"type": "input.done"}));
    let (seen, files, _) = talk(&server, &events);
    let params: Vec<&str> = seen.iter().filter_map(|event| event["param"].as_str()).collect();
    let expected: Vec<&str> = wrong.iter().map(|(_, param)| *param).chain(["text"]).collect();
    assert_eq!(params, expected, "{seen:?}");
    assert!(files.len() == 1 && files[0].starts_with(b"RIFF"));
    assert_eq!(seen.last().unwrap()["type"], "session.done");
}

#[test]
fn a_frame_that_is_too_large_and_a_server_that_drains_end_it() {
    let server = Running::new(config());
    let mut long = Talk::at(&server, "/v1/audio/speech/stream");
    long.send_frame(Message::text("a".repeat(2 << 20)));
    assert!(matches!(long.next(), Message::Close(Some(close)) if close.code == CloseCode::Size));
    let mut left = Talk::at(&server, "/v1/audio/speech/stream");
    left.send_frame(Message::text("{"));
    let Message::Text(event) = left.next() else { panic!("no event") };
    assert!(event.contains("invalid_json"), "{event}");
    server.server.drain();
    let Message::Text(event) = left.next() else { panic!("no event") };
    assert!(event.contains("shutting_down"), "{event}");
    assert!(matches!(left.next(), Message::Close(Some(close)) if close.code == CloseCode::Away));
}

#[test]
fn who_leaves_frees_the_place() {
    let server = Running::new(config().max_answers(1));
    let mut talk = Talk::at(&server, "/v1/audio/speech/stream");
    let settings = json!({"type": "session.config", "response_format": "pcm", "stream_audio": true});
    talk.send_frame(Message::text(settings.to_string()));
    talk.send_frame(Message::text(text(&"seven plus five is twelve! ".repeat(50)).to_string()));
    while !matches!(talk.next(), Message::Binary(_)) {}
    drop(talk);
    server.wait_until_idle();
    assert_eq!(server.ask().0, 200);
}

#[test]
fn a_client_that_closes_is_answered_before_its_text_is_read() {
    let server = Running::new(config());
    let long = "red cat! ".repeat(110_000);
    let whole = "red cat! ".repeat(1000);
    let cases = [
        ("one frame", vec![whole.as_str()]),
        ("many frames", ["red cat", "! "].repeat(1000)),
        ("more than may wait", vec![&long, &long]),
    ];
    for (name, texts) in cases {
        let mut talk = Talk::at(&server, "/v1/audio/speech/stream");
        talk.send("session.config", json!({"response_format": "pcm"}));
        texts.iter().for_each(|words| talk.send_frame(Message::text(text(words).to_string())));
        talk.until("audio.start");
        talk.send_frame(Message::Close(None));
        let mut read = 0;
        loop {
            match talk.next() {
                Message::Text(event) => read += usize::from(event.contains("audio.done")),
                Message::Close(_) => break,
                _ => {}
            }
        }
        assert!(read < 200, "{name}: {read} sentences");
    }
    server.wait_until_idle();
}

#[test]
fn what_is_wrong_is_told_before_all_text_is_read() {
    let server = Running::new(config());
    let mut talk = Talk::at(&server, "/v1/audio/speech/stream");
    talk.send("session.config", json!({"response_format": "pcm"}));
    talk.send_frame(Message::text(text(&"red cat! ".repeat(1000)).to_string()));
    talk.until("audio.start");
    talk.send_frame(Message::binary(vec![0]));
    talk.send_frame(Message::text("a".repeat(2 << 20)));
    let mut seen = Vec::new();
    let end = loop {
        match talk.next() {
            Message::Text(event) => seen.push(serde_json::from_str(&event).unwrap()),
            Message::Close(close) => break close.map(|close| close.code),
            _ => {}
        }
    };
    assert!(types(&seen).contains(&"error") && seen.len() < 400, "{seen:?}");
    assert_eq!(end, Some(CloseCode::Size));
}

#[test]
fn text_is_read_as_it_was_to_be_when_it_was_sent() {
    let config = |format: &str| json!({"type": "session.config", "response_format": format});
    let again = [config("wav"), text("Red cat."), config("wav"), text(" Blue"), config("pcm"), text(" dog")];
    let events = [&again[..], &[json!({"type": "input.done"})]].concat();
    let (seen, ..) = talk(&Running::new(crate::config()), &events);
    let starts = seen.iter().filter(|event| event["type"] == "audio.start");
    let read: Vec<_> = starts.map(|start| (start["sentence_text"].as_str(), start["format"].as_str())).collect();
    let expected = [("Red cat.", "wav"), ("Blue", "wav"), ("dog", "pcm")];
    assert_eq!(read, expected.map(|(text, format)| (Some(text), Some(format))));
}
