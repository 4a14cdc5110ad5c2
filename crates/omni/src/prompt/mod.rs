//! Preparation of prompts: messages, chat template, tokenizer, media, and the options of an answer.

mod counted;
#[cfg(feature = "grammar")]
mod grammar;
mod hook;
mod media_part;
mod message;
mod options;
mod prepare;
mod prepared;
mod reader;
mod template;
mod tokenizer;

#[cfg(feature = "grammar")]
pub use grammar::Grammar;
pub use hook::{HookContext, TokenHook, TokenHooks};
pub use message::{Message, Part, PartKind, Role, VideoSound};
pub use options::{
    ChunkRamp, GenerateOptions, GivenText, Guards, LastWord, MAX_DRAFT_CODES, READ_ALOUD, SpeechFilter, Stages,
    TRANSCRIBE, TalkerPositions, VocoderMode,
};
pub use prepared::{PartTokens, Prompt};
pub use reader::{ConversationReader, ReadConversation, ReadMedia};
pub use template::{ChatTemplate, TemplateOptions};
pub use tokenizer::{TextStream, Tokenizer};

pub(crate) use hook::Hook;
pub(crate) use prepare::{Preparer, PromptModel};
pub(crate) use prepared::{Feature, Media, SpeechPlan, on_device};
pub(crate) use template::{CALL_CLOSE, CALL_OPEN};
pub(crate) use tokenizer::PendingText;
