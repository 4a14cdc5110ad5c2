//! Flags of the commands whose answers can be spoken.

use clap::Args;
use qwen3_omni::{GenerateOptions, Message, Omni, Result};

use crate::answer::AnswerArguments;
use crate::model::ModelArguments;
use crate::speech::SpeechArguments;

/// Flags of speech, of the answer and of the model.
#[derive(Debug, Clone, Args)]
pub struct SpokenArguments {
    #[command(flatten)]
    pub speech: SpeechArguments,
    #[command(flatten)]
    pub answer: AnswerArguments,
    #[command(flatten)]
    pub model: ModelArguments,
}

impl SpokenArguments {
    /// Loads the model, with what makes speech if the answer is spoken.
    ///
    /// # Errors
    /// The errors of [`ModelArguments::load`].
    pub fn load(&self) -> Result<Omni> {
        self.model.load(self.speech.is_wanted())
    }

    /// The messages before the first question.
    pub fn opening(&self) -> Vec<Message> {
        self.answer.opening()
    }

    /// The options of an answer.
    pub fn options(&self) -> GenerateOptions {
        self.answer.options(&self.speech, self.model.is_nano())
    }
}
