//! A worker that is told what happens step by step, so that nothing depends on what comes first.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qwen3_omni::media::audio::read_at;
use qwen3_omni::{Event, Omni};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::channel;

use super::*;
use crate::Config;
use crate::outbox::{Output, Outputs, Room};
use crate::realtime::ear::CLIENT_RATE;

/// More than any of these tests lets wait.
const WAITING: usize = 1 << 12;

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

struct Talk {
    worker: Worker,
    outputs: Outputs,
    /// What the client was told.
    told: Vec<Value>,
}

impl Talk {
    fn new() -> Self {
        Self::with(Config::default().max_answers(1))
    }

    fn with(config: Config) -> Self {
        static NANO: OnceLock<Omni> = OnceLock::new();
        let nano = NANO.get_or_init(|| Omni::builder(testkit::nano()).load().unwrap()).clone();
        let app = Arc::new(App::new(nano, config));
        let ((inputs, received), (outbox, outputs)) = (channel(WAITING), Outbox::holding(WAITING));
        let _within = runtime().enter();
        Self { worker: Worker::new(app, inputs, received, outbox), outputs, told: Vec::new() }
    }

    fn take(&mut self, input: Input) {
        let _ = self.worker.take(input);
        while let Ok((output, _)) = self.outputs.try_recv() {
            if let Output::Event(event) = output {
                self.told.push(serde_json::from_str(&event).unwrap());
            }
        }
    }

    fn send(&mut self, kind: &str, mut event: Value) {
        event["type"] = json!(kind);
        let taken = runtime().block_on(Room::new().take(0));
        self.take(Input::Client(event.to_string().into(), taken));
    }

    fn say(&mut self, text: &str) {
        let content = json!([{"type": "input_text", "text": text}]);
        self.send("conversation.item.create", json!({"item": {"type": "message", "role": "user", "content": content}}));
    }

    fn send_sound(&mut self, samples: &[f32]) {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| ((sample * 32767.0) as i16).to_le_bytes()).collect();
        self.send("input_audio_buffer.append", json!({"audio": BASE64_STANDARD.encode(bytes)}));
    }

    /// Has turns written down; they end when the client says so, or by themselves.
    fn transcribe(&mut self, detection: Value) {
        let input = json!({"turn_detection": detection, "transcription": {}});
        self.send("session.update", json!({"session": {"type": "realtime", "audio": {"input": input}}}));
    }

    /// What comes by itself.
    fn next(&mut self) -> Input {
        let next = self.worker.inputs.recv();
        let next = runtime().block_on(async { tokio::time::timeout(Duration::from_secs(60), next).await });
        next.expect("something comes in time").unwrap()
    }

    /// Takes what comes by itself until the client is told this.
    fn until(&mut self, kind: &str) -> Value {
        let before = self.told.len();
        loop {
            if let Some(event) = self.told[before..].iter().find(|event| event["type"] == kind) {
                return event.clone();
            }
            let next = self.next();
            self.take(next);
        }
    }

    fn all(&self, kind: &str) -> Vec<&Value> {
        self.told.iter().filter(|event| event["type"] == kind).collect()
    }
}

#[test]
fn the_next_turn_is_written_down_when_one_is_done_even_before_its_task_has_ended() {
    let mut talk = Talk::new();
    // Tasks wait for the only place, so that none ends here.
    let _place = runtime().block_on(talk.worker.app.admission.admit_one()).unwrap();
    talk.transcribe(Value::Null);
    for _ in 0..=TRANSCRIPTS {
        talk.send_sound(&[0.1; 4800]);
        talk.send("input_audio_buffer.commit", json!({}));
    }
    talk.take(Input::NotAsked);
    assert_eq!(talk.worker.unwritten.len(), 1);
    let first = talk.all("input_audio_buffer.committed")[0]["item_id"].as_str().unwrap().to_owned();
    talk.take(Input::Transcript(first, Transcript::Done { text: "red".into(), usage: Value::Null }));
    assert_eq!(talk.all("conversation.item.input_audio_transcription.completed").len(), 1);
    assert!(talk.worker.unwritten.is_empty(), "it waits for the client");
}

#[test]
fn a_turn_for_which_there_is_no_room_is_neither_committed_nor_written_down() {
    let mut talk = Talk::new();
    talk.worker.items = Items::full();
    talk.transcribe(Value::Null);
    talk.send_sound(&[0.1; 4800]);
    talk.send("input_audio_buffer.commit", json!({}));
    assert_eq!(talk.told.last().unwrap()["error"]["code"], "conversation_full");
    assert!(talk.all("input_audio_buffer.committed").is_empty() && talk.worker.unwritten.is_empty());
}

#[test]
fn sound_behind_a_turn_that_is_refused_is_heard() {
    let mut talk = Talk::new();
    talk.worker.items = Items::full();
    talk.transcribe(json!({"type": "server_vad"}));
    let file = testkit::nano().join("../nano-samples/spoken_sum_question.wav");
    let words = read_at(&file.into(), CLIENT_RATE).unwrap();
    let quiet = vec![0.0; CLIENT_RATE as usize];
    talk.send_sound(&[&quiet[..], &words, &quiet, &words, &quiet].concat());
    let starts = talk.all("input_audio_buffer.speech_started");
    let [first, second] = starts[..] else { panic!("{:?}", talk.told) };
    assert!(second["audio_start_ms"].as_u64() > first["audio_start_ms"].as_u64().map(|first| first + 2000), "{second}");
    let errors = talk.all("error");
    assert!(errors.len() == 2 && errors.iter().all(|error| error["error"]["code"] == "conversation_full"));
}

#[test]
fn a_turn_keeps_its_id_when_turns_are_looked_for_no_longer() {
    let mut talk = Talk::new();
    talk.transcribe(json!({"type": "server_vad"}));
    let file = testkit::nano().join("../nano-samples/spoken_sum_question.wav");
    talk.send_sound(&read_at(&file.into(), CLIENT_RATE).unwrap());
    let started = talk.all("input_audio_buffer.speech_started")[0]["item_id"].clone();
    talk.transcribe(Value::Null);
    talk.send("input_audio_buffer.commit", json!({}));
    assert_eq!(talk.all("input_audio_buffer.committed")[0]["item_id"], started);
}

#[test]
fn an_answer_behind_a_cancelled_one_reads_what_was_there_when_it_was_asked_for() {
    let mut talk = Talk::new();
    talk.say("repeat red cat nine");
    talk.send("response.create", json!({}));
    talk.until("response.output_audio.delta");
    // The cancelled one still holds its place.
    talk.send("response.cancel", json!({}));
    talk.send("response.create", json!({}));
    talk.say("what is seven plus five");
    let response = talk.until("response.done")["response"].clone();
    assert_eq!(response["output"][0]["content"][0]["transcript"], "red cat nine", "{response}");
}

#[test]
fn an_answer_whose_reader_stops_has_failed_and_the_next_one_begins() {
    let mut talk = Talk::new();
    talk.say("repeat red cat nine");
    talk.send("response.create", json!({}));
    // Nothing of it comes but its end.
    let end = loop {
        match talk.next() {
            Input::Answer(_) => {}
            Input::AnswerEnded => break Input::AnswerEnded,
            other => talk.take(other),
        }
    };
    talk.take(end);
    let done = talk.all("response.done");
    let [failed] = done[..] else { panic!("{:?}", talk.told) };
    let (status, details) = (&failed["response"]["status"], &failed["response"]["status_details"]);
    assert!(status == "failed" && details["error"]["code"] == "internal_error", "{failed}");
    talk.send("response.create", json!({}));
    assert_eq!(talk.until("response.done")["response"]["status"], "completed");
    // The end of that one comes when another was asked for already, which has not failed.
    talk.send("response.create", json!({}));
    assert_eq!(talk.until("response.done")["response"]["status"], "completed");
}

#[test]
fn the_end_of_an_answer_is_told_even_if_its_reader_panics() {
    let (inputs, mut received) = channel(1);
    let stops = std::iter::from_fn(|| -> Option<qwen3_omni::Result<Event>> { panic!("a reader") });
    let _ = answers::read(stops, inputs);
    let told = runtime().block_on(async { tokio::time::timeout(Duration::from_secs(60), received.recv()).await });
    assert!(matches!(told, Ok(Some(Input::AnswerEnded))), "nothing is told");
}

/// A host that answers every request with this file, for as long as the tests run.
#[cfg(feature = "remote-media")]
fn host(file: Vec<u8>) -> String {
    host_after(file, std::sync::mpsc::channel().1)
}

/// A host that answers once it is told to, or once nobody is left to tell it.
#[cfg(feature = "remote-media")]
fn host_after(file: Vec<u8>, released: std::sync::mpsc::Receiver<()>) -> String {
    use std::io::{Read, Write};
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", file.len());
    let answer = [head.as_bytes(), &file].concat();
    std::thread::spawn(move || {
        for mut socket in server.incoming().map_while(Result::ok) {
            let _ = socket.read(&mut [0; 1024]);
            let _ = released.recv();
            let _ = socket.write_all(&answer);
        }
    });
    address
}

#[test]
#[cfg(feature = "remote-media")]
fn all_files_of_an_event_are_no_larger_than_a_body_might_be() {
    let file = std::fs::read(testkit::nano().join("../nano-samples/picture_one.png")).unwrap();
    let most = 3 * file.len() / 2;
    let host = host(file);
    let mut talk = Talk::with(Config::default().allowed_media_hosts([&host]).max_body(most));
    let picture = json!({"type": "input_image", "image_url": format!("http://{host}/a.png")});
    let item = |pictures: usize| json!({"type": "message", "role": "user", "content": vec![&picture; pictures]});
    let two_items = json!({"input": [item(1), item(1)]});
    for (kind, event) in
        [("conversation.item.create", json!({"item": item(2)})), ("response.create", json!({ "response": two_items }))]
    {
        talk.send(kind, event);
        let told = talk.until("error");
        let message = told["error"]["message"].as_str().unwrap_or_else(|| panic!("{told}"));
        assert!(message.contains("bytes that are left"), "{message}");
    }
    talk.send("conversation.item.create", json!({"item": item(1)}));
    talk.until("conversation.item.done");
}

#[test]
#[cfg(feature = "remote-media")]
fn a_session_hears_while_a_picture_is_fetched() {
    let file = std::fs::read(testkit::nano().join("../nano-samples/picture_one.png")).unwrap();
    let (release, released) = std::sync::mpsc::channel();
    let host = host_after(file, released);
    let mut talk = Talk::with(Config::default().max_answers(1).allowed_media_hosts([&host]));
    talk.say("repeat red cat nine");
    talk.send("response.create", json!({}));
    talk.until("response.output_audio.delta");
    let picture = json!({"type": "input_image", "image_url": format!("http://{host}/a.png")});
    let item = json!({"id": "picture", "type": "message", "role": "user", "content": [picture]});
    talk.send("conversation.item.create", json!({ "item": item }));
    let words = read_at(&testkit::nano().join("../nano-samples/spoken_sum_question.wav").into(), CLIENT_RATE).unwrap();
    let quiet = vec![0.0; CLIENT_RATE as usize];
    talk.send_sound(&[&quiet[..], &words, &quiet].concat());
    // Who speaks into the answer is heard at once.
    let details = &talk.all("response.done")[0]["response"]["status_details"];
    assert_eq!(details["reason"], "turn_detected");
    // What stands behind the picture waits for it.
    talk.send("conversation.item.retrieve", json!({"item_id": "picture"}));
    assert!(talk.all("error").is_empty() && talk.all("input_audio_buffer.speech_stopped").is_empty());
    release.send(()).unwrap();
    talk.until("conversation.item.retrieved");
    let turn = talk.all("input_audio_buffer.committed")[0];
    assert_eq!(turn["previous_item_id"], "picture");
    assert_eq!(talk.all("response.created").len(), 2, "the turn is answered");
}

#[test]
#[cfg(feature = "remote-media")]
fn events_behind_pictures_are_done_in_order() {
    let file = std::fs::read(testkit::nano().join("../nano-samples/picture_one.png")).unwrap();
    let (release, released) = std::sync::mpsc::channel();
    let host = host_after(file, released);
    let mut talk = Talk::with(Config::default().max_answers(1).allowed_media_hosts([&host]));
    let item = |id: &str, at: &str| {
        let parts = json!([{"type": "input_image", "image_url": format!("http://{at}/a.png")}, {"type": "input_text", "text": "what do you see"}]);
        json!({"id": id, "type": "message", "role": "user", "content": parts})
    };
    // An answer is cancelled by what comes after it, not before.
    talk.send("response.create", json!({"response": {"input": [item("asked", &host)]}}));
    talk.send("response.cancel", json!({}));
    assert!(talk.all("response.created").is_empty() && talk.all("error").is_empty());
    release.send(()).unwrap();
    assert_eq!(talk.until("response.done")["response"]["status"], "cancelled");
    // One that cannot be had ends nothing.
    for (id, at) in [("first", host.as_str()), ("lost", "127.0.0.1:1"), ("second", &host)] {
        talk.send("conversation.item.create", json!({"item": item(id, at)}));
        release.send(()).unwrap();
    }
    talk.send("conversation.item.retrieve", json!({"item_id": "second"}));
    talk.until("conversation.item.retrieved");
    let added = talk.all("conversation.item.done");
    let ids: Vec<_> = added.iter().map(|event| event["item"]["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["first", "second"], "{:?}", talk.told);
    assert_eq!(talk.all("error")[0]["error"]["param"], "item.content[0].image_url");
}

#[test]
fn an_item_needs_a_name_of_its_own() {
    let mut talk = Talk::new();
    for id in ["", "root"] {
        let content = json!([{"type": "input_text", "text": "repeat red"}]);
        let item = json!({"id": id, "type": "message", "role": "user", "content": content});
        talk.send("conversation.item.create", json!({ "item": item }));
        assert_eq!(talk.told.last().unwrap()["error"]["param"], "item.id");
    }
}
