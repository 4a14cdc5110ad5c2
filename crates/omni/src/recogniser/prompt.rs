use std::fmt;
use std::str::FromStr;

use omni_core::{Error, Result};

use crate::Tokenizer;

/// What is asked of a sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutTask {
    /// To write what is said.
    #[default]
    Transcribe,
    /// To translate what is said into a language.
    Translate,
    /// To describe what is heard.
    Caption,
    /// To name the language that is spoken.
    Detect,
}

/// What the text decoder is given before a text: a task, and mostly a language.
///
/// ```
/// use qwen3_omni::{AutPrompt, AutTask};
///
/// assert_eq!(AutPrompt::default().to_string(), "transcribe english\n");
/// assert_eq!(AutPrompt::new(AutTask::Translate, "German").to_string(), "translate german\n");
/// assert_eq!(AutPrompt::new(AutTask::Detect, None), "detect".parse()?);
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutPrompt {
    task: AutTask,
    language: Option<String>,
}

impl AutTask {
    /// All tasks.
    pub const ALL: [Self; 4] = [Self::Transcribe, Self::Translate, Self::Caption, Self::Detect];

    /// The name in prompts and training data.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transcribe => "transcribe",
            Self::Translate => "translate",
            Self::Caption => "caption",
            Self::Detect => "detect",
        }
    }
}

impl FromStr for AutTask {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::Request(format!("task `{name}`, expected transcribe, translate, caption or detect"));
        Self::ALL.into_iter().find(|task| task.name() == name).ok_or_else(unknown)
    }
}

impl Default for AutPrompt {
    fn default() -> Self {
        Self::new(AutTask::Transcribe, "english")
    }
}

impl AutPrompt {
    /// Makes a prompt; the language is an English word, as `english`. To detect a language, none is named.
    pub fn new<'a>(task: AutTask, language: impl Into<Option<&'a str>>) -> Self {
        let language = language.into().map(|name| name.trim().to_lowercase());
        Self { task, language: language.filter(|name| !name.is_empty() && task != AutTask::Detect) }
    }

    /// The tokens; `start` is the id that opens a turn.
    ///
    /// # Errors
    /// [`Error::Request`] if it cannot be encoded.
    pub fn ids(&self, tokenizer: &Tokenizer, start: u32) -> Result<Vec<u32>> {
        let mut ids = vec![start];
        ids.extend(tokenizer.encode_as_text(&self.to_string())?);
        Ok(ids)
    }
}

impl fmt::Display for AutPrompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.task.name();
        match &self.language {
            Some(language) => writeln!(f, "{name} {language}"),
            None => writeln!(f, "{name}"),
        }
    }
}

impl FromStr for AutPrompt {
    type Err = Error;

    /// A task and perhaps a language: `transcribe english`.
    fn from_str(text: &str) -> Result<Self> {
        let (task, language) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        Ok(Self::new(task.parse()?, language))
    }
}
