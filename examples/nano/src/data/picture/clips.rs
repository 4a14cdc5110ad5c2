//! Lines with a film.

use crate::data::picture::film::{Action, Film};
use crate::data::picture::media::Media;
use crate::data::sound::heard::Ears;
use crate::data::sound::surroundings::Around;
use crate::data::typed::line::{Line, Part};
use crate::data::world::draw::Draw;
use crate::data::world::held::Side;
use crate::data::world::topic::{Group, Topic};
use crate::data::world::words::{Named, Way, number};

/// The kind of lines that ask which way something moves.
const WAY: &str = "clip way";

/// A question about a film.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Glance {
    /// Which way the shape moves.
    Way,
    /// What happens.
    Happens,
    /// What is seen, where nothing happens.
    See,
}

impl Glance {
    /// The question's words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Way => "which way does it move",
            Self::Happens => "what happens",
            Self::See => "what do you see",
        }
    }

    /// A film that the question can be asked of.
    fn film(self, side: Side, draw: &mut Draw) -> Film {
        match self {
            Self::Way => Film::any(side, |draw| Action::Move(draw.pick(Way::ALL)), draw),
            Self::Happens => Film::any(side, Film::any_action, draw),
            Self::See => Film::any(side, |_| Action::Rest, draw),
        }
    }

    /// The right answer.
    fn answer(self, film: &Film) -> String {
        match (self, film.action) {
            (Self::Way, Action::Move(way)) => way.name().into(),
            (Self::See, _) => film.description(),
            _ => film.happening(),
        }
    }
}

/// Lines of films, a third of them with sound.
pub fn lines(side: Side, count: usize, draw: &mut Draw, media: &mut Media, ears: &mut Ears) -> Vec<Line> {
    let line = |number: usize| match number % 6 {
        0 => asked_aloud(side, draw, media, ears),
        1 => number_heard(side, draw, media, ears),
        _ => {
            let glance = draw.weighted(&[(3, Glance::Way), (5, Glance::Happens), (2, Glance::See)]);
            let film = glance.film(side, draw);
            let parts = [Part::Clip(media.film(film, None)), glance.text().into()];
            let kind = if glance == Glance::Way { WAY } else { "clip" };
            Line::new(kind).says(&parts).answer(glance.answer(&film))
        }
    };
    (0..count).map(line).collect()
}

/// Lines that ask which way a shape moves, one for each silent film of `lines` in which it does. Mixed with all other lines they are too
/// rare for a model to learn it.
pub fn ways(lines: &[Line]) -> Vec<Line> {
    let way = |line: &Line| {
        let answer = line.last_answer()?;
        let found = if line.is_kind(WAY) { Some(answer) } else { answer.split_once(" moves ").map(|(_, way)| way) };
        let question = line.question()?;
        let film = question["content"][0]["video"].as_str().filter(|_| !line.has_sound())?;
        Some(Line::new(WAY).says(&[Part::Clip(film.to_owned()), Glance::Way.text().into()]).answer(found?))
    };
    lines.iter().filter_map(way).collect()
}

/// The film's sound asks.
fn asked_aloud(side: Side, draw: &mut Draw, media: &mut Media, ears: &mut Ears) -> Line {
    let line = Line::new("clip heard");
    let (path, topic) = ears.hear_as(Group::Glance, Around::Short);
    let Topic::Glance(glance) = topic else { return line };
    let film = glance.film(side, draw);
    let parts = [Part::Clip(media.film(film, Some(path)))];
    line.says(&parts).with_sound().answer(glance.answer(&film))
}

/// A number is spoken while something happens. Half of the questions are about what is seen, so that a model learns to look there too.
fn number_heard(side: Side, draw: &mut Draw, media: &mut Media, ears: &mut Ears) -> Line {
    let (path, topic) = ears.hear_as(Group::Number, Around::Short);
    let glance = draw.pick(&[None, None, Some(Glance::Happens), Some(Glance::See)]);
    let film = glance.unwrap_or(Glance::Happens).film(side, draw);
    let (kind, question, answer) = match (glance, topic) {
        (Some(glance), _) => ("clip with sound", glance.text(), glance.answer(&film)),
        (None, Topic::Number(value)) => ("clip number", "what do you hear", number(value).to_owned()),
        (None, _) => return Line::new("clip number"),
    };
    let parts = [Part::Clip(media.film(film, Some(path))), question.into()];
    Line::new(kind).says(&parts).with_sound().answer(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_silent_film_of_something_that_moves_is_asked_which_way() {
        let mut draw = Draw::new(4, "clips", 0);
        let (mut media, mut ears) =
            (Media::new(Side::Train), Ears::new(Side::Train, 100, false, &mut Draw::new(4, "ears", 0)));
        let lines = lines(Side::Train, 300, &mut draw, &mut media, &mut ears);
        let ways = ways(&lines);
        let of = |way: &str| ways.iter().filter(|line| line.last_answer() == Some(way)).count();
        assert_eq!(["left", "right", "up", "down"].map(of).iter().sum::<usize>(), ways.len());
        let asked = lines.iter().filter(|line| line.is_kind(WAY)).count();
        assert!(ways.len() > asked + 20, "{asked} of {}", ways.len());
        assert!(ways.iter().all(
            |line| !line.has_sound() && line.question().unwrap()["content"][1]["text"] == "which way does it move"
        ));
    }
}
