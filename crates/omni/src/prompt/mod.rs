//! Preparation of prompts: messages, chat template, tokenizer, media, and the options of an answer.

mod counted;
mod message;
mod options;
mod prepare;
mod prepared;
mod template;
mod tokenizer;

pub use message::{Message, Part, PartKind, Role, VideoSound};
pub use options::{ChunkRamp, GenerateOptions, Guards, LastWord, Stages, TalkerPositions, VocoderMode};
pub use prepared::{PartTokens, Prompt};
pub use template::{ChatTemplate, TemplateOptions};
pub use tokenizer::{TextStream, Tokenizer};

pub(crate) use prepare::{Preparer, PromptModel};
pub(crate) use prepared::{Feature, Media, SpeechPlan};
pub(crate) use tokenizer::PendingText;
