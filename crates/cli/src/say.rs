//! Text read aloud.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qwen3_omni::{Error, Message, Result};
use weights_tools::commands::Output;

use crate::answer::{AnswerArguments, answer};
use crate::ask::tell;
use crate::model::ModelArguments;
use crate::parts::standard_input;
use crate::speech::SpeechArguments;

/// The place of the text in a prompt.
const TEXT: &str = "{text}";

/// A question that the text answers.
const READ_ALOUD: &str =
    "Read the following text aloud, word for word. Say nothing before it and nothing after it.\n\n{text}";

/// What nano was taught.
const REPEAT: &str = "repeat {text}";

/// Read a text aloud, into a WAV file
///
/// The text is given to the model as its answer, so that it is spoken word for word.
#[derive(Debug, Args)]
#[command(after_help = "Example: qwen3-omni say \"red cat nine\" --out words.wav\n\nnano knows 50 words.")]
pub struct Say {
    /// The text; - reads it from standard input
    #[arg(required = true)]
    text: Vec<String>,
    /// The question that the text answers, which sets the tone; {text} stands for the text
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Print JSON: what was said, where the speech is, counts, times in seconds
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    speech: SpeechArguments,
    #[command(flatten)]
    answer: AnswerArguments,
    #[command(flatten)]
    model: ModelArguments,
}

impl Say {
    /// Speaks.
    pub fn run(mut self, out: &Output) -> Result<ExitCode> {
        let text = if self.text == ["-"] { standard_input()? } else { self.text.join(" ") };
        let words = words(&text);
        if words.is_empty() {
            return Err(Error::Request("there is nothing to say: the text has no words".into()));
        }
        if !self.speech.is_wanted() {
            self.speech.out = Some(PathBuf::from("speech.wav"));
        }
        let (text, usual) = if self.model.is_nano() { (words.join(" "), REPEAT) } else { (text, READ_ALOUD) };
        let mut chat = self.answer.opening();
        chat.push(Message::user().text(self.prompt.as_deref().unwrap_or(usual).replace(TEXT, &text)));
        let omni = self.model.load(true)?;
        let options = self.answer.options(&self.speech, self.model.is_nano()).read_aloud(text);
        let answered = answer(&omni, &chat, &options, &self.speech, None)?;
        Ok(tell(&answered, self.json, self.answer.is_verbose(), out))
    }
}

/// The words of a text as nano knows them, without case and punctuation.
fn words(text: &str) -> Vec<String> {
    let bare = |word: &str| word.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    text.split_whitespace().map(bare).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_punctuation_are_no_words() {
        assert_eq!(words("Red, cat – nine!"), ["red", "cat", "nine"]);
        assert!(words("…  –").is_empty());
    }
}
