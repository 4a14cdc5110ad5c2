//! Qwen3-Omni: text, sound, pictures and video in; text and natural speech out, streamed, from a checkpoint directory in
//! Hugging Face layout.
//!
//! ```no_run
//! use qwen3_omni::{Device, Event, Message, Omni};
//!
//! # fn main() -> qwen3_omni::Result<()> {
//! let omni = Omni::builder("/models/Qwen3-Omni-30B-A3B-Instruct").device(Device::cuda(0)).load()?;
//! let chat = [
//!     Message::system("You are a helpful assistant."),
//!     Message::user().text("What is said, and who is in the picture?").audio("q.wav").image("cat.png"),
//! ];
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
//! The parts are crates of their own and load alone: [`aut_encoder`], [`vision_encoder`], [`thinker`], [`talker`],
//! [`code_predictor`], [`code2wav`]; [`media`] reads files without any model.

mod batch;
mod builder;
mod chat;
mod component;
mod config;
mod device;
mod encode;
mod event;
mod fit;
mod listen;
mod memory;
mod model_files;
mod omni;
mod options;
mod origin;
mod pipeline;
mod places;
mod prefill;
mod processor;
mod session;
mod stages;
mod template;
mod threads;
mod tokenizer;
mod wav;
mod written;

pub use builder::{Loading, OmniBuilder};
pub use chat::{Message, Part, PartKind, Role};
pub use code2wav::Chunking;
pub use component::Component;
pub use config::{OmniConfig, TopConfig};
pub use device::Device;
pub use event::{Audio, Event, Heard, Reply, Speech, SpeechStop, TextStop, Timings, Usage};
pub use listen::{Listener, Loudness};
pub use media::audio::AudioInput;
pub use media::image::ImageInput;
pub use media::video::VideoInput;
pub use model_files::OmniCheckpoint;
pub use omni::Omni;
pub use omni_core::{
    Dtype, Encoded, Error, ModalityEncoder, Place, Result, SamplingOptions, SpanLayout, Vocoder, VocoderStream,
};
pub use options::{ChunkRamp, GenerateOptions, Guards, LastWord, Stages, TalkerPositions, VocoderMode};
pub use pipeline::{Canceller, ReplyStream};
pub use processor::{PartTokens, Prompt};
pub use session::{Answer, Session};
pub use template::{ChatTemplate, TemplateOptions};
pub use tokenizer::{TextStream, Tokenizer};
pub use wav::WavFile;

pub use aut_encoder;
pub use checkpoint;
pub use code2wav;
pub use media;
pub use moe_talker as talker;
pub use moe_thinker as thinker;
pub use mtp as code_predictor;
pub use omni_core as contracts;
pub use tm_rope;
pub use vision_encoder;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
