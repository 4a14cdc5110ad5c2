//! Sentences that are spoken: what the tasks are answered with.

use crate::data::picture::ask::{alone, describe_one, describe_two, pair};
use crate::data::picture::film::Film;
use crate::data::sound::listen::said;
use crate::data::typed::talks::continued;
use crate::data::typed::text::{questions, small_answers};
use crate::data::typed::tools::{NO_LIGHT, UNKNOWN, light_answer, weather_answer};
use crate::data::world::draw::Draw;
use crate::data::world::held::{self, Side};
use crate::data::world::words::{Colour, NUMBERS, Named, Relation, Shape, Size};

#[derive(Clone, Copy)]
enum Kind {
    List,
    Said,
    Two,
    One,
    Sum,
    Plus,
    Film,
    Weather,
    Question,
    Small,
}

/// Kinds by weight: many different ones where there are many.
const TRAIN: [(u32, Kind); 10] = [
    (22, Kind::List),
    (26, Kind::Said),
    (24, Kind::Two),
    (3, Kind::One),
    (6, Kind::Sum),
    (3, Kind::Plus),
    (9, Kind::Film),
    (2, Kind::Weather),
    (3, Kind::Question),
    (2, Kind::Small),
];
/// Kinds of which some are held.
const HELD: [(u32, Kind); 6] =
    [(16, Kind::List), (22, Kind::Said), (26, Kind::Two), (4, Kind::One), (20, Kind::Sum), (12, Kind::Film)];

/// A sentence that is spoken on a side.
pub fn any(side: Side, draw: &mut Draw) -> String {
    let kinds: &[(u32, Kind)] = if side == Side::Held { &HELD } else { &TRAIN };
    loop {
        let sentence = of(draw.weighted(kinds), side, draw);
        // A second turn may say the same as a held sum.
        if side.takes(held::is_of_sum(&sentence)) || side == Side::Held {
            return sentence;
        }
    }
}

fn of(kind: Kind, side: Side, draw: &mut Draw) -> String {
    match kind {
        Kind::List => side.list(draw).join(" "),
        Kind::Said => said(&side.list(draw)),
        Kind::Two => {
            let (first, relation, second) = pair(side, draw);
            describe_two(first, relation, second)
        }
        Kind::One => {
            let (size, look) = alone(side, draw);
            describe_one(size, look)
        }
        Kind::Sum => side.sum(draw).answer(),
        Kind::Plus => {
            let left = draw.whole(1, 18) as u8;
            continued(left, draw.whole(1, i32::from(20 - left).min(9)) as u8)
        }
        Kind::Film => Film::any(side, Film::any_action, draw).happening(),
        Kind::Weather => weather_answer(side, draw).2,
        Kind::Question => {
            let questions = questions(side);
            questions[draw.below(questions.len())].clone()
        }
        Kind::Small => {
            let small = small();
            small[draw.below(small.len())].clone()
        }
    }
}

/// Answers of one word, and others that are few.
fn small() -> Vec<String> {
    let mut small = small_answers();
    small.extend([NO_LIGHT, UNKNOWN, "yes", "no"].map(String::from));
    small.extend(Colour::ALL.iter().map(|colour| light_answer(*colour)));
    let names = Colour::ALL.iter().map(|colour| colour.name());
    let names = names.chain(Shape::ALL.iter().map(|shape| shape.name()));
    let names = names.chain(Size::ALL.iter().map(|size| size.name()));
    let names = names.chain(Relation::ALL.iter().map(|relation| relation.name()));
    small.extend(names.chain(NUMBERS).chain(["up", "down"]).map(String::from));
    small
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn held_sentences_are_not_spoken_in_training() {
        let mut draw = Draw::new(3, "sentences", 0);
        let mut many = |side, count| -> HashSet<String> { (0..count).map(|_| any(side, &mut draw)).collect() };
        let (train, held) = (many(Side::Train, 20_000), many(Side::Held, 500));
        assert!(train.is_disjoint(&held), "{:?}", train.intersection(&held).next());
        assert!(train.iter().all(|sentence| !held::is_of_sum(sentence)));
        assert!(train.len() > 8000, "{}", train.len());
    }
}
