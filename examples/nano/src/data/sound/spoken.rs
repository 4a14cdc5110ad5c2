//! Answers that are spoken, in the two voices of the model.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::data::picture::media::on_disk;
use crate::data::sound::resample::to_rate;
use crate::data::sound::studio::{Sentence, Studio};
use crate::data::sound::voices::{SPEAKERS, Voice};
use crate::data::sound::wave::{Wave, rms};
use crate::data::typed::line::Line;
use crate::data::typed::text::any_system;
use crate::data::typed::tools::UNKNOWN;
use crate::data::world::draw::Draw;
use crate::data::world::held::{self, Side};
use crate::data::world::sentences;
use crate::data::{Result, in_file};

/// Samples per second of speech, and of a frame of its codec.
const RATE: u32 = 24_000;
const FRAME: usize = 1920;
/// Silent samples in front, and at least behind.
const LEAD: usize = 120;
const TAIL: usize = 720;
/// How loud the voiced part is, and the peak that is not passed.
const LOUDNESS: f32 = 0.08;
const PEAK: f32 = 0.89;
/// Percentage of the usual speed at which single words are recorded.
const WORD_SPEED: i32 = 95;
/// Percentage of lines whose question belongs to the answer.
const FITTING: usize = 15;

/// Lines whose questions are used: of text, sound, and pictures or films.
#[derive(Debug)]
pub struct Prompts<'a> {
    text: Vec<&'a Line>,
    sound: Vec<&'a Line>,
    sight: Vec<&'a Line>,
}

/// Recordings of answers that are planned.
#[derive(Debug)]
pub struct Speeches {
    side: Side,
    sentences: Vec<(Sentence, String)>,
}

/// Sounds that are joined of recordings, and what of.
#[derive(Debug)]
pub struct Joined(Vec<(Vec<String>, String)>);

impl<'a> Prompts<'a> {
    /// Sorts lines by what their first question is made of.
    pub fn new(lines: impl Iterator<Item = &'a Line>) -> Self {
        let mut prompts = Self { text: Vec::new(), sound: Vec::new(), sight: Vec::new() };
        for line in lines.filter(|line| line.last_answer().is_some()) {
            let parts = line.question().and_then(|message| message["content"].as_array());
            let has = |kind: &str| parts.is_some_and(|parts| parts.iter().any(|part| part["type"] == kind));
            let list = match (has("image") || has("video"), has("audio")) {
                (true, _) => &mut prompts.sight,
                (_, true) => &mut prompts.sound,
                _ => &mut prompts.text,
            };
            list.push(line);
        }
        prompts
    }

    fn any(&self, draw: &mut Draw) -> &'a Line {
        loop {
            let lists = [(40, &self.text), (30, &self.sound), (30, &self.sight)];
            let list = draw.weighted(&lists);
            if !list.is_empty() {
                return draw.pick(list);
            }
        }
    }

    /// A line whose answer can be spoken and is not among those that are.
    fn fitting(&self, said: &HashSet<String>, side: Side, draw: &mut Draw) -> Option<(&'a Line, String)> {
        let found = (0..500).map(|_| self.any(draw)).find(|line| {
            let answer = line.last_answer().unwrap_or_default();
            let is_free = side == Side::Held || !held::is_of_sum(answer);
            is_free && !answer.is_empty() && !answer.contains('{') && !said.contains(answer)
        });
        found.map(|line| (line, line.last_answer().unwrap_or_default().to_owned()))
    }

    /// The answer behind the question of any other line, so that nothing but the answer tells what is said.
    fn unrelated(&self, answer: &str, draw: &mut Draw) -> Line {
        let other = |draw: &mut Draw| loop {
            let line = self.any(draw);
            if line.last_answer() != Some(answer) {
                return line;
            }
        };
        let question = |line: &Line| line.question().cloned().unwrap_or(Value::Null);
        let ask = |line: Line, other: &Line| {
            let line = line.message(question(other));
            if other.has_sound() { line.with_sound() } else { line }
        };
        let mut line = Line::new("spoken");
        if draw.chance(0.1) {
            line = line.system(&any_system(draw));
        }
        if draw.chance(0.1) {
            let earlier = other(draw);
            // A call of a function is not told.
            let said = json!({"role": "assistant", "content": earlier.first_answer().unwrap_or(UNKNOWN)});
            line = ask(line, earlier).message(said);
        }
        ask(line, other(draw)).answer(answer)
    }
}

impl Speeches {
    /// Plans recordings of different sentences, none of them among those of `others`, the same number for each speaker; and their
    /// lines in a random order.
    pub fn plan(
        side: Side,
        count: usize,
        prompts: &Prompts,
        others: Option<&Self>,
        draw: &mut Draw,
    ) -> (Vec<Line>, Self) {
        let others = others.map_or(&[][..], |others| &others.sentences);
        let taken: HashSet<String> = others.iter().map(|(sentence, _)| sentence.text.clone()).collect();
        let mut speeches = Self { side, sentences: Vec::new() };
        let mut lines = Vec::new();
        for (at, (speaker, voice)) in SPEAKERS.into_iter().enumerate() {
            let count = (count + 1 - at) / 2;
            let mut said = taken.clone();
            let mut made = Vec::new();
            for number in 0..count {
                let fits = (number * FITTING) % 100 + FITTING > 99;
                let fitting = if fits { prompts.fitting(&said, side, draw) } else { None };
                let (line, text) = match fitting {
                    Some((line, text)) => (line.clone().of_kind("spoken fitting"), text),
                    None => {
                        let text = new_sentence(&said, side, draw);
                        (prompts.unrelated(&text, draw), text)
                    }
                };
                said.insert(text.clone());
                made.push((line, text));
            }
            draw.shuffle(&mut made);
            for (number, (line, text)) in made.into_iter().enumerate() {
                let folder = if side == Side::Held { "held-" } else { "" };
                let path = format!("../media/speech/{folder}{speaker}/{number:06}.wav");
                lines.push(line.spoken(path.clone(), speaker));
                speeches.sentences.push((Sentence { text, voice }, path));
            }
        }
        draw.shuffle(&mut lines);
        (lines, speeches)
    }

    /// Plans a recording of each word that is said here, by each speaker; and their lines.
    pub fn words(&self) -> (Vec<Line>, Self) {
        let words: BTreeSet<&str> = self.sentences.iter().flat_map(|(sentence, _)| sentence.text.split(' ')).collect();
        let mut speeches = Self { side: self.side, sentences: Vec::new() };
        let mut lines = Vec::new();
        for (speaker, voice) in SPEAKERS {
            for word in &words {
                let path = word_path(speaker, word);
                lines.push(Line::new("spoken word").asks("say it").answer(*word).spoken(path.clone(), speaker));
                let voice = Voice { speed: WORD_SPEED, ..voice };
                speeches.sentences.push((Sentence { text: (*word).to_owned(), voice }, path));
            }
        }
        (lines, speeches)
    }

    /// Plans sounds of some of the sentences, joined of the recordings of [`Self::words`]; and their lines.
    pub fn joined(&self, count: usize) -> (Vec<Line>, Joined) {
        let sentences = self.sentences.iter().zip(SPEAKERS.iter().cycle()).take(count).enumerate();
        let mut joined = Joined(Vec::new());
        let lines = sentences.map(|(number, ((sentence, _), (speaker, _)))| {
            let path = format!("../media/speech/joined/{number:06}.wav");
            let parts = sentence.text.split(' ').map(|word| word_path(speaker, word)).collect();
            joined.0.push((parts, path.clone()));
            Line::new("spoken joined").asks("say it").answer(&sentence.text).spoken(path, speaker)
        });
        (lines.collect(), joined)
    }

    /// Records everything.
    ///
    /// # Errors
    /// Errors of the programs that speak, and of files.
    pub fn render(&self, studio: &Studio, out: &Path) -> Result<()> {
        for (_, path) in &self.sentences {
            if let Some(folder) = on_disk(out, path).parent() {
                std::fs::create_dir_all(folder).map_err(in_file(folder))?;
            }
        }
        let sentences: Vec<Sentence> = self.sentences.iter().map(|(sentence, _)| sentence.clone()).collect();
        studio.record(&format!("spoken for {}", self.side.name()), &sentences, |number, wave| {
            finished(wave).write(&on_disk(out, &self.sentences[number].1))
        })
    }
}

impl Joined {
    /// Joins the recordings, which must have been made.
    ///
    /// # Errors
    /// For files that cannot be read or written.
    pub fn render(&self, out: &Path) -> Result<()> {
        self.0.par_iter().try_for_each(|(parts, path)| {
            let parts = parts.iter().map(|part| Wave::read(&on_disk(out, part))).collect::<Result<Vec<_>>>()?;
            let samples = parts.into_iter().flat_map(|wave| wave.samples).collect();
            let path = on_disk(out, path);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(in_file(folder))?;
            }
            Wave { rate: RATE, samples }.write(&path)
        })
    }
}

/// Where a speaker's recording of a word lies.
fn word_path(speaker: &str, word: &str) -> String {
    format!("../media/speech/words-{speaker}/{word}.wav")
}

#[cfg(test)]
impl Speeches {
    /// How many different sentences each speaker says.
    pub fn distinct(&self) -> Vec<usize> {
        let of = |name: &str| -> HashSet<&str> {
            let sentences = self.sentences.iter().filter(|(sentence, _)| sentence.voice.name == name);
            sentences.map(|(sentence, _)| sentence.text.as_str()).collect()
        };
        SPEAKERS.iter().map(|(_, voice)| of(voice.name).len()).collect()
    }
}

/// A sentence that was not said, if there is one.
fn new_sentence(said: &HashSet<String>, side: Side, draw: &mut Draw) -> String {
    let mut text = sentences::any(side, draw);
    for _ in 0..1000 {
        if !said.contains(&text) {
            break;
        }
        text = sentences::any(side, draw);
    }
    text
}

/// The recording as a model is to say it: without silence, as loud as all others, in whole frames of the codec.
fn finished(wave: &Wave) -> Wave {
    let wave = Wave { rate: RATE, samples: to_rate(&wave.samples, wave.rate, RATE) }.trimmed(0.0);
    let factor = (LOUDNESS / voiced(&wave.samples).max(1e-4)).min(PEAK / wave.peak().max(1e-4));
    let mut wave = wave.times(factor);
    wave.samples.splice(..0, [0.0; LEAD]);
    wave.samples.resize((wave.samples.len() + TAIL).next_multiple_of(FRAME), 0.0);
    wave
}

/// The loudness of the voiced part: of stretches of 20 ms that are not much softer than the loudest.
fn voiced(samples: &[f32]) -> f32 {
    let each: Vec<f32> = samples.chunks(RATE as usize / 50).map(rms).collect();
    let least = each.iter().fold(0f32, |most, loudness| most.max(*loudness)) * 0.2;
    let squares: Vec<f32> = each.into_iter().filter(|loudness| *loudness >= least).map(|rms| rms * rms).collect();
    (squares.iter().sum::<f32>() / squares.len().max(1) as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_fills_whole_frames_and_is_as_loud_as_asked() {
        let sound = (0..20_000).map(|i| (i as f32 * 0.2).sin() * 0.3);
        let samples = std::iter::repeat_n(0.0, 3000).chain(sound).chain(std::iter::repeat_n(0.0, 5000)).collect();
        let wave = finished(&Wave { rate: 16_000, samples });
        assert!(wave.samples.len().is_multiple_of(FRAME) && wave.samples.len() >= 30_000 + LEAD + TAIL);
        assert!(wave.samples[..LEAD].iter().all(|sample| *sample == 0.0));
        assert!((rms(&wave.samples[LEAD..LEAD + 29_000]) - LOUDNESS).abs() < 0.003);
    }

    #[test]
    fn each_word_is_recorded_by_each_speaker_and_joined() {
        let sentence = |text: &str| (Sentence { text: text.into(), voice: SPEAKERS[0].1 }, String::new());
        let said = Speeches { side: Side::Train, sentences: vec![sentence("red cat"), sentence("a red cat")] };
        let (lines, words) = said.words();
        let answers: Vec<_> = lines.iter().filter_map(Line::last_answer).collect();
        assert_eq!(answers, ["a", "cat", "red", "a", "cat", "red"]);
        let (joined, sounds) = said.joined(10);
        assert_eq!((joined.len(), joined[1].last_answer()), (2, Some("a red cat")));
        let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        words.render(&Studio::humming(folder.path().to_owned()), out.path()).unwrap();
        sounds.render(out.path()).unwrap();
        let length = |path: &str| Wave::read(&on_disk(out.path(), path)).unwrap().samples.len();
        let parts = ["a", "red", "cat"].map(|word| word_path(SPEAKERS[1].0, word));
        assert_eq!(length(&sounds.0[1].1), parts.iter().map(|part| length(part)).sum::<usize>());
    }

    #[test]
    fn fifteen_of_a_hundred_fit() {
        let fits = (0..100).filter(|number| (number * FITTING) % 100 + FITTING > 99).count();
        assert_eq!(fits, FITTING);
    }
}
