//! Clients that are slow, vanish, or send too much.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt;
use qwen3_omni_server::Limits;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    KEY, Running, SUM, agent, config, data_lines, endless_question, error, head, question, read_bytes, recording,
};

/// Sends bytes and reads what comes back until the server closes.
fn exchange(server: &Running, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_body_that_is_too_large_is_refused_by_its_length_and_by_its_bytes() {
    let server = Running::new(config().max_body(1000));
    let announced = exchange(&server, head("POST", 5000).as_bytes());
    assert!(announced.starts_with("HTTP/1.1 413") && announced.contains("request_too_large"), "{announced}");
    // Without a length, in pieces.
    let chunked = head("POST", 0).replace("content-length: 0", "transfer-encoding: chunked");
    let sent = format!("{chunked}{:x}\r\n{}\r\n0\r\n\r\n", 2000, "a".repeat(2000));
    let counted = exchange(&server, sent.as_bytes());
    assert!(counted.starts_with("HTTP/1.1 413"), "{counted}");
    assert_eq!(server.ask().0, 200);
}

#[test]
fn bodies_that_wait_to_be_complete_have_bounded_room() {
    let server = Running::new(config().max_body(60_000));
    let large = vec![b' '; 55_000];
    let refused = |response: ureq::http::Response<ureq::Body>| {
        let again = response.headers().contains_key("retry-after");
        let (status, answer) = crate::read(response);
        status == 429 && again && error(&answer).0 == "rate_limit_exceeded"
    };
    let begin = || {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.write_all(head("POST", large.len()).as_bytes()).unwrap();
        socket.write_all(&large[1..]).unwrap();
        socket
    };
    let form = |path: &str| {
        let request = agent().post(server.url(path)).header("authorization", format!("Bearer {KEY}"));
        request.header("content-type", "multipart/form-data; boundary=a").send(&large[..]).unwrap()
    };
    let mut unfinished = Vec::new();
    for path in ["/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"] {
        // The last of them may have been refused in favour of a whole one.
        while !refused(form(path)) {
            unfinished.push(begin());
            assert!(unfinished.len() < 1000, "nothing is refused");
        }
    }
    assert!(unfinished.len() >= 8);
    assert_eq!(server.ask().0, 200);
    drop(unfinished);
    server.wait_until(|| !refused(server.send("/v1/chat/completions", &large)));
}

#[test]
fn a_body_or_a_head_that_does_not_come_is_not_waited_for() {
    let limits = Limits::default().headers(Duration::from_millis(300));
    let server = Running::with(config().body_time(Duration::from_millis(300)), limits);
    let begun = Instant::now();
    let body = exchange(&server, format!("{}{{\"mess", head("POST", 500)).as_bytes());
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    assert_eq!(exchange(&server, b"POST /v1/chat"), "", "a head without end");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(server.ask().0, 200);
}

#[test]
fn who_hangs_up_frees_the_place_at_once() {
    let server = Running::new(config());
    let body = json!({"model": "nano", "voice": "chelsie", "input": "seven plus five is twelve ".repeat(40),
        "response_format": "pcm"})
    .to_string();
    let request = head("POST", body.len()).replace("chat/completions", "audio/speech") + &body;
    for _ in 0..12 {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut first = [0; 200];
        assert!(socket.read(&mut first).unwrap() > 0);
    }
    server.wait_until_idle();
    assert_eq!(server.ask().0, 200);
}

/// Answers a request within this process, where nothing reads the body before the test does.
async fn unread(server: &Running, path: &str, body: Value) -> axum::response::Response {
    let request = axum::http::Request::post(path).header("authorization", format!("Bearer {KEY}"));
    server.server.router().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap()
}

#[test]
fn what_was_not_read_in_time_does_not_look_whole() {
    let server = Running::new(config().request_time(Duration::from_secs(2)));
    let mut chat = endless_question();
    chat["stream"] = json!(true);
    let mut speech =
        json!({"voice": "chelsie", "input": "seven plus five is twelve ".repeat(100), "response_format": "wav"});
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let file = runtime.block_on(unread(&server, "/v1/audio/speech", speech.clone()));
    speech["stream_format"] = json!("sse");
    let events = [("/v1/chat/completions", chat), ("/v1/audio/speech", speech)]
        .map(|(path, body)| (path, runtime.block_on(unread(&server, path, body))));
    server.wait_until_idle();
    // On a machine too slow for the first sound, the file is refused as a whole.
    assert!(file.status() == 504 || runtime.block_on(file.into_body().collect()).is_err(), "the file looks whole");
    for (path, response) in events {
        let body = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
        let lines = data_lines(&body);
        let [.., last, done] = &lines[..] else { panic!("{path}: {lines:?}") };
        assert_eq!((error(&serde_json::from_str(last).unwrap()).0, done.as_str()), ("timeout", "[DONE]"), "{path}");
    }
}

#[test]
fn an_answer_without_time_is_one_error() {
    let server = Running::new(config().request_time(Duration::ZERO));
    let response = server.transcribe(recording(), &[("stream", "true")]);
    let lines = data_lines(&read_bytes(response).1);
    assert!(lines.len() == 2 && lines[0].contains("timeout") && lines[1] == "[DONE]", "{lines:?}");
}

#[test]
fn a_hang_up_behind_stray_bytes_is_noticed_too() {
    let server = Running::new(config());
    let socket = server.endless();
    server.wait_until(|| server.server.running() == 1);
    drop(socket);
    server.wait_until_idle();
}

#[test]
fn too_many_are_told_to_come_again() {
    let server = Running::new(config().max_answers(1).max_waiting(1));
    let runs = server.endless();
    server.wait_until(|| server.server.running() == 1);
    let waits = server.endless();
    server.wait_until(|| server.server.running() == 2);
    for path in ["/v1/chat/completions", "/v1/audio/speech"] {
        let mut body = question();
        body["voice"] = json!("chelsie");
        body["input"] = json!(SUM);
        let (status, answer) = server.post(path, &body);
        assert_eq!((status, error(&answer).0), (429, "rate_limit_exceeded"), "{path}");
    }
    drop(runs);
    drop(waits);
    assert_eq!(server.ask().0, 200);
}

#[test]
fn connections_that_are_left_open_keep_nobody_out() {
    let server = Running::with(config(), Limits::default().connections(40));
    let mut first = TcpStream::connect(server.address).unwrap();
    let left: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    assert_eq!(server.ask().0, 200);
    // The one that had been there for longest made room.
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    drop(left);
}

#[test]
fn an_answer_that_is_being_made_does_not_make_room() {
    let server = Running::with(config(), Limits::default().connections(2));
    let runs = server.endless();
    server.wait_until(|| server.server.running() == 1);
    for _ in 0..8 {
        let _left = TcpStream::connect(server.address).unwrap();
        assert_eq!(server.get("/health").0, 200);
    }
    assert_eq!(server.server.running(), 1);
    drop(runs);
}

#[test]
fn who_does_not_read_is_not_kept() {
    let server = Running::with(config(), Limits::default().unread(Duration::from_millis(200)));
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = b"GET /app.js HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000);
    // What the server does not read any more fills the buffers, until it has closed.
    let closed = std::iter::repeat_with(|| socket.write_all(&request)).find_map(Result::err).unwrap();
    let kinds = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&closed.kind()), "{closed}");
    assert_eq!(server.ask().0, 200);
}
