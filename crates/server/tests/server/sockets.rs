//! The ends of WebSockets, byte by byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::{KEY, Running, config};

const PATHS: [&str; 2] = ["/v1/realtime", "/v1/audio/speech/stream"];

/// Opens a WebSocket whose client writes what it likes.
fn open(server: &Running, path: &str) -> TcpStream {
    shake_hands(server, path, &format!("authorization: Bearer {KEY}")).0
}

/// Opens a WebSocket with one more header; returns the head of the answer, too.
fn shake_hands(server: &Running, path: &str, header: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: a\r\n{header}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(byte(&mut socket).expect("an answer"));
    }
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    (socket, head)
}

#[test]
fn a_page_that_gives_its_key_as_a_protocol_is_answered_the_other_one() {
    let server = Running::new(config());
    for path in PATHS {
        let offered = format!("sec-websocket-protocol: realtime, openai-insecure-api-key.{KEY}");
        let (_, head) = shake_hands(&server, path, &offered);
        // Browsers close what answers none of the protocols they offered.
        assert!(head.contains("\r\nsec-websocket-protocol: realtime\r\n"), "{path}: {head}");
    }
}

fn byte(socket: &mut TcpStream) -> Option<u8> {
    let mut byte = [0];
    socket.read_exact(&mut byte).ok().map(|()| byte[0])
}

/// A frame of this first byte, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | 127];
    frame.extend((payload.len() as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Reads to the end of the connection; the code of the close frame before it, if there was one.
fn close_code(socket: &mut TcpStream) -> Option<u16> {
    let mut code = None;
    while let Some(first) = byte(socket) {
        let mut length = u64::from(byte(socket)?);
        if length >= 126 {
            let bytes = if length == 126 { 2 } else { 8 };
            length = (0..bytes).try_fold(0, |length, _| Some(length << 8 | u64::from(byte(socket)?)))?;
        }
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).ok()?;
        if first & 15 == 8 {
            code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        }
    }
    code
}

const CLOSE_1000: [u8; 2] = 1000u16.to_be_bytes();

#[test]
fn what_cannot_be_read_is_closed_with_its_code() {
    let server = Running::new(config());
    let large = vec![b'a'; 17 << 20];
    let part = &large[..7 << 20];
    let fragments = [frame(0x01, part), frame(0, part), frame(0, part), frame(0x80, part)].concat();
    let cases = [
        ("text that is not UTF-8", frame(0x81, &[0xff, 0xfe]), 1007),
        ("a frame without a mask", vec![0x81, 2, b'{', b'}'], 1002),
        ("an unknown opcode", frame(0x83, b"a"), 1002),
        ("a continuation of nothing", frame(0x80, b"a"), 1002),
        ("text that is too large", frame(0x81, &large), 1009),
        ("bytes that are too large", frame(0x82, &large), 1009),
        (
            "a frame that is not read at all",
            frame(0x81, &[])[..2].iter().copied().chain([0, 0, 1, 0, 0, 0, 0, 0]).chain([0; 4]).collect(),
            1009,
        ),
        ("fragments that are too large together", fragments, 1009),
    ];
    for path in PATHS {
        for (name, bytes, code) in &cases {
            let mut socket = open(&server, path);
            socket.write_all(bytes).unwrap();
            assert_eq!(close_code(&mut socket), Some(*code), "{name}, {path}");
        }
    }
}

#[test]
fn a_close_frame_is_answered() {
    let server = Running::new(config());
    let text = |event: serde_json::Value| frame(0x81, event.to_string().as_bytes());
    let item = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "repeat red"}]});
    let busy =
        [text(json!({"type": "conversation.item.create", "item": item})), text(json!({"type": "response.create"}))];
    let reading = [
        text(json!({"type": "session.config", "voice": "ethan"})),
        text(json!({"type": "input.text", "text": "red cat! blue ball! "})),
    ];
    for (path, before) in PATHS.into_iter().zip([busy, reading]) {
        for events in [Vec::new(), before.concat()] {
            let mut socket = open(&server, path);
            socket.write_all(&[events, frame(0x88, &CLOSE_1000)].concat()).unwrap();
            assert_eq!(close_code(&mut socket), Some(1000), "{path}");
        }
    }
    server.wait_until_idle();
}
