//! Qwen3-Omni: text in, text and natural speech out, streamed, from a checkpoint directory in Hugging Face layout.
//!
//! ```no_run
//! use qwen3_omni::{Device, Event, Message, Omni};
//!
//! # fn main() -> qwen3_omni::Result<()> {
//! let omni = Omni::builder("/models/Qwen3-Omni-30B-A3B-Instruct").device(Device::cuda(0)).load()?;
//! let chat = [Message::system("You are a helpful assistant."), Message::user().text("Tell me about the sea.")];
//! for event in omni.stream(&chat, &Default::default())? {
//!     match event? {
//!         Event::Text(piece) => print!("{piece}"),
//!         Event::Audio(sound) => drop(sound.samples), // f32, one channel, 24 kHz
//!         Event::Done(reply) => eprintln!("{}", reply.usage),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The parts are crates of their own and load alone: [`thinker`], [`talker`], [`code_predictor`], [`code2wav`].

mod builder;
mod chat;
mod device;
mod event;
mod omni;
mod options;
mod pipeline;
mod template;
mod tokenizer;
mod wav;

pub use builder::{Loading, OmniBuilder};
pub use chat::{Message, Part, Role};
pub use code2wav::Chunking;
pub use device::Device;
pub use event::{Audio, Event, Reply, Speech, TextStop, Timings, Usage};
pub use moe_talker::SpeechStop;
pub use omni::Omni;
pub use omni_core::{Dtype, Error, Result, SamplingOptions};
pub use options::{GenerateOptions, LastWord, VocoderMode};
pub use pipeline::ReplyStream;
pub use template::{ChatTemplate, TemplateOptions};
pub use tokenizer::{TextStream, Tokenizer};
pub use wav::WavFile;

pub use checkpoint;
pub use code2wav;
pub use moe_talker as talker;
pub use moe_thinker as thinker;
pub use mtp as code_predictor;
pub use omni_core as contracts;
pub use tm_rope;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
