//! Recordings that are heard: each is spoken once, and heard in several surroundings.

use std::path::Path;

use crate::data::picture::media::on_disk;
use crate::data::sound::studio::{Sentence, Studio};
use crate::data::sound::surroundings::{Around, RATE, place};
use crate::data::sound::voices::Voice;
use crate::data::sound::wave::Wave;
use crate::data::world::draw::Draw;
use crate::data::world::held::Side;
use crate::data::world::sums::Sum;
use crate::data::world::topic::{Group, Topic};
use crate::data::{Result, in_file};

/// Groups and how many of 1,000 recordings they have.
const SHARES: [(Group, usize); 8] = [
    (Group::Sum, 350),
    (Group::Say, 350),
    (Group::Picture, 180),
    (Group::Follow, 34),
    (Group::Light, 24),
    (Group::Number, 24),
    (Group::Glance, 20),
    (Group::Greeting, 18),
];

/// A recording.
#[derive(Debug)]
pub struct Clip {
    /// What it says.
    pub topic: Topic,
    /// Who says it.
    pub voice: Voice,
    /// The files in which it is heard.
    pub uses: Vec<(String, Around)>,
    spoken: String,
}

/// The recordings of one side, each of which is heard about as often as the others of its group.
#[derive(Debug)]
pub struct Ears {
    folder: &'static str,
    clips: Vec<Clip>,
    groups: Vec<(Group, Vec<usize>, usize)>,
}

impl Clip {
    /// A recording that is not heard yet.
    fn new(topic: Topic, voice: Voice, draw: &mut Draw) -> Self {
        let spoken = match &topic {
            // With a pause between the words, now and then.
            Topic::Say(words) if draw.chance(0.3) => words.join(", "),
            topic => topic.text(),
        };
        Self { topic, voice, uses: Vec::new(), spoken }
    }
}

impl Ears {
    /// Plans recordings of all groups, in training by neural voices, too, if they can be used.
    pub fn new(side: Side, count: usize, with_neural: bool, draw: &mut Draw) -> Self {
        let mut ears = Self { folder: side.name(), clips: Vec::new(), groups: Vec::new() };
        for (group, share) in SHARES {
            let first = ears.clips.len();
            for _ in 0..(count * share).div_ceil(1000) {
                let topic = Topic::any(group, side, draw);
                let voice = if side == Side::Held { Voice::held(draw) } else { Voice::train(draw, with_neural) };
                ears.clips.push(Clip::new(topic, voice, draw));
            }
            ears.groups.push((group, (first..ears.clips.len()).collect(), 0));
        }
        ears
    }

    /// Sums and words by given voices in turn, held ones.
    pub fn strangers(voices: &[Voice], count: usize, draw: &mut Draw) -> Self {
        let clip = |number: usize| {
            let group = if (number / voices.len()).is_multiple_of(2) { Group::Sum } else { Group::Say };
            let topic = Topic::any(group, Side::Held, draw);
            Clip::new(topic, voices[number % voices.len()], draw)
        };
        let clips: Vec<Clip> = (0..count).map(clip).collect();
        Self { folder: "strangers", clips, groups: Vec::new() }
    }

    /// Hears the next recording of a group; the path, and what it says.
    pub fn hear(&mut self, group: Group) -> (String, Topic) {
        self.hear_as(group, Around::Any)
    }

    /// Hears the next recording of a group in given surroundings.
    pub fn hear_as(&mut self, group: Group, around: Around) -> (String, Topic) {
        let number = self.next(group).unwrap_or(0);
        self.hear_number(number, around)
    }

    /// Hears the next sum that fits, if any does.
    pub fn hear_sum(&mut self, fits: impl Fn(Sum) -> bool) -> Option<(String, Sum)> {
        for _ in 0..self.clips.len() {
            let number = self.next(Group::Sum)?;
            if let Topic::Sum(sum) = self.clips[number].topic
                && fits(sum)
            {
                return Some((self.hear_number(number, Around::Any).0, sum));
            }
        }
        None
    }

    /// Hears a recording by its number.
    pub fn hear_number(&mut self, number: usize, around: Around) -> (String, Topic) {
        let clip = &mut self.clips[number];
        let path = format!("../media/heard/{}/{number:06}-{}.wav", self.folder, clip.uses.len());
        clip.uses.push((path.clone(), around));
        (path, clip.topic.clone())
    }

    fn next(&mut self, group: Group) -> Option<usize> {
        let (_, numbers, next) = self.groups.iter_mut().find(|(of, ..)| *of == group)?;
        let number = numbers.get(*next % numbers.len().max(1)).copied();
        *next += 1;
        number
    }

    /// All recordings.
    pub fn clips(&self) -> &[Clip] {
        &self.clips
    }

    /// Records everything that is heard.
    ///
    /// # Errors
    /// Errors of the programs that speak, and of files.
    pub fn render(&self, studio: &Studio, out: &Path, seed: u64) -> Result<()> {
        let folder = out.join("media/heard").join(self.folder);
        std::fs::create_dir_all(&folder).map_err(in_file(&folder))?;
        let used: Vec<&Clip> = self.clips.iter().filter(|clip| !clip.uses.is_empty()).collect();
        let sentence = |clip: &&Clip| Sentence { text: clip.spoken.clone(), voice: clip.voice };
        let sentences: Vec<Sentence> = used.iter().map(sentence).collect();
        studio.record(&format!("heard by {}", self.folder), &sentences, |number, wave| {
            for (path, around) in &used[number].uses {
                let samples = place(wave, *around, &mut Draw::new(seed, path, 0));
                Wave { rate: RATE, samples }.write(&on_disk(out, path))?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::world::held;

    #[test]
    fn training_hears_no_held_sum_and_all_recordings_about_as_often() {
        let mut ears = Ears::new(Side::Train, 2000, true, &mut Draw::new(2, "ears", 0));
        assert!(ears.clips().iter().all(|clip| !clip.topic.is_new_sum()));
        let held = |topic: &Topic| matches!(topic, Topic::Say(words) if held::is_list(words));
        assert!(ears.clips().iter().all(|clip| !held(&clip.topic)));
        for _ in 0..1400 {
            assert!(matches!(ears.hear(Group::Say).1, Topic::Say(_)));
        }
        let says = ears.clips().iter().filter(|clip| matches!(clip.topic, Topic::Say(_)));
        assert!(says.into_iter().all(|clip| clip.uses.len() == 2));
    }
}
