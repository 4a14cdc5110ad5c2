//! Conversations of two turns, of which the second is about the first, and longer ones.

use crate::data::picture::ask::Question;
use crate::data::picture::media::Media;
use crate::data::sound::heard::Ears;
use crate::data::typed::line::{Line, Part};
use crate::data::world::draw::Draw;
use crate::data::world::held::Side;
use crate::data::world::sums::Sum;
use crate::data::world::topic::{Group, Topic};
use crate::data::world::words::number;

/// What is asked about the turn before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Follow {
    /// To add a number to the result.
    Plus(u8),
    /// To say the answer once more.
    Repeat,
    /// What the question was.
    Ask,
    /// One property of the shape that was seen.
    Property(Question),
}

/// The largest result.
const MOST: u8 = 20;

impl Follow {
    /// The words of the question.
    pub fn text(self) -> String {
        match self {
            Self::Plus(value) => format!("plus {}", number(value)),
            Self::Repeat => "repeat that".into(),
            Self::Ask => "what did i ask".into(),
            Self::Property(question) => question.text(),
        }
    }

    /// The addend of a second turn: mostly one.
    pub fn any_plus(draw: &mut Draw) -> Self {
        Self::Plus(if draw.chance(0.5) { 1 } else { draw.whole(2, 9) as u8 })
    }

    /// A question about one shape.
    pub fn any_property(draw: &mut Draw) -> Self {
        Self::Property(draw.pick(&[Question::Colour, Question::Shape, Question::Size]))
    }
}

/// What was said before, and the number that it came to.
struct Before {
    line: Line,
    question: String,
    answer: String,
    result: u8,
}

/// The answer of a second turn of a sum.
pub fn continued(left: u8, right: u8) -> String {
    Sum { left, plus: true, right }.answer()
}

/// Written conversations.
pub fn lines(side: Side, count: usize, draw: &mut Draw, media: &mut Media) -> Vec<Line> {
    (0..count).map(|_| line(side, draw, media)).collect()
}

fn line(side: Side, draw: &mut Draw, media: &mut Media) -> Line {
    let new = Line::new("turns");
    match draw.below(20) {
        0..10 => {
            let follow = draw.weighted(&[(45, None), (25, Some(Follow::Repeat)), (30, Some(Follow::Ask))]);
            let follow = follow.unwrap_or_else(|| Follow::any_plus(draw));
            let sum = fitting_sum(side, follow, draw);
            Before::sum(new.asks(sum.question()), sum).then(follow, |line, text| line.asks(text))
        }
        10..13 => {
            let words = side.list(draw).join(" ");
            let question = format!("repeat {words}");
            let line = new.asks(question.clone()).answer(words.clone());
            let before = Before { line, question, answer: words, result: 0 };
            before.then(draw.pick(&[Follow::Repeat, Follow::Ask]), |line, text| line.asks(text))
        }
        _ => {
            let follow = match draw.chance(0.8) {
                true => Follow::any_property(draw),
                false => draw.pick(&[Follow::Repeat, Follow::Ask]),
            };
            picture(new, side, follow, draw, media, |line, text| line.asks(text))
        }
    }
}

/// Written conversations of two and more turns that have nothing to do with each other, of which some are asked again, and some end in
/// a repetition of the last answer.
pub fn long(text: &[Line], talks: &[Line], count: usize, draw: &mut Draw) -> Vec<Line> {
    let turns: Vec<&Line> = text.iter().filter(|line| line.is_one_turn()).collect();
    let ends: Vec<&Line> = talks.iter().collect();
    let line = |draw: &mut Draw| {
        let (first, again) = (draw.pick(&turns), draw.chance(0.25));
        let mut line = Line::new("long talk").followed_by(first);
        for _ in 0..draw.whole(1, 3) {
            let next = if again && draw.chance(0.7) { first } else { draw.pick(&turns) };
            line = line.followed_by(next);
        }
        if draw.chance(0.5) {
            line = line.followed_by(draw.pick(&ends));
        }
        let last = line.last_answer().unwrap_or_default().to_owned();
        if draw.chance(0.3) { line.asks("repeat that").answer(last) } else { line }
    };
    (0..count).map(|_| line(draw)).collect()
}

/// Conversations whose second turn is spoken.
pub fn heard(side: Side, draw: &mut Draw, media: &mut Media, ears: &mut Ears) -> Line {
    let new = Line::new("heard turns");
    let (path, topic) = ears.hear(Group::Follow);
    let Topic::Follow(follow) = topic else { return new };
    let speak = |line: Line, _: String| line.says(&[Part::Sound(path.clone())]);
    if matches!(follow, Follow::Property(_)) || (follow == Follow::Repeat && draw.chance(0.3)) {
        return picture(new, side, follow, draw, media, speak);
    }
    // A spoken first question has a recording of its own, which decides the sum.
    let first = if draw.chance(0.5) { ears.hear_sum(|sum| fits(sum, follow)) } else { None };
    let before = match first {
        Some((path, sum)) => Before::sum(new.says(&[Part::Sound(path)]), sum),
        None => {
            let sum = fitting_sum(side, follow, draw);
            Before::sum(new.asks(sum.question()), sum)
        }
    };
    before.then(follow, speak)
}

/// A picture is described, then asked about.
fn picture(
    new: Line,
    side: Side,
    follow: Follow,
    draw: &mut Draw,
    media: &mut Media,
    ask: impl Fn(Line, String) -> Line,
) -> Line {
    let see = Question::One;
    let scene = see.scene(side, draw);
    let property = if let Follow::Property(question) = follow { Some(question.answer(&scene)) } else { None };
    let answer = see.answer(&scene);
    let line = new.says(&[Part::Picture(media.picture(scene)), Part::Text(see.text())]).answer(answer.clone());
    match property {
        Some(property) => ask(line, follow.text()).answer(property),
        None => Before { line, question: see.text(), answer, result: 0 }.then(follow, ask),
    }
}

fn fits(sum: Sum, follow: Follow) -> bool {
    if let Follow::Plus(value) = follow { sum.result() + value <= MOST } else { true }
}

fn fitting_sum(side: Side, follow: Follow, draw: &mut Draw) -> Sum {
    loop {
        let sum = side.sum(draw);
        if fits(sum, follow) {
            return sum;
        }
    }
}

impl Before {
    /// A sum that was asked, and is answered now.
    fn sum(asked: Line, sum: Sum) -> Self {
        let line = asked.answer(sum.answer());
        Self { line, question: sum.question(), answer: sum.answer(), result: sum.result() }
    }

    fn then(self, follow: Follow, ask: impl Fn(Line, String) -> Line) -> Line {
        let answer = match follow {
            Follow::Plus(value) => continued(self.result, value),
            Follow::Ask => self.question,
            Follow::Repeat | Follow::Property(_) => self.answer,
        };
        ask(self.line, follow.text()).answer(answer)
    }
}
