//! The stages of the technical report, each an objective with its settings.

mod adapters;
mod answering;
mod augment;
mod aut;
mod codec;
mod distill;
mod dpo;
mod feed;
mod gspo;
mod rollout;
mod settings;
mod sft;
mod spoken_reader;
mod talker;

pub use augment::{AugmentSettings, Augmenter};
pub use aut::{AutSettings, Transcribing, TranscriptReader, TranscriptSample, Transcripts};
pub use codec::{
    CodecSettings, CodedWave, CodedWaves, Coding, DiscriminatorSettings, Recordings, SpeechEncoder, Vocoding,
};
pub use distill::{
    CheckpointTeacher, DistillSettings, Distilling, Lessons, OnPolicySettings, OwnAnswers, StoredTeacher, Teacher,
    TeacherLogits, lessons, teach,
};
pub use dpo::{Preferring, SpokenPair, SpokenPairs};
pub use feed::{BatchFeed, Resumable, SpeechReader, conversations};
pub use gspo::{Rewarding, ScoredAnswer, ScoredAnswers};
pub use rollout::Rollouts;
pub use settings::{DpoSettings, GspoSettings, LoraSettings, SftSettings, TalkerSettings};
pub use sft::{Conversations, Sft};
pub use spoken_reader::SpokenSample;
pub use talker::{SpokenAnswers, Talking};
