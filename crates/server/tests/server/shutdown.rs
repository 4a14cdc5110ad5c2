//! The end of a server.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::json;

use qwen3_omni_server::Limits;

use crate::{KEY, Running, agent, config, endless_question, error, question};

#[test]
fn a_running_answer_ends_well_and_nothing_new_begins() {
    let server = Running::new(config());
    let mut body = question();
    body["stream"] = json!(true);
    body["modalities"] = json!(["text", "audio"]);
    body["audio"] = json!({"voice": "chelsie", "format": "pcm16"});
    let request = agent().post(server.url("/v1/chat/completions")).header("authorization", format!("Bearer {KEY}"));
    let answer = request.header("content-type", "application/json").send(body.to_string()).unwrap();
    server.server.drain();
    let (status, health) = server.get("/health");
    assert_eq!((status, health["status"].as_str()), (503, Some("draining")));
    let (status, refused) = server.ask();
    assert_eq!((status, error(&refused).0), (503, "shutting_down"));
    let lines = BufReader::new(answer.into_body().into_reader()).lines().map(Result::unwrap);
    let last = lines.filter(|line| !line.is_empty()).last();
    assert_eq!(last.as_deref(), Some("data: [DONE]"));
    // Its connections are closed once nothing runs.
    server.stop.notify_waiters();
    let begun = Instant::now();
    while agent().get(server.url("/health")).call().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it still listens");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn answers_that_do_not_end_in_time_end_with_a_word_and_so_does_what_waits() {
    let server = Running::with(config().max_answers(1), Limits::default().drain(Duration::from_millis(300)));
    let mut body = endless_question();
    body["stream"] = json!(true);
    let stream = server.send("/v1/chat/completions", body.to_string().as_bytes());
    let waits = |body: String| {
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| server.post_raw("/v1/chat/completions", body.as_bytes()));
            server.wait_until(|| server.server.running() == 2);
            server.stop.notify_waiters();
            answer.join().unwrap()
        })
    };
    let (status, refused) = waits(question().to_string());
    assert_eq!((status, error(&refused).0), (503, "shutting_down"));
    let lines = BufReader::new(stream.into_body().into_reader()).lines().map(Result::unwrap);
    let data: Vec<String> = lines.filter_map(|line| Some(line.strip_prefix("data: ")?.to_owned())).collect();
    let [.., last, done] = &data[..] else { panic!("{data:?}") };
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!((error(&last).0, done.as_str()), ("shutting_down", "[DONE]"));
}
