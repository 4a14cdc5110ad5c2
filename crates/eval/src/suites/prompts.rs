//! What a model is asked, unless it is said otherwise.

use qwen3_omni::{AutPrompt, AutTask, TRANSCRIBE};

use super::Suite;
use crate::normalise::Normaliser;

const CHOICE: &str = "{question}\n{options}\nAnswer with the letter of the right option alone.";

const GPQA: &str = "Answer the following question by choosing one of its options. Think step by step. End with a line of the form \
                    \"Answer: LETTER\".\n\n{question}\n\n{options}";

const AIME: &str = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}.";

const ZEBRA: &str = "{question}\n\nSolve the puzzle. Give your reasoning and the solution as JSON of this form, all blanks filled:\n\n{options}";

const READ_ALOUD: &str =
    "Read the following text aloud, word for word. Say nothing before it and nothing after it.\n\n{text}";

impl Suite {
    /// The usual prompt, in which `{question}`, `{options}` and `{text}` stand for what an item has. Empty for what is transcribed.
    pub fn prompt(self) -> &'static str {
        match self {
            Self::Librispeech | Self::Fleurs | Self::Wenetspeech | Self::Waves => "",
            Self::Gtzan | Self::Choice => CHOICE,
            Self::Gpqa => GPQA,
            Self::Aime => AIME,
            Self::Zebra => ZEBRA,
            Self::SeedTts => READ_ALOUD,
        }
    }

    /// The usual question behind a recording that is to be transcribed.
    pub fn transcribe_prompt(self, normaliser: Normaliser) -> &'static str {
        match (self, normaliser) {
            (_, Normaliser::English) => "Transcribe the English audio into text.",
            (Self::Wenetspeech | Self::SeedTts | Self::Waves, Normaliser::Characters) => {
                "请将这段中文语音转换为纯文本。"
            }
            _ => TRANSCRIBE,
        }
    }

    /// What the text decoder of an audio encoder is given before a transcript.
    pub fn aut_prompt(self, normaliser: Normaliser) -> AutPrompt {
        let language = match (self, normaliser) {
            (_, Normaliser::English) => Some("english"),
            (Self::Wenetspeech | Self::SeedTts | Self::Waves, Normaliser::Characters) => Some("chinese"),
            _ => None,
        };
        AutPrompt::new(AutTask::Transcribe, language)
    }

    /// Whether recordings of the suite are transcribed.
    pub fn is_transcribed(self) -> bool {
        matches!(self, Self::Librispeech | Self::Fleurs | Self::Wenetspeech | Self::Waves)
    }

    /// Whether the model speaks.
    pub fn is_spoken(self) -> bool {
        self == Self::SeedTts
    }

    /// Whether items have sound.
    pub fn is_heard(self) -> bool {
        self.is_transcribed() || matches!(self, Self::Gtzan | Self::Choice)
    }
}
