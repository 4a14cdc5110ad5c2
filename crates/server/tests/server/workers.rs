//! Work that takes a while is not done by the threads that serve connections.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use qwen3_omni_server::Limits;
use serde_json::json;
use tokio::runtime::Builder;
use tokio_tungstenite::tungstenite::Message;

use crate::realtime::Talk;
use crate::{Running, config, endless_question};

const PATH: &str = "/v1/audio/speech/stream";

#[test]
fn long_texts_that_are_read_aloud_keep_no_request_waiting() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = Running::on(runtime, config(), Limits::default());
    let text = json!({"text": "a! ".repeat(340_000)});
    let mut talks: Vec<Talk> = (0..4).map(|_| Talk::at(&server, PATH)).collect();
    for talk in &mut talks {
        talk.send("session.config", json!({}));
        talk.send("input.text", text.clone());
    }
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(server.get("/health").0, 200);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Answers of which sound has been made.
fn heard(server: &Running) -> Option<u32> {
    let metrics = server.get("/metrics").1;
    let mut lines = metrics.as_str().unwrap().lines();
    let count = lines.find(|line| line.starts_with("omni:time_to_first_audio_seconds_count"))?;
    count.split(' ').next_back()?.parse().ok()
}

#[test]
fn whole_files_are_encoded_where_they_keep_no_request_waiting() {
    // The one thread for such work is taken while an answer is made: it comes when that is free again.
    let runtime = Builder::new_multi_thread().max_blocking_threads(1).enable_all().build().unwrap();
    let server = &Running::on(runtime, config(), Limits::default());
    let text = "seven plus five is twelve ".repeat(8);
    let speech = &json!({"voice": "chelsie", "input": text, "response_format": "flac"});
    let mut chat = endless_question();
    chat["max_tokens"] = json!(60);
    chat["modalities"] = json!(["text", "audio"]);
    chat["audio"] = json!({"voice": "chelsie", "format": "flac"});
    let in_session = || {
        let mut talk = Talk::at(server, PATH);
        talk.send("session.config", json!({"response_format": "flac"}));
        talk.send("input.text", json!({ "text": text }));
        talk.send("input.done", json!({}));
        while !matches!(talk.next(), Message::Binary(_)) {}
    };
    type Client<'a> = Box<dyn FnOnce() + Send + 'a>;
    let clients: [(&str, Client); 3] = [
        ("speech", Box::new(|| assert_eq!(server.post_for_bytes("/v1/audio/speech", speech).0, 200))),
        ("chat", Box::new(|| assert_eq!(server.post("/v1/chat/completions", &chat).0, 200))),
        ("session", Box::new(in_session)),
    ];
    for (answers, (name, client)) in (1..).zip(clients) {
        std::thread::scope(|threads| {
            let client = threads.spawn(client);
            server.wait_until(|| heard(server) == Some(answers));
            let (release, held) = mpsc::channel::<()>();
            server.runtime.spawn_blocking(move || held.recv());
            server.wait_until_idle();
            std::thread::sleep(Duration::from_millis(500));
            assert!(!client.is_finished(), "{name} was encoded by a thread that serves connections");
            drop(release);
            client.join().unwrap();
        });
    }
}
