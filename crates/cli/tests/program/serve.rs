//! The server of the program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::{program, refused};

/// What a server answers to a request that closes the connection.
fn ask(address: &str, request: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn nano_is_served_until_the_program_is_told_to_stop() {
    let mut child = program(&["serve", "--port", "0"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.find(|line| line.contains("answers at http://")).unwrap();
    let address = told.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let body = r#"{"messages":[{"role":"user","content":"what is seven plus five"}]}"#;
    let head = |line: &str, length: usize| {
        format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
    };
    let answer = ask(&address, &(head("POST /v1/chat/completions", body.len()) + body));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("seven plus five is twelve"), "{answer}");
    assert!(answer.contains(r#""model":"nano""#), "{answer}");
    assert!(ask(&address, &head("GET /", 0)).contains("<!doctype html>"));
    // A page that points its own name at this machine gets nothing.
    let foreign = head("GET /", 0).replace("localhost", "evil.example");
    assert!(ask(&address, &foreign).starts_with("HTTP/1.1 403"));
    assert!(Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_cannot_be_served_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = refused(1, &["serve", "--port", &port]);
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("in use"), "{said}");
    assert!(refused(1, &["serve", "--port", "0", "--model", "no/such/model"]).contains("no/such/model"));
    refused(2, &["serve", "--max-answers", "0"]);
}
