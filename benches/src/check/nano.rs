//! Nano's stored conversations, on a device: equal texts and codes.

use std::path::{Path, PathBuf};

use clap::Args;
use omni_core::{Dtype, Error, Result};
use qwen3_omni::{Device, GenerateOptions, Message, Omni, Reply};
use serde::Deserialize;
use serde_json::{Value, json};

use super::guarded;

/// What is asked, and where.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long)]
    pub device: Device,
    /// f32, bf16 or f16; the device's own choice if not given
    #[arg(long)]
    pub dtype: Option<Dtype>,
    /// Directory of the nano model
    #[arg(long)]
    pub model: PathBuf,
    /// Directory with conversations.json and the files it names
    #[arg(long)]
    pub samples: PathBuf,
    /// Stop after this number of conversations
    #[arg(long)]
    pub most: Option<usize>,
}

/// A stored conversation.
#[derive(Deserialize)]
struct Stored {
    name: String,
    content: Vec<Part>,
    text: String,
    /// Codes of each codebook, by frame.
    codes: Vec<Vec<u32>>,
    samples: usize,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Part {
    Text { text: String },
    Audio { audio: String },
    Image { image: String },
}

impl Part {
    fn add(&self, message: Message, samples: &Path) -> Message {
        match self {
            Part::Text { text } => message.text(text),
            Part::Audio { audio } => message.audio(samples.join(audio)),
            Part::Image { image } => message.image(samples.join(image)),
        }
    }
}

/// Asks every stored question; true if all answers are the stored ones.
///
/// # Errors
/// If the device, the model or the conversations cannot be opened.
pub fn run(arguments: &Arguments, emit: &dyn Fn(Value)) -> Result<bool> {
    let Arguments { device, dtype, model, samples, most } = arguments;
    let path = samples.join("conversations.json");
    let text = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
    let stored: Vec<Stored> =
        serde_json::from_slice(&text).map_err(|error| Error::Request(format!("{}: {error}", path.display())))?;
    let mut builder = Omni::builder(model).device(device.clone());
    if let Some(dtype) = dtype {
        builder = builder.dtype(*dtype);
    }
    let omni = guarded(|| builder.load())?;
    let dtype = dtype.unwrap_or_else(|| device.default_dtype()).name();
    let mut passed = !stored.is_empty();
    for conversation in stored.iter().take(most.unwrap_or(usize::MAX)) {
        let question = conversation.content.iter().fold(Message::user(), |message, part| part.add(message, samples));
        let reply = guarded(|| omni.generate(&[question], &GenerateOptions::default().greedy()));
        let mut line = json!({"kind": "conversation", "device": device.to_string(), "dtype": dtype,
                              "case": conversation.name});
        match reply {
            Ok(reply) => compare(&mut line, conversation, &reply),
            Err(error) => line["error"] = json!(error.to_string()),
        }
        line["passed"] =
            json!(line["text_equal"] == true && line["codes_equal"] == true && line["length_equal"] == true);
        passed &= line["passed"] == true;
        emit(line);
    }
    Ok(passed)
}

fn compare(line: &mut Value, stored: &Stored, reply: &Reply) {
    line["text_equal"] = json!(reply.text == stored.text);
    if reply.text != stored.text {
        line["text"] = json!(reply.text);
        line["expected"] = json!(stored.text);
    }
    let frames = stored.codes.first().map_or(0, Vec::len);
    let frame = |index: usize| stored.codes.iter().map(|book| book[index]).collect::<Vec<_>>();
    let expected: Vec<Vec<u32>> = (0..frames).map(frame).collect();
    let (codes, samples) = reply.speech.as_ref().map_or((&[][..], 0), |s| (&s.codes[..], s.audio.samples.len()));
    line["frames"] = json!(frames);
    line["codes_equal"] = json!(codes == expected);
    line["length_equal"] = json!(samples == stored.samples);
    if codes != expected {
        let same = codes.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        line["first_other_frame"] = json!(same);
    }
    line["ms"] = json!(reply.timings.total.as_millis() as u64);
}
