//! Voices of the synthesisers.

use crate::data::world::draw::Draw;

/// A program that speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// `espeak-ng`.
    Espeak,
    /// `flite`.
    Flite,
    /// `festival`.
    Festival,
    /// `piper`.
    Piper,
    /// Kokoro and `hibari`, by `neural.py`.
    Neural,
}

/// A voice as it is set for one sentence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Voice {
    /// Its program.
    pub engine: Engine,
    /// Its name there.
    pub name: &'static str,
    /// Whether it is a woman's.
    pub is_woman: bool,
    /// Words a minute of `espeak-ng`; of all others, percentage of the usual speed.
    pub speed: i32,
    /// Height from 0 to 99, of `espeak-ng` only.
    pub pitch: i32,
}

/// The voices of the spoken answers, by the names of their speakers.
pub const SPEAKERS: [(&str, Voice); 2] = [
    ("ethan", Voice::of(Engine::Flite, "rms", false)),
    ("chelsie", Voice::of(Engine::Festival, "cmu_us_slt_arctic_hts", true)),
];

/// Voices that ask in training, beside `espeak-ng`.
const OTHERS: [Voice; 6] = [
    Voice::of(Engine::Flite, "slt", true),
    Voice::of(Engine::Flite, "kal16", false),
    Voice::of(Engine::Flite, "rms", false),
    Voice::of(Engine::Festival, "kal_diphone", false),
    Voice::of(Engine::Festival, "ked_diphone", false),
    Voice::of(Engine::Festival, "cmu_us_slt_arctic_hts", true),
];

/// Neural voices that ask in training, each with its accent, and how often. Kokoro's take fifty times as long as hibari's `heart`.
const NEURAL: [(u32, Voice); 12] = [
    (8, Voice::of(Engine::Neural, "heart\tus", true)),
    (8, Voice::of(Engine::Neural, "heart\tgb", true)),
    (1, Voice::of(Engine::Neural, "alpha\tus", true)),
    (1, Voice::of(Engine::Neural, "alpha\tgb", true)),
    (1, Voice::of(Engine::Neural, "gongitsune\tus", true)),
    (1, Voice::of(Engine::Neural, "gongitsune\tgb", true)),
    (1, Voice::of(Engine::Neural, "nezumi\tus", true)),
    (1, Voice::of(Engine::Neural, "nezumi\tgb", true)),
    (1, Voice::of(Engine::Neural, "tebukuro\tus", true)),
    (1, Voice::of(Engine::Neural, "tebukuro\tgb", true)),
    (4, Voice::of(Engine::Neural, "kumo\tus", false)),
    (4, Voice::of(Engine::Neural, "kumo\tgb", false)),
];

/// Variants of `espeak-ng` that ask in training, and which of them are women's.
const VARIANTS: [(&str, bool); 22] = [
    ("en-us", false),
    ("en-us+m1", false),
    ("en-us+m3", false),
    ("en-us+m5", false),
    ("en-us+f1", true),
    ("en-us+f2", true),
    ("en-us+f3", true),
    ("en-gb", false),
    ("en-gb+m2", false),
    ("en-gb+f4", true),
    ("en-gb-scotland", false),
    ("en-gb-scotland+f2", true),
    ("en-029", false),
    ("en-gb-x-rp", false),
    ("en-gb-x-rp+f1", true),
    ("en-us+Andy", false),
    ("en-us+linda", true),
    ("en-us+steph", true),
    ("en-gb+Denis", false),
    ("en-us+max", false),
    ("en-us+Annie", true),
    ("en-us+ed", false),
];

/// Variants that only evaluation hears.
const HELD_VARIANTS: [(&str, bool); 6] = [
    ("en-us+m7", false),
    ("en-gb+f5", true),
    ("en-us+f4", true),
    ("en-gb-x-gbclan+m4", false),
    ("en-us+Alex", false),
    ("en-gb+belinda", true),
];

/// Voices of other programs that only evaluation hears.
pub const STRANGERS: [Voice; 2] = [Voice::of(Engine::Flite, "awb", false), Voice::of(Engine::Piper, "joe", false)];

impl Voice {
    const fn of(engine: Engine, name: &'static str, is_woman: bool) -> Self {
        Self { engine, name, is_woman, speed: 100, pitch: 0 }
    }

    fn variant(variants: &[(&'static str, bool)], draw: &mut Draw) -> Self {
        let (name, is_woman) = draw.pick(variants);
        let (speed, pitch) = (draw.whole(125, 185), draw.whole(30, 70));
        Self { engine: Engine::Espeak, name, is_woman, speed, pitch }
    }

    /// A voice of training: a third of them of `espeak-ng`, whose many variants are one synthesiser's; a third is neural, if those can
    /// be used.
    pub fn train(draw: &mut Draw, with_neural: bool) -> Self {
        if with_neural && draw.chance(1.0 / 3.0) {
            return Self { speed: draw.whole(80, 130), ..draw.weighted(&NEURAL) };
        }
        match draw.chance(0.35) {
            true => Self::variant(&VARIANTS, draw),
            false => Self { speed: draw.whole(75, 130), ..draw.pick(&OTHERS) },
        }
    }

    /// A variant of `espeak-ng` that training does not hear.
    pub fn held(draw: &mut Draw) -> Self {
        Self::variant(&HELD_VARIANTS, draw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_voices_are_not_heard_in_training() {
        let held: Vec<&str> =
            HELD_VARIANTS.iter().map(|(name, _)| *name).chain(STRANGERS.map(|voice| voice.name)).collect();
        assert!(VARIANTS.iter().all(|(name, _)| !held.contains(name)));
        let speakers = SPEAKERS.iter().map(|(_, voice)| voice);
        let mut all = OTHERS.iter().chain(speakers).chain(NEURAL.iter().map(|(_, voice)| voice));
        assert!(all.all(|voice| !held.contains(&voice.name)));
    }
}
