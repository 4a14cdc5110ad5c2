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
            let kind = if glance == Glance::Way { "clip way" } else { "clip" };
            Line::new(kind).says(&parts).answer(glance.answer(&film))
        }
    };
    (0..count).map(line).collect()
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

/// A number is spoken while something happens.
fn number_heard(side: Side, draw: &mut Draw, media: &mut Media, ears: &mut Ears) -> Line {
    let line = Line::new("clip number");
    let (path, topic) = ears.hear_as(Group::Number, Around::Short);
    let Topic::Number(value) = topic else { return line };
    let film = Film::any(side, Film::any_action, draw);
    let parts = [Part::Clip(media.film(film, Some(path))), "what do you hear".into()];
    line.says(&parts).with_sound().answer(number(value))
}
