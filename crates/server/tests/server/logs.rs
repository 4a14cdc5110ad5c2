//! What is logged of answers.

use std::io::{Result, Write};
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};

use crate::{ANSWER, KEY, Running, SUM, agent, config, question, read, recording};

/// Everything that was logged, an object a line.
static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        LOGGED.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Logs as the program does, for all tests of this process.
fn begin() {
    static BEGUN: OnceLock<()> = OnceLock::new();
    BEGUN.get_or_init(|| {
        let lines = tracing_subscriber::fmt().with_env_filter("warn,qwen3_omni_server=info").json();
        lines.with_writer(|| Log).init();
    });
}

/// The line about the answer to a request, once it is there.
fn line(server: &Running, id: &str) -> Value {
    let find = || {
        let text = String::from_utf8(LOGGED.lock().unwrap().clone()).unwrap();
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["span"]["id"] == id && line["fields"]["message"] == "answer")
    };
    server.wait_until(|| find().is_some());
    find().unwrap()["fields"].clone()
}

#[test]
fn each_answer_is_a_line_of_counts_and_times_without_its_text() {
    begin();
    let server = Running::new(config());
    let send = |id: &str, path: &str, body: Value| {
        let request = agent().post(server.url(path)).header("authorization", format!("Bearer {KEY}"));
        read(request.header("x-request-id", id).send(body.to_string()).unwrap()).1
    };
    let mut spoken = question();
    spoken["modalities"] = json!(["text", "audio"]);
    spoken["audio"] = json!({"voice": "chelsie", "format": "pcm16"});
    let usage = send("log-whole", "/v1/chat/completions", spoken.clone())["usage"].clone();
    spoken["stream"] = json!(true);
    send("log-stream", "/v1/chat/completions", spoken);
    for id in ["log-whole", "log-stream"] {
        let line = line(&server, id);
        assert_eq!(
            (&line["finish_reason"], &line["prompt_tokens"]),
            (&json!("stop"), &usage["prompt_tokens"]),
            "{line}"
        );
        let made = &usage["completion_tokens_details"];
        assert_eq!(
            (&line["completion_tokens"], &line["frames"]),
            (&made["text_tokens"], &made["audio_tokens"]),
            "{line}"
        );
        let [text, sound, whole] = ["first_text", "first_sound", "seconds"].map(|name| line[name].as_f64().unwrap());
        assert!(0.0 < text && text < sound && sound <= whole, "{line}");
    }
    let speech = json!({"voice": "chelsie", "input": "red cat", "response_format": "pcm"});
    send("log-speech", "/v1/audio/speech", speech);
    assert!(line(&server, "log-speech")["frames"].as_u64() > Some(0));
    let hurried = Running::new(config().request_time(std::time::Duration::ZERO));
    hurried.transcribe(recording(), &[]);
    let text = String::from_utf8(LOGGED.lock().unwrap().clone()).unwrap();
    assert!(text.contains("\"finish_reason\":\"error\"") && !text.contains(SUM) && !text.contains(ANSWER));
}
