//! One spoken answer by HTTP, streamed.

use std::net::SocketAddr;
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Samples per second of 16 bits.
const BYTES_PER_SECOND: f64 = 48_000.0;

/// What came of a question; times in milliseconds since it was asked.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) status: u16,
    pub(crate) first_text: Option<f64>,
    pub(crate) first_sound: Option<f64>,
    /// Times between two pieces of sound.
    pub(crate) gaps: Vec<f64>,
    pub(crate) real_time_factor: Option<f64>,
    pub(crate) is_whole: bool,
    pub(crate) hung_up: bool,
}

/// Asks, and reads the answer to its end or only to its first sound.
pub(crate) async fn ask(address: SocketAddr, question: &str, hangs_up: bool) -> Asked {
    let mut asked = Asked::default();
    // A connection that breaks leaves the answer without its end, and it is counted as lost.
    let _ = read(address, question, hangs_up, &mut asked).await;
    asked
}

async fn read(address: SocketAddr, question: &str, hangs_up: bool, asked: &mut Asked) -> std::io::Result<()> {
    let body =
        json!({"stream": true, "modalities": ["text", "audio"], "audio": {"voice": "chelsie", "format": "pcm16"},
        "messages": [{"role": "user", "content": question}]})
        .to_string();
    let begun = Instant::now();
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut lines = BufReader::new(socket).lines();
    let (mut bytes, mut last) = (0, None);
    while let Some(line) = lines.next_line().await? {
        let now = begun.elapsed().as_secs_f64() * 1e3;
        if let Some(status) = line.strip_prefix("HTTP/1.1 ") {
            asked.status = status[..3].parse().unwrap_or(0);
        }
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            asked.is_whole = bytes > 0;
            let seconds = f64::from(bytes) / BYTES_PER_SECOND;
            let spent = (now - asked.first_text.unwrap_or(now)) / 1e3;
            asked.real_time_factor = (bytes > 0).then_some(spent / seconds);
            break;
        }
        let chunk: Value = serde_json::from_str(data).unwrap_or_default();
        let audio = &chunk["choices"][0]["delta"]["audio"];
        if audio["transcript"].is_string() {
            asked.first_text.get_or_insert(now);
        }
        if let Some(data) = audio["data"].as_str() {
            bytes += BASE64_STANDARD.decode(data).map_or(0, |sound| sound.len() as u32);
            asked.first_sound.get_or_insert(now);
            asked.gaps.extend(last.replace(now).map(|last| now - last));
            if hangs_up {
                asked.hung_up = true;
                break;
            }
        }
    }
    Ok(())
}
