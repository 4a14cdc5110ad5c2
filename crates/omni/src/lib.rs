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

#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod config;
#[cfg(feature = "conversation")]
mod conversation;
mod load;
mod model;
mod omni;
mod output;
mod prefill;
mod prompt;
mod recogniser;
mod schedule;
mod session;

#[cfg(feature = "async")]
pub use answer::AsyncEvents;
pub use answer::{Canceller, ReplyStream};
pub use code2wav::Chunking;
pub use config::{Component, OmniConfig, TopConfig};
#[cfg(feature = "conversation")]
pub use conversation::{
    Conversation, ConversationEvent, ConversationEvents, ConversationOptions, TurnDetector, VoiceDetector,
};
pub use load::{Device, DeviceInfo, Loading, OmniBuilder, OmniCheckpoint, available_memory};
pub use media::audio::AudioInput;
pub use media::image::ImageInput;
pub use media::video::VideoInput;
pub use model::image_bounds;
pub use omni::Omni;
pub use omni_core::{
    Dtype, Encoded, Error, ModalityEncoder, Place, Result, SamplingOptions, SpanLayout, Vocoder, VocoderStream,
};
pub use output::{
    Audio, Event, FinishReason, LogProb, Played, PromptTokens, Reply, Speech, SpeechFinish, SpokenWord, Timings,
    TokenLogProbs, ToolCall, Usage, WavFile, WavWriter,
};
#[cfg(feature = "grammar")]
pub use prompt::Grammar;
pub use prompt::{
    ChatTemplate, ChunkRamp, ConversationReader, GenerateOptions, GivenText, Guards, HookContext, LastWord,
    MAX_DRAFT_CODES, Message, Part, PartKind, PartTokens, Prompt, READ_ALOUD, ReadConversation, ReadMedia, Role,
    SpeechFilter, Stages, TRANSCRIBE, TalkerPositions, TemplateOptions, TextStream, TokenHook, TokenHooks, Tokenizer,
    VideoSound, VocoderMode,
};
pub use recogniser::{AutOptions, AutPrompt, AutRecogniser, AutTask, recognition_mel};
pub use session::{Answer, AudioTurn, MelNorm, Session};

pub use aut_encoder;
pub use burn;
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
