//! Spoken turns of a realtime session, sent at the pace of speech.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::{SinkExt, StreamExt};
use qwen3_omni::media::audio::read_at;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::numbers::quantiles;

const RATE: u32 = 24_000;
/// A piece that a microphone gives: 40 ms.
const PIECE: usize = RATE as usize / 25;
/// Silence after the words; the default detector ends a turn after 0.5 s of it.
const AFTER: usize = RATE as usize * 2;

/// Speaks the question several times and measures when the answers are heard.
pub(crate) async fn turns(address: SocketAddr, model: &Path, count: usize) -> Value {
    let file = model.join("../nano-samples/spoken_sum_question.wav");
    let Ok(words) = read_at(&file.into(), RATE) else {
        return json!({"what": "realtime turns", "error": "no recording beside the model"});
    };
    let (socket, _) = connect_async(format!("ws://{address}/v1/realtime")).await.expect("a session");
    let (mut out, mut events) = socket.split();
    let (mut from_words, mut from_stop) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let sound: Vec<f32> = words.iter().copied().chain(std::iter::repeat_n(0.0, AFTER)).collect();
        let begun = Instant::now();
        let said = begun + Duration::from_secs_f64(words.len() as f64 / f64::from(RATE));
        let speak = async {
            for (index, piece) in sound.chunks(PIECE).enumerate() {
                tokio::time::sleep_until((begun + Duration::from_millis(40 * index as u64)).into()).await;
                let bytes: Vec<u8> =
                    piece.iter().flat_map(|sample| ((sample * 32767.0) as i16).to_le_bytes()).collect();
                let event = json!({"type": "input_audio_buffer.append", "audio": BASE64_STANDARD.encode(bytes)});
                out.send(Message::text(event.to_string())).await.expect("it is taken");
            }
        };
        let listen = async {
            let (mut stopped, mut sounded) = (None, None);
            while let Some(Ok(frame)) = events.next().await {
                let Message::Text(text) = frame else { continue };
                let event: Value = serde_json::from_str(&text).unwrap_or_default();
                match event["type"].as_str().unwrap_or_default() {
                    "input_audio_buffer.speech_stopped" => stopped = Some(Instant::now()),
                    "response.output_audio.delta" => {
                        sounded.get_or_insert_with(Instant::now);
                    }
                    "response.done" => break,
                    _ => {}
                }
            }
            (stopped, sounded)
        };
        let ((), (stopped, sounded)) = tokio::join!(speak, listen);
        if let (Some(stopped), Some(sounded)) = (stopped, sounded) {
            let ms = |since: Instant| sounded.saturating_duration_since(since).as_secs_f64() * 1e3;
            from_words.push(ms(said));
            from_stop.push(ms(stopped));
        }
    }
    json!({
        "what": "realtime turns",
        "end of the recording to first sound, ms": quantiles(&mut from_words),
        "turn noticed to first sound, ms": quantiles(&mut from_stop),
    })
}
