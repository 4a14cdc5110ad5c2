//! Pairs for preference optimisation of the talker: it speaks each text several times, a recogniser listens, and the best and the worst
//! way of saying it become a line with `codes` and `rejected_codes`.

mod choice;
mod files;
mod settings;

pub use choice::{Pair, Take};
pub use files::{PairCounts, write_pairs};
pub use settings::PairSettings;

use std::thread;

use eval::normalise::Normaliser;
use eval::wer::Edits;
use eval::{Clip, Recogniser};
use qwen3_omni::{GenerateOptions, Guards, Omni, Part, SamplingOptions, Speech};

use crate::at_once::{at_once, spread_seed};
use crate::data::{Line, split_reasoning};
use crate::{Error, Result};

/// Two seconds of silence or of a loop end a speech: nobody who reads a text aloud does that.
const STUCK_FRAMES: usize = 25;

/// A talker that speaks texts, and a recogniser that listens.
#[derive(Clone, Copy)]
pub struct Pairing<'a> {
    /// The model; it must take twice as many answers at once as there are samples.
    pub omni: &'a Omni,
    /// Puts what it says into words.
    pub recogniser: &'a dyn Recogniser,
    /// How pairs are made.
    pub settings: &'a PairSettings,
}

impl std::fmt::Debug for Pairing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairing").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Pairing<'_> {
    /// Speaks the answer of a line several times and listens to each.
    ///
    /// # Errors
    /// [`Error::Data`] for a line that cannot be spoken, and [`Error::Option`] for a recogniser that fails.
    pub fn takes(&self, line: &Line) -> Result<Vec<Take>> {
        let (text, normaliser) = self.text(line)?;
        let options = self.options(line, &text);
        let asked = (0..self.settings.samples as u64)
            .map(|index| (line.prompt(), options.clone().seed(options.seed.wrapping_add(index))));
        let refuse = |reason: String| line.location.refuse(reason);
        let replies = at_once(self.omni, asked).map_err(|error| line.blame(error))?;
        let spoken = replies.into_iter().map(|reply| reply.speech.ok_or_else(|| refuse("nothing was spoken".into())));
        let spoken = spoken.collect::<Result<Vec<_>>>()?;
        let heard = self.listen(&spoken)?;
        let takes = spoken.into_iter().zip(heard).map(|(Speech { codes, finish_reason, .. }, heard)| {
            let edits = Edits::words(&normaliser.apply(&text), &normaliser.apply(&heard));
            let wer = edits.rate().ok_or_else(|| refuse(format!("`{text}` has no word, expected some")))?;
            Ok(Take { codes, heard, wer, finish_reason })
        });
        takes.collect()
    }

    /// What a line is to say, and how it is compared with what is heard.
    fn text(&self, line: &Line) -> Result<(String, Normaliser)> {
        let answer = line.messages.get(line.prompt().len());
        let answer =
            answer.ok_or_else(|| line.location.refuse("no assistant message at the end, expected one to speak"))?;
        let answer = split_reasoning(answer).map_or_else(|| answer.clone(), |(_, answer)| answer);
        let text: String =
            answer.parts().iter().map(|part| if let Part::Text(text) = part { text } else { "" }).collect();
        if text.trim().is_empty() || !line.prompt().iter().any(|message| message.role() == qwen3_omni::Role::User) {
            return Err(line.location.refuse("expected a user message and an answer with text"));
        }
        let language = line.extra.get("language").and_then(|language| language.as_str());
        Ok((text, Normaliser::of_language(language.unwrap_or(&self.settings.language))))
    }

    fn options(&self, line: &Line, text: &str) -> GenerateOptions {
        let settings = self.settings;
        let guards = Guards::default().looping_frames(STUCK_FRAMES).silent_frames(STUCK_FRAMES);
        let mut options = GenerateOptions::default()
            .read_aloud(text)
            .speech(true)
            .guards(guards)
            .max_codes(settings.max_codes)
            .talker(settings.temperature.map(|temperature| SamplingOptions::talker().temperature(temperature)))
            .seed(spread_seed(settings.seed, line.location.line));
        options.speaker = line.speaker.clone().or_else(|| settings.speaker.clone());
        line.answer_options(&options)
    }

    /// What the recogniser hears of each speech, all at once.
    fn listen(&self, spoken: &[Speech]) -> Result<Vec<String>> {
        let transcribe = |speech: &Speech| {
            let (samples, sample_rate) = (speech.audio.samples.as_slice().into(), speech.audio.sample_rate);
            self.recogniser.transcribe(&Clip { samples, sample_rate, file: None })
        };
        thread::scope(|scope| {
            let threads: Vec<_> = spoken.iter().map(|speech| scope.spawn(move || transcribe(speech))).collect();
            let failed = |reason: String| Error::Option { name: "recogniser", reason };
            let join = |thread: thread::ScopedJoinHandle<'_, eval::Result<String>>| match thread.join() {
                Ok(heard) => heard.map_err(|error| failed(error.to_string())),
                Err(_) => Err(failed("it ended in a panic".into())),
            };
            threads.into_iter().map(join).collect()
        })
    }
}
