//! Asking all items, several at once.

mod items_file;
mod outcome;
mod settings;
mod sounds;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use qwen3_omni::media::audio::SAMPLE_RATE;
use qwen3_omni::{AudioInput, FinishReason, GenerateOptions, Message, Omni};

pub use items_file::ItemsFile;
pub use outcome::{Outcome, Outcomes};
pub use settings::Settings;

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::item::{Expected, Item, Sound, Task};
use crate::normalise::Normaliser;
use crate::recogniser::{Clip, Recogniser};
use crate::score::Score;
use sounds::Sounds;

/// What is asked, and how.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    /// The model that answers and speaks. Transcribing needs a recogniser alone.
    pub omni: Option<&'a Omni>,
    /// Hears what is to be transcribed, and what the model spoke.
    pub recogniser: Option<&'a dyn Recogniser>,
    /// What is to be transcribed is heard a second time, after it went through this codec.
    pub codec: Option<&'a Codec>,
    /// The question, with `{question}`, `{options}` and `{text}` for what an item has.
    pub prompt: &'a str,
    /// Options of answers.
    pub options: &'a GenerateOptions,
    /// Where speech is kept as WAV files; nowhere if `None`.
    pub speech: Option<&'a Path>,
    /// Items that are asked at once. The model must take twice as many answers
    /// ([`max_answers`](qwen3_omni::OmniBuilder::max_answers)): one may begin before the one before it has quite ended.
    pub sessions: usize,
}

impl std::fmt::Debug for Evaluation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluation")
            .field("prompt", &self.prompt)
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}

impl Evaluation<'_> {
    /// Asks the items that are not in the file yet, passes each to `told` as it is done, and writes it into the file.
    ///
    /// # Errors
    /// The first item that cannot be measured ends the run; what was done before is in the file.
    pub fn run(&self, items: &[Item], file: &mut ItemsFile, told: &mut dyn FnMut(&Outcome)) -> Result<Outcomes> {
        let begin = Instant::now();
        let mut sound_seconds = 0.0;
        let open: Vec<&Item> = file.open_items(items)?;
        let rate = self.codec.map_or(SAMPLE_RATE, Codec::sample_rate);
        let (next, is_over, sounds) = (AtomicUsize::new(0), AtomicBool::new(false), Sounds::at(rate));
        let (send, outcomes) = mpsc::channel();
        let ask_on = |send: mpsc::Sender<Result<Outcome>>| {
            while let Some(item) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                if is_over.load(Ordering::Relaxed) || send.send(self.ask(item, &sounds)).is_err() {
                    break;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.sessions.clamp(1, open.len().max(1)) {
                let send = send.clone();
                scope.spawn(|| ask_on(send));
            }
            drop(send);
            let noted = outcomes.iter().try_for_each(|outcome| {
                let outcome = outcome?;
                told(&outcome);
                sound_seconds += outcome.sound_seconds;
                file.append(outcome)
            });
            is_over.store(true, Ordering::Relaxed);
            noted
        })?;
        Ok(Outcomes { all: file.of(items), new_items: open.len(), sound_seconds, elapsed: begin.elapsed() })
    }

    fn ask(&self, item: &Item, sounds: &Sounds) -> Result<Outcome> {
        let named = |source| Error::Item { id: item.id.clone(), source: Box::new(source) };
        match &item.task {
            Task::Transcribe { sound, text, normaliser } => {
                let hear = || match self.codec {
                    Some(codec) => self.transcribe_twice(sounds.clip(sound)?, codec, (text, *normaliser)),
                    None => self.transcribe(sounds.clip(sound)?, |heard| Score::transcript(text, heard, *normaliser)),
                };
                hear().map(|measured| measured.of(item))
            }
            Task::Answer { question, sound, expected } => {
                self.answer(question, sound.as_ref(), expected, sounds).map(|measured| measured.of(item))
            }
            Task::Speak { text, normaliser } => {
                let hear = |clip| self.transcribe(clip, |heard| Score::speech(text, heard, *normaliser));
                self.speak(&item.id, text).and_then(|(clip, seconds)| Ok(Measured { seconds, ..hear(clip)? }.of(item)))
            }
        }
        .map_err(named)
    }

    fn transcribe(&self, clip: Clip, score: impl Fn(&str) -> Score) -> Result<Measured> {
        let recogniser = self.recogniser.ok_or_else(|| Error::Request("a recogniser is needed".into()))?;
        let begin = Instant::now();
        let answer = recogniser.transcribe(&clip)?;
        let seconds = begin.elapsed().as_secs_f64();
        let score = score(&answer);
        Ok(Measured { answer, is_cut_off: false, score, seconds, sound_seconds: clip.seconds() })
    }

    /// Hears a recording as it is and as a codec leaves it.
    fn transcribe_twice(&self, clip: Clip, codec: &Codec, (text, normaliser): (&str, Normaliser)) -> Result<Measured> {
        let recogniser = self.recogniser.ok_or_else(|| Error::Request("a recogniser is needed".into()))?;
        let begin = Instant::now();
        let recoded = Clip { samples: codec.recode(&clip.samples)?.into(), file: None, ..clip };
        let [before, answer] = [recogniser.transcribe(&clip)?, recogniser.transcribe(&recoded)?];
        let seconds = begin.elapsed().as_secs_f64();
        let score = Score::codec(text, [&before, &answer], normaliser);
        Ok(Measured { answer, is_cut_off: false, score, seconds, sound_seconds: clip.seconds() })
    }

    fn answer(&self, question: &str, sound: Option<&Sound>, expected: &Expected, sounds: &Sounds) -> Result<Measured> {
        let mut message = Message::user();
        let clip = sound.map(|sound| sounds.clip(sound)).transpose()?;
        let sound_seconds = clip.as_ref().map_or(0.0, Clip::seconds);
        if let Some(clip) = clip {
            message = message.audio(AudioInput::samples(clip.samples, clip.sample_rate, 1));
        }
        let text = self.prompt.replace("{question}", question).replace("{options}", &expected.options());
        let begin = Instant::now();
        let reply = self.model()?.generate(&[message.text(text)], &self.options.clone().text_only())?;
        let seconds = begin.elapsed().as_secs_f64();
        let is_cut_off = matches!(reply.finish_reason, FinishReason::Limit | FinishReason::Context);
        let score = Score::answer(&reply.text, expected);
        Ok(Measured { answer: reply.text, is_cut_off, score, seconds, sound_seconds })
    }

    /// Reads a text aloud; returns the sound and the seconds it took.
    fn speak(&self, id: &str, text: &str) -> Result<(Clip, f64)> {
        let options = self.options.clone().read_aloud(text);
        let begin = Instant::now();
        let reply = self.model()?.generate(&[Message::user().text(self.prompt.replace("{text}", text))], &options)?;
        let seconds = begin.elapsed().as_secs_f64();
        let speech = reply.speech.ok_or_else(|| Error::Request(format!("nothing was spoken for `{text}`")))?;
        let file = self.speech.map(|folder| folder.join(format!("{}.wav", id.replace(['/', '\\'], "_"))));
        if let Some(file) = &file {
            speech.audio.save_wav(file)?;
        }
        Ok((Clip { sample_rate: speech.audio.sample_rate, samples: speech.audio.samples.into(), file }, seconds))
    }

    fn model(&self) -> Result<&Omni> {
        self.omni.ok_or_else(|| Error::Request("a model is needed".into()))
    }
}

/// An outcome that does not know its item.
struct Measured {
    answer: String,
    is_cut_off: bool,
    score: Score,
    seconds: f64,
    sound_seconds: f64,
}

impl Measured {
    fn of(self, item: &Item) -> Outcome {
        let Self { answer, is_cut_off, score, seconds, sound_seconds } = self;
        let (id, group, expected) = (item.id.clone(), item.group.clone(), item.expected());
        Outcome { id, group, expected, answer, is_cut_off, score, seconds, sound_seconds }
    }
}
