//! Questions about pictures, each with one right answer.

use serde_json::json;

use crate::data::picture::scene::{Item, Look, Scene};
use crate::data::typed::line::spaced;
use crate::data::world::draw::Draw;
use crate::data::world::held::{self, Side};
use crate::data::world::words::{Colour, Named, Relation, Shape, Size, number};

/// A question about a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Question {
    /// What a picture of one shape shows.
    One,
    /// What a picture of two shapes shows.
    Two,
    /// The colour of the only shape.
    Colour,
    /// Its shape.
    Shape,
    /// Its size.
    Size,
    /// Whether it has a colour.
    IsColour(Colour),
    /// Whether it has a shape.
    IsShape(Shape),
    /// Where one of two shapes is.
    Where(Look),
    /// How many shapes there are, of one kind or all.
    Count(Option<Shape>),
}

impl Look {
    /// Any look.
    pub fn any(draw: &mut Draw) -> Self {
        Self { colour: draw.pick(Colour::ALL), shape: draw.pick(Shape::ALL) }
    }

    /// Its words.
    pub fn text(self) -> String {
        format!("{} {}", self.colour.name(), self.shape.name())
    }

    /// Its words behind "a" or "an".
    pub fn with_article(self) -> String {
        let article = if self.colour == Colour::Orange { "an" } else { "a" };
        format!("{article} {}", self.text())
    }
}

/// Whether a shape alone is one that training never shows.
pub fn is_held(size: Size, look: Look) -> bool {
    held::COMBINATIONS.contains(&(size, look.colour, look.shape))
}

/// A shape alone of a side.
pub fn alone(side: Side, draw: &mut Draw) -> (Size, Look) {
    if side == Side::Held {
        let (size, colour, shape) = draw.pick(&held::COMBINATIONS);
        return (size, Look { colour, shape });
    }
    side.of(draw, |draw| (draw.pick(Size::ALL), Look::any(draw)), |(size, look)| is_held(*size, *look))
}

/// The description of one shape.
pub fn describe_one(size: Size, look: Look) -> String {
    format!("a {} {}", size.name(), look.text())
}

/// The description of two shapes, of which the first is left of the second or above it.
pub fn describe_two(first: Look, relation: Relation, second: Look) -> String {
    format!("{} {} {}", first.with_article(), relation.phrase(), second.with_article())
}

/// Two different looks and a relation whose description belongs to a side.
pub fn pair(side: Side, draw: &mut Draw) -> (Look, Relation, Look) {
    let any = |draw: &mut Draw| {
        let (first, second) = different(Look::any(draw), draw);
        (first, draw.pick(&[Relation::Left, Relation::Above]), second)
    };
    side.of(draw, any, |(first, relation, second)| held::is_sentence(&describe_two(*first, *relation, *second)))
}

/// A look and another one.
fn different(first: Look, draw: &mut Draw) -> (Look, Look) {
    loop {
        let second = Look::any(draw);
        if second != first {
            return (first, second);
        }
    }
}

impl Question {
    /// The question's words.
    pub fn text(self) -> String {
        match self {
            Self::One | Self::Two => "what do you see".into(),
            Self::Colour => "what colour is it".into(),
            Self::Shape => "what shape is it".into(),
            Self::Size => "what size is it".into(),
            Self::IsColour(colour) => format!("is it {}", colour.name()),
            Self::IsShape(shape) => format!("is it a {}", shape.name()),
            Self::Where(look) => format!("where is the {}", look.text()),
            Self::Count(None) => "how many shapes are there".into(),
            Self::Count(Some(shape)) => format!("how many {}s are there", shape.name()),
        }
    }

    /// A question that is answered by yes or no.
    pub fn any_yes_no(draw: &mut Draw) -> Self {
        match draw.chance(0.55) {
            true => Self::IsColour(draw.pick(Colour::ALL)),
            false => Self::IsShape(draw.pick(Shape::ALL)),
        }
    }

    /// A question for a number.
    pub fn any_count(draw: &mut Draw) -> Self {
        Self::Count(if draw.chance(0.4) { None } else { Some(draw.pick(Shape::ALL)) })
    }

    /// A picture that the question can be asked of.
    pub fn scene(self, side: Side, draw: &mut Draw) -> Scene {
        match self {
            Self::One | Self::Colour | Self::Shape | Self::Size => {
                let (size, look) = alone(side, draw);
                Scene::one(size, look, draw)
            }
            Self::IsColour(_) | Self::IsShape(_) => self.yes_or_no(side, draw),
            Self::Two => {
                let (first, relation, second) = pair(side, draw);
                Scene::two(first, relation, second, draw)
            }
            Self::Where(look) => {
                let (first, relation, second) = place(look, side, draw);
                Scene::two(first, relation, second, draw)
            }
            Self::Count(shape) => Scene::many(&crowd(shape, draw), draw),
        }
    }

    /// A picture of one shape for which yes is as likely as no, if the side has one.
    fn yes_or_no(self, side: Side, draw: &mut Draw) -> Scene {
        let wanted = draw.chance(0.5);
        let fits = |look: Look| match self {
            Self::IsColour(colour) => look.colour == colour,
            Self::IsShape(shape) => look.shape == shape,
            _ => true,
        };
        let mut chosen = alone(side, draw);
        for _ in 0..300 {
            if fits(chosen.1) == wanted {
                break;
            }
            chosen = alone(side, draw);
        }
        Scene::one(chosen.0, chosen.1, draw)
    }

    /// The right answer.
    pub fn answer(self, scene: &Scene) -> String {
        let only = &scene.items[0];
        let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        match self {
            Self::One => describe_one(size(only), only.look),
            Self::Colour => only.look.colour.name().into(),
            Self::Shape => only.look.shape.name().into(),
            Self::Size => size(only).name().into(),
            Self::IsColour(colour) => yes_no(only.look.colour == colour),
            Self::IsShape(shape) => yes_no(only.look.shape == shape),
            Self::Two => {
                let (first, second) = (only, &scene.items[1]);
                match relation(first, second) {
                    relation @ (Relation::Left | Relation::Above) => describe_two(first.look, relation, second.look),
                    _ => describe_two(second.look, relation(second, first), first.look),
                }
            }
            Self::Where(look) => {
                let at = usize::from(scene.items[1].look == look);
                relation(&scene.items[at], &scene.items[1 - at]).name().into()
            }
            Self::Count(shape) => {
                let is_meant = |item: &&Item| shape.is_none_or(|shape| item.look.shape == shape);
                number(scene.items.iter().filter(is_meant).count() as u8).into()
            }
        }
    }
}

/// The picture of one shape as JSON.
pub fn json_of(scene: &Scene) -> String {
    let Item { look, .. } = &scene.items[0];
    let size = size(&scene.items[0]).name();
    spaced(&json!({"size": size, "colour": look.colour.name(), "shape": look.shape.name()}))
}

fn size(item: &Item) -> Size {
    item.size.unwrap_or(Size::Small)
}

/// Where an item is, seen from another one: along the axis on which they are farther apart.
pub fn relation(item: &Item, other: &Item) -> Relation {
    let [across, down] = [0, 1].map(|axis| item.at[axis] - other.at[axis]);
    match across.abs() > down.abs() {
        true if across < 0.0 => Relation::Left,
        true => Relation::Right,
        false if down < 0.0 => Relation::Above,
        false => Relation::Below,
    }
}

/// A look somewhere beside another one; the picture's description belongs to the side.
fn place(look: Look, side: Side, draw: &mut Draw) -> (Look, Relation, Look) {
    let any = |draw: &mut Draw| {
        let (first, second) = different(look, draw);
        (first, draw.pick(Relation::ALL), second)
    };
    side.of(draw, any, |(first, relation, second)| {
        let (first, relation, second) = match relation {
            Relation::Right => (second, Relation::Left, first),
            Relation::Below => (second, Relation::Above, first),
            relation => (first, *relation, second),
        };
        held::is_sentence(&describe_two(*first, relation, *second))
    })
}

/// One to five looks; if a shape is counted, any number of it is about as likely.
fn crowd(counted: Option<Shape>, draw: &mut Draw) -> Vec<Look> {
    let look = |shape: Shape, draw: &mut Draw| Look { colour: draw.pick(Colour::ALL), shape };
    let Some(shape) = counted else {
        let total = draw.whole(1, 5);
        return (0..total).map(|_| Look::any(draw)).collect();
    };
    let count = draw.weighted(&[(20, 0), (22, 1), (22, 2), (16, 3), (12, 4), (8, 5)]);
    let others = draw.whole(i32::from(count == 0), 5 - count);
    let rest: Vec<Shape> = Shape::ALL.iter().copied().filter(|other| *other != shape).collect();
    let mut looks: Vec<Look> = (0..count).map(|_| look(shape, draw)).collect();
    for _ in 0..others {
        let other = draw.pick(&rest);
        looks.push(look(other, draw));
    }
    draw.shuffle(&mut looks);
    looks
}
