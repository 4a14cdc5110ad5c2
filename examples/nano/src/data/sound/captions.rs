//! Sounds in words: who says what, or what else is heard.

use crate::data::picture::media::Media;
use crate::data::sound::heard::{Clip, Ears};
use crate::data::sound::tone::Tone;
use crate::data::typed::line::{Line, Part};
use crate::data::world::draw::Draw;

/// Lines of sound alone; speech is that of other lines.
pub fn lines(count: usize, draw: &mut Draw, media: &mut Media, ears: &Ears) -> Vec<Line> {
    let heard: Vec<(&Clip, &str)> =
        ears.clips().iter().flat_map(|clip| clip.uses.iter().map(move |(path, _)| (clip, path.as_str()))).collect();
    let line = |_| {
        if heard.is_empty() || draw.chance(0.4) {
            let tone = draw.weighted(&Tone::ALL);
            return caption("caption tone", media.tone(tone), tone.caption().into());
        }
        let (clip, path) = draw.pick(&heard);
        let who = if clip.voice.is_woman { "a woman" } else { "a man" };
        caption("caption speech", path.into(), format!("{who} says {}", clip.topic.text()))
    };
    (0..count).map(line).collect()
}

fn caption(kind: &'static str, path: String, text: String) -> Line {
    Line::new(kind).says(&[Part::Sound(path)]).answer(text)
}
