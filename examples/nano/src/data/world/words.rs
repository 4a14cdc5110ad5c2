//! The words of nano's world.

use crate::data::world::draw::Draw;

/// Numbers, each at its own index.
pub const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];
/// Animals.
pub const ANIMALS: [&str; 5] = ["cat", "dog", "fish", "bird", "horse"];
/// Cities that one can ask the weather of.
pub const CITIES: [&str; 10] =
    ["paris", "london", "rome", "berlin", "madrid", "tokyo", "delhi", "cairo", "lima", "oslo"];
/// Weathers.
pub const WEATHERS: [&str; 6] = ["rain", "sun", "snow", "wind", "fog", "clouds"];
/// Greetings with their answers.
pub const GREETINGS: [(&str, &str); 5] = [
    ("hello", "hello"),
    ("goodbye", "goodbye"),
    ("good morning", "good morning"),
    ("good evening", "good evening"),
    ("who are you", "i am nano"),
];

/// Something with a name of one word.
pub trait Named: Copy + PartialEq + 'static {
    /// All of its kind.
    const ALL: &'static [Self];

    /// The word.
    fn name(self) -> &'static str;
}

macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($item:ident: $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $(#[doc = $name] $item),* }

        impl Named for $type {
            const ALL: &'static [Self] = &[$(Self::$item),*];

            fn name(self) -> &'static str {
                match self { $(Self::$item => $name),* }
            }
        }
    };
}

named! {
    /// A colour.
    Colour {
        Red: "red", Green: "green", Blue: "blue", Yellow: "yellow", Purple: "purple", White: "white", Orange: "orange",
        Pink: "pink", Black: "black",
    }
}
named! {
    /// A shape.
    Shape {
        Circle: "circle", Square: "square", Triangle: "triangle", Star: "star", Diamond: "diamond", Ring: "ring",
    }
}
named! {
    /// How big a shape is.
    Size { Big: "big", Small: "small" }
}
named! {
    /// Where a shape is, seen from another one.
    Relation { Left: "left", Right: "right", Above: "above", Below: "below" }
}
named! {
    /// Where a shape moves.
    Way { Left: "left", Right: "right", Up: "up", Down: "down" }
}

impl Relation {
    /// The words between two shapes.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Left => "left of",
            Self::Right => "right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }
}

/// The word of a number up to twenty.
pub fn number(value: u8) -> &'static str {
    NUMBERS[usize::from(value)]
}

/// The words that can be repeated.
pub fn content() -> Vec<&'static str> {
    let mut words = NUMBERS[..10].to_vec();
    words.extend(Colour::ALL.iter().map(|colour| colour.name()));
    words.extend(Shape::ALL.iter().map(|shape| shape.name()));
    words.extend(Size::ALL.iter().map(|size| size.name()));
    words.extend(ANIMALS);
    words
}

/// One to four words to repeat.
pub fn list(draw: &mut Draw) -> Vec<&'static str> {
    let content = content();
    let length = draw.weighted(&[(15, 1), (25, 2), (30, 3), (30, 4)]);
    (0..length).map(|_| draw.pick(&content)).collect()
}
