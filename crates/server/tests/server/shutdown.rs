//! The end of a server.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::{KEY, Running, agent, config, error, question};

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
