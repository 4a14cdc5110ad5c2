//! What recordings say.

use crate::data::picture::ask::Question;
use crate::data::picture::clips::Glance;
use crate::data::picture::pictures::any_spoken;
use crate::data::typed::talks::Follow;
use crate::data::typed::tools::light_text;
use crate::data::world::draw::Draw;
use crate::data::world::held::{self, Side};
use crate::data::world::sums::Sum;
use crate::data::world::words::{Colour, GREETINGS, Named, number};

/// What a recording says.
#[derive(Debug, Clone, PartialEq)]
pub enum Topic {
    /// A sum that is asked for.
    Sum(Sum),
    /// Words to repeat.
    Say(Vec<&'static str>),
    /// A greeting; its answer.
    Greeting(&'static str, &'static str),
    /// The wish for a light.
    Light(Colour),
    /// A second turn.
    Follow(Follow),
    /// A question about a picture.
    Picture(Question),
    /// A question about a film.
    Glance(Glance),
    /// A number alone.
    Number(u8),
}

/// Topics of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// [`Topic::Sum`].
    Sum,
    /// [`Topic::Say`].
    Say,
    /// [`Topic::Picture`].
    Picture,
    /// [`Topic::Follow`].
    Follow,
    /// [`Topic::Light`].
    Light,
    /// [`Topic::Number`].
    Number,
    /// [`Topic::Glance`].
    Glance,
    /// [`Topic::Greeting`].
    Greeting,
}

impl Topic {
    /// A topic of a group.
    pub fn any(group: Group, side: Side, draw: &mut Draw) -> Self {
        match group {
            // Evaluation hears known sums as well, in other voices.
            Group::Sum if side == Side::Held && draw.chance(0.5) => Self::Sum(Side::Train.sum(draw)),
            Group::Sum => Self::Sum(side.sum(draw)),
            Group::Say => Self::Say(side.list(draw)),
            Group::Picture => Self::Picture(any_spoken(draw)),
            Group::Light => Self::Light(draw.pick(Colour::ALL)),
            Group::Number => Self::Number(draw.whole(0, 9) as u8),
            Group::Glance => Self::Glance(draw.weighted(&[(4, Glance::Way), (4, Glance::Happens), (2, Glance::See)])),
            Group::Greeting => {
                let (question, answer) = draw.pick(&GREETINGS);
                Self::Greeting(question, answer)
            }
            Group::Follow => Self::Follow(match draw.below(10) {
                0..5 => Follow::any_plus(draw),
                5..7 => Follow::Repeat,
                7 => Follow::Ask,
                _ => Follow::any_property(draw),
            }),
        }
    }

    /// Its words.
    pub fn text(&self) -> String {
        match self {
            Self::Sum(sum) => sum.question(),
            Self::Say(words) => words.join(" "),
            Self::Greeting(text, _) => (*text).into(),
            Self::Light(colour) => light_text(*colour),
            Self::Follow(follow) => follow.text(),
            Self::Picture(question) => question.text(),
            Self::Glance(glance) => glance.text().into(),
            Self::Number(value) => number(*value).into(),
        }
    }

    /// Whether it is a sum that training never hears.
    pub fn is_new_sum(&self) -> bool {
        matches!(self, Self::Sum(sum) if held::is_sum(*sum))
    }
}
