//! Text read aloud.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qwen3_omni::{Error, Message, READ_ALOUD, Result};
use weights_tools::commands::Output;

use crate::answer::answer;
use crate::ask::tell;
use crate::parts::standard_input;
use crate::spoken::SpokenArguments;

/// The place of the text in a prompt.
const TEXT: &str = "{text}";

/// What nano was taught.
pub const REPEAT: &str = "repeat {text}";

/// Read a text aloud, into a WAV file
///
/// The text is given to the model as its answer, so that it is spoken word for word.
#[derive(Debug, Args)]
#[command(after_help = "Example: qwen3-omni say \"red cat nine\" --out words.wav\n\nnano knows 100 words.")]
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
    spoken: SpokenArguments,
}

impl Say {
    /// Speaks.
    pub fn run(self, out: &Output) -> Result<ExitCode> {
        let Self { text, prompt, json, mut spoken } = self;
        let text = if text == ["-"] { standard_input()? } else { text.join(" ") };
        let words = words(&text);
        if words.is_empty() {
            return Err(Error::Request("there is nothing to say: the text has no words".into()));
        }
        if !spoken.speech.is_wanted() {
            spoken.speech.out = Some(PathBuf::from("speech.wav"));
        }
        let (text, usual) = if spoken.model.is_nano() { (words.join(" "), REPEAT) } else { (text, READ_ALOUD) };
        let mut chat = spoken.opening();
        chat.push(Message::user().text(prompt.as_deref().unwrap_or(usual).replace(TEXT, &text)));
        let omni = spoken.load()?;
        let answered = answer(&omni, &chat, &spoken.options().read_aloud(text), &spoken.speech, None)?;
        Ok(tell(&answered, json, spoken.answer.is_verbose(), out))
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
