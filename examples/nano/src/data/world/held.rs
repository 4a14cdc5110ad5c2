//! What training never shows, so that evaluation asks something new.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::data::world::draw::{Draw, hash};
use crate::data::world::sums::Sum;
use crate::data::world::words::{Colour, Shape, Size, list};

/// Which data is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// For training.
    Train,
    /// For evaluation.
    Held,
}

/// The same whatever the seed of the data: a model can be compared with one of other data.
static SUMS: LazyLock<Vec<Sum>> = LazyLock::new(|| {
    let mut sums = Sum::all();
    Draw::new(7, "held sums", 0).shuffle(&mut sums);
    sums.truncate(31);
    sums
});

static WORDS_OF_SUMS: LazyLock<HashSet<String>> =
    LazyLock::new(|| SUMS.iter().flat_map(|sum| [sum.question(), sum.answer()]).collect());

/// Single shapes that training never names.
pub const COMBINATIONS: [(Size, Colour, Shape); 8] = [
    (Size::Big, Colour::Purple, Shape::Triangle),
    (Size::Small, Colour::Red, Shape::Square),
    (Size::Big, Colour::Yellow, Shape::Circle),
    (Size::Small, Colour::White, Shape::Triangle),
    (Size::Big, Colour::Orange, Shape::Star),
    (Size::Small, Colour::Pink, Shape::Ring),
    (Size::Big, Colour::Black, Shape::Diamond),
    (Size::Small, Colour::Blue, Shape::Star),
];

impl Side {
    /// The name of its folders.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Held => "held",
        }
    }

    /// Whether something that is held or not belongs to this side.
    pub fn takes(self, held: bool) -> bool {
        held == (self == Self::Held)
    }

    /// The first of many draws that belongs to this side.
    pub fn of<T>(self, draw: &mut Draw, make: impl Fn(&mut Draw) -> T, held: impl Fn(&T) -> bool) -> T {
        loop {
            let made = make(draw);
            if self.takes(held(&made)) {
                return made;
            }
        }
    }

    /// A sum that is heard and spoken on this side.
    pub fn sum(self, draw: &mut Draw) -> Sum {
        let all = Sum::all();
        self.of(draw, |draw| draw.pick(&all), |sum| is_sum(*sum))
    }

    /// Words to repeat.
    pub fn list(self, draw: &mut Draw) -> Vec<&'static str> {
        self.of(draw, list, |words| is_list(words))
    }
}

/// Whether a sum is never heard, and its answer never spoken.
pub fn is_sum(sum: Sum) -> bool {
    SUMS.contains(&sum)
}

/// Whether a text is the question or the answer of a held sum.
pub fn is_of_sum(text: &str) -> bool {
    WORDS_OF_SUMS.contains(text)
}

/// Whether a list of words is never asked for. Single words are too few to hold any.
pub fn is_list(words: &[&str]) -> bool {
    words.len() > 1 && is_sentence(&words.join(" "))
}

/// Whether a sentence of many possible ones belongs to the tenth that is held.
pub fn is_sentence(sentence: &str) -> bool {
    hash(sentence).is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_have_nothing_in_common() {
        let mut draw = Draw::new(1, "sides", 0);
        let lists = |side: Side, draw: &mut Draw| -> HashSet<String> {
            (0..3000).map(|_| side.list(draw)).filter(|words| words.len() > 1).map(|words| words.join(" ")).collect()
        };
        let (train, held) = (lists(Side::Train, &mut draw), lists(Side::Held, &mut draw));
        assert!(train.is_disjoint(&held) && !held.is_empty());
        assert!((0..500).all(|_| !is_sum(Side::Train.sum(&mut draw)) && is_sum(Side::Held.sum(&mut draw))));
        assert_eq!(SUMS.len(), 31);
    }
}
