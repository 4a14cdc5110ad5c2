//! The server over real connections, with nano behind it.

#![allow(clippy::unwrap_used)]

mod faults;
mod http;
mod limits;
mod logs;
mod realtime;
mod shutdown;
mod sockets;
mod speech_stream;
mod turns;
mod workers;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use qwen3_omni::Omni;
use qwen3_omni_server::{Config, Limits, Server, serve};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use ureq::unversioned::multipart::{Form, Part};

const KEY: &str = "sk-test";
const SUM: &str = "what is seven plus five";
const ANSWER: &str = "seven plus five is twelve";

/// The model, which all servers of these tests share.
fn nano() -> Omni {
    static NANO: OnceLock<Omni> = OnceLock::new();
    NANO.get_or_init(|| Omni::builder(testkit::nano()).max_answers(64).load().unwrap()).clone()
}

fn config() -> Config {
    Config::default().model_name("nano").api_keys([KEY]).max_answers(4).max_waiting(4)
}

/// A server that runs until it is dropped.
struct Running {
    address: SocketAddr,
    server: Server,
    stop: Arc<Notify>,
    runtime: Runtime,
}

impl Running {
    fn new(config: Config) -> Self {
        Self::with(config, Limits::default())
    }

    fn with(config: Config, limits: Limits) -> Self {
        Self::on(Runtime::new().unwrap(), config, limits)
    }

    fn on(runtime: Runtime, config: Config, limits: Limits) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Arc::new(Notify::new()));
        let (server, stopped) = (Server::new(nano(), config), stop.clone());
        let made = server.clone();
        runtime.spawn(async move {
            let made = async { Ok::<_, ()>(made) };
            serve(listener, made, || stopped.notified(), limits).await
        });
        let running = Self { address, server, stop, runtime };
        running.wait_until(|| running.get("/health").0 == 200);
        running
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status and body of a request with the key.
    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_raw(path, body.to_string().as_bytes())
    }

    fn post_raw(&self, path: &str, body: &[u8]) -> (u16, Value) {
        read(self.send(path, body))
    }

    fn post_for_bytes(&self, path: &str, body: &Value) -> (u16, Vec<u8>) {
        read_bytes(self.send(path, body.to_string().as_bytes()))
    }

    fn send(&self, path: &str, body: &[u8]) -> ureq::http::Response<ureq::Body> {
        let request = agent().post(self.url(path)).header("authorization", format!("Bearer {KEY}"));
        request.header("content-type", "application/json").send(body).unwrap()
    }

    fn get(&self, path: &str) -> (u16, Value) {
        read(agent().get(self.url(path)).header("authorization", format!("Bearer {KEY}")).call().unwrap())
    }

    fn ask(&self) -> (u16, Value) {
        self.post("/v1/chat/completions", &question())
    }

    /// Asks what is said in a recording.
    fn transcribe(&self, file: &[u8], fields: &[(&str, &str)]) -> ureq::http::Response<ureq::Body> {
        let file = Part::bytes(file).file_name("a.wav");
        let form = fields.iter().fold(Form::new(), |form, (name, value)| form.text(name, value)).part("file", file);
        let request = agent().post(self.url("/v1/audio/transcriptions"));
        request.header("authorization", format!("Bearer {KEY}")).send(form).unwrap()
    }

    /// Waits for a state that is bound to come, however busy the machine.
    fn wait_until(&self, reached: impl Fn() -> bool) {
        let begun = Instant::now();
        while !reached() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} requests are still here", self.server.running());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until no answer is being made.
    fn wait_until_idle(&self) {
        self.wait_until(|| self.server.running() == 0);
    }

    /// A connection whose answer goes on for thousands of tokens.
    fn endless(&self) -> TcpStream {
        let body = endless_question().to_string();
        let mut socket = TcpStream::connect(self.address).unwrap();
        // The stray line end behind the body is what some clients send.
        socket.write_all(format!("{}{body}\r\n", head("POST", body.len())).as_bytes()).unwrap();
        socket
    }
}

/// A spoken question of nano's.
fn recording() -> &'static [u8] {
    static RECORDING: OnceLock<Vec<u8>> = OnceLock::new();
    RECORDING.get_or_init(|| std::fs::read(testkit::nano().join("../nano-samples/spoken_sum_question.wav")).unwrap())
}

/// The data of server-sent events.
fn data_lines(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    text.lines().filter_map(|line| Some(line.strip_prefix("data: ")?.to_owned())).collect()
}

/// The head of a request to chat completions.
fn head(method: &str, length: usize) -> String {
    format!(
        "{method} /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )
}

/// A question whose answer goes on for thousands of tokens, because its end tokens are forbidden.
fn endless_question() -> Value {
    json!({"messages": [{"role": "user", "content": SUM}], "max_tokens": 30_000,
        "temperature": 1.5, "logit_bias": {"488": -100, "489": -100, "490": -100}})
}

fn question() -> Value {
    json!({"messages": [{"role": "user", "content": SUM}]})
}

/// A client that tells of every status instead of failing.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn read_bytes(mut response: ureq::http::Response<ureq::Body>) -> (u16, Vec<u8>) {
    (response.status().as_u16(), response.body_mut().with_config().limit(100 << 20).read_to_vec().unwrap())
}

fn read(response: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let (status, bytes) = read_bytes(response);
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
}

/// The code and the field of an error.
fn error(body: &Value) -> (&str, &str) {
    let error = &body["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    (error["code"].as_str().unwrap_or_default(), error["param"].as_str().unwrap_or_default())
}
