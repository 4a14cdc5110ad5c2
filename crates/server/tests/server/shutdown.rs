//! The end of a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use qwen3_omni_server::{Config, Limits, Server, serve};

use crate::realtime::Talk;
use crate::{KEY, Running, agent, config, endless_question, error, head, nano, question};

/// A server whose runtime ends with it, as that of a program does.
fn program(config: Config) -> (Running, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), Arc::new(Notify::new()));
    let (server, stopped) = (Server::new(nano(), config), stop.clone());
    let running = Running { address, server: server.clone(), stop, runtime: Runtime::new().unwrap() };
    let program = std::thread::spawn(move || {
        let work = async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            serve(listener, async { Ok::<_, ()>(server) }, || stopped.notified(), Limits::default()).await.unwrap();
        };
        Runtime::new().unwrap().block_on(work);
    });
    running.wait_until(|| running.get("/health").0 == 200);
    (running, program)
}

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

#[test]
fn a_request_that_is_complete_only_after_the_end_has_begun_is_told() {
    let (server, program) = program(config());
    let body = question().to_string();
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.write_all(head("POST", body.len()).as_bytes()).unwrap();
    let (most, last) = body.as_bytes().split_at(body.len() - 1);
    socket.write_all(most).unwrap();
    // Its head has been read by the time that another request is answered.
    assert_eq!(server.get("/health").0, 200);
    server.stop.notify_waiters();
    server.wait_until(|| TcpStream::connect(server.address).is_err());
    socket.write_all(last).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("shutting_down"), "{answer}");
    program.join().unwrap();
}

#[test]
fn sessions_that_do_nothing_are_told_before_the_program_ends() {
    let (server, program) = program(config());
    let mut sessions: Vec<Talk> = (0..3).map(|_| Talk::new(&server)).collect();
    let mut reader = Talk::at(&server, "/v1/audio/speech/stream");
    // An event that was answered has been read: the session is there.
    reader.send_frame(Message::text("{"));
    reader.next();
    server.stop.notify_waiters();
    for session in &mut sessions {
        assert_eq!(session.error()["code"], "shutting_down");
        assert!(matches!(session.next(), Message::Close(Some(close)) if close.code == CloseCode::Away));
    }
    let Message::Text(event) = reader.next() else { panic!("no event") };
    assert!(event.contains("shutting_down"), "{event}");
    assert!(matches!(reader.next(), Message::Close(Some(close)) if close.code == CloseCode::Away));
    program.join().unwrap();
}
