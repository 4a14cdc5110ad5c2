//! Lines in which the user is heard.

use serde_json::{Value, json};

use crate::data::picture::media::Media;
use crate::data::sound::heard::Ears;
use crate::data::sound::studio::Studio;
use crate::data::sound::surroundings::Around;
use crate::data::sound::voices::{Engine, STRANGERS};
use crate::data::typed::line::{Line, Part};
use crate::data::typed::talks;
use crate::data::typed::tools;
use crate::data::world::draw::Draw;
use crate::data::world::held::Side;
use crate::data::world::topic::{Group, Topic};

#[derive(Clone, Copy)]
enum Kind {
    One(Group),
    Light,
    Turns,
}

/// Lines of all kinds.
pub fn lines(side: Side, count: usize, draw: &mut Draw, media: &mut Media, ears: &mut Ears) -> Vec<Line> {
    let kinds = [
        (36, Kind::One(Group::Sum)),
        (36, Kind::One(Group::Say)),
        (6, Kind::One(Group::Greeting)),
        (8, Kind::Light),
        (14, Kind::Turns),
    ];
    let mut line = |draw: &mut Draw| match draw.weighted(&kinds) {
        Kind::One(group) => answered(ears.hear(group)),
        Kind::Light => tools::heard_light(draw, ears),
        Kind::Turns => talks::heard(side, draw, media, ears),
    };
    (0..count).map(|_| line(draw)).collect()
}

/// Sums and words between half a second or one of silence.
pub fn in_silence(count: usize, ears: &mut Ears) -> Vec<Line> {
    let line = |number: usize| {
        let group = if number.is_multiple_of(2) { Group::Sum } else { Group::Say };
        let seconds = if (number / 2).is_multiple_of(2) { 0.5 } else { 1.0 };
        let kind = if seconds < 1.0 { "0.5 s of silence" } else { "1 s of silence" };
        answered(ears.hear_as(group, Around::Silence(seconds))).of_kind(kind)
    };
    (0..count).map(line).collect()
}

/// Every sentence of a stranger with each of four silences around it; the strangers' recordings.
pub fn strangers(count: usize, studio: &Studio, draw: &mut Draw) -> (Vec<Line>, Ears) {
    let can_speak = |engine| engine != Engine::Piper || studio.has_piper();
    let voices: Vec<_> = STRANGERS.into_iter().filter(|voice| can_speak(voice.engine)).collect();
    let mut ears = Ears::strangers(&voices, count.div_ceil(4), draw);
    let silences = [0.0, 0.25, 0.5, 1.0];
    let kinds = [
        "stranger, no silence",
        "stranger, 0.25 s of silence",
        "stranger, 0.5 s of silence",
        "stranger, 1 s of silence",
    ];
    let line = |number: usize| {
        let around = Around::Silence(silences[number % 4]);
        answered(ears.hear_number(number / 4, around)).of_kind(kinds[number % 4])
    };
    ((0..count).map(line).collect(), ears)
}

/// The line of a recording that is answered at once.
fn answered((path, topic): (String, Topic)) -> Line {
    let sound = Part::Sound(path);
    let is_new = topic.is_new_sum();
    match topic {
        Topic::Sum(sum) => {
            Line::new(if is_new { "heard new sum" } else { "heard sum" }).says(&[sound]).answer(sum.answer())
        }
        Topic::Say(words) => {
            let line = Line::new("heard say").says(&[sound, Part::Text("what did i say".into())]);
            line.answer(said(&words))
        }
        Topic::Greeting(_, answer) => Line::new("heard greeting").says(&[sound]).answer(answer),
        other => Line::new("heard").says(&[sound]).answer(other.text()),
    }
}

/// The answer to "what did i say".
pub fn said(words: &[&str]) -> String {
    format!("you said {}", words.join(" "))
}

/// Every heard file with its words.
pub fn transcripts(ears: &Ears) -> Vec<Value> {
    let lines = |clip: &crate::data::sound::heard::Clip| {
        let text = clip.topic.text();
        let line = |path: &String| json!({"kind": "transcript", "audio": path, "text": text, "task": "transcribe", "language": "english"});
        clip.uses.iter().map(|(path, _)| line(path)).collect::<Vec<_>>()
    };
    ears.clips().iter().flat_map(lines).collect()
}
