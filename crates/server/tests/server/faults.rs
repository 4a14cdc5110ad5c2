//! Clients that are slow, vanish, or send too much.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use qwen3_omni_server::Limits;
use serde_json::json;

use crate::{Running, SUM, config, error, head, question};

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
