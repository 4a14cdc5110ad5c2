//! Sums that are thought through: from number to number by way of ten.

use crate::data::typed::line::Line;
use crate::data::world::draw::Draw;
use crate::data::world::held::{self, Side};
use crate::data::world::sums::Sum;
use crate::data::world::words::number;

/// Lines with reasoning.
pub fn lines(side: Side, count: usize, draw: &mut Draw) -> Vec<Line> {
    let (small, large) = (Sum::all(), large());
    let is_held = |sum: &Sum| held::is_sum(*sum) || (sum.left > 9 && held::is_sentence(&sum.question()));
    let any = |draw: &mut Draw| if draw.chance(0.6) { draw.pick(&small) } else { draw.pick(&large) };
    let line = |draw: &mut Draw| {
        let sum = side.of(draw, any, is_held);
        Line::new("thinking").asks(sum.question()).thought(&reasoning(sum), sum.answer())
    };
    (0..count).map(|_| line(draw)).collect()
}

/// Sums whose first number is ten or more and whose result is at most twenty.
fn large() -> Vec<Sum> {
    let of = |plus| (10..=20).flat_map(move |left| (0..10).map(move |right| Sum { left, plus, right }));
    of(true).chain(of(false)).filter(|sum| sum.result() <= 20).collect()
}

fn step(left: u8, sign: &str, right: u8, result: u8) -> String {
    format!("{} {sign} {} is {}", number(left), number(right), number(result))
}

/// What is left behind a step of `done`.
fn left(rest: u8) -> String {
    if rest == 1 { "one is left".into() } else { format!("{} are left", number(rest)) }
}

/// The steps to the result.
pub fn reasoning(sum: Sum) -> String {
    let Sum { left: a, plus, right: b } = sum;
    let result = sum.result();
    let steps = match (plus, b) {
        (_, 0) => vec!["zero changes nothing".into()],
        (true, _) if a == 10 => vec![step(10, "and", b, result)],
        (true, _) if a > 10 => vec![step(a - 10, "and", b, result - 10), step(10, "and", result - 10, result)],
        (true, _) if result > 10 => {
            let (first, rest) = (10 - a, result - 10);
            vec![step(a, "and", first, 10), left(rest), step(10, "and", rest, result)]
        }
        (true, _) => vec![format!("count {} up from {}", number(b), number(a)), counted(a + 1..=result)],
        (false, _) if a == 20 => vec![step(10, "minus", b, 10 - b), step(10, "and", 10 - b, result)],
        (false, _) if a > 10 && result < 10 => {
            let (first, rest) = (a - 10, 10 - result);
            vec![step(a, "minus", first, 10), left(rest), step(10, "minus", rest, result)]
        }
        (false, _) if a > 10 && result == 10 => vec![step(a - 10, "minus", b, 0), "ten are left".into()],
        (false, _) if a > 10 => vec![step(a - 10, "minus", b, result - 10), step(10, "and", result - 10, result)],
        (false, _) => vec![format!("count {} down from {}", number(b), number(a)), counted((result..a).rev())],
    };
    steps.join(" . ")
}

fn counted(numbers: impl Iterator<Item = u8>) -> String {
    numbers.map(number).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks every "X and Y is Z" of a reasoning.
    fn is_right(reasoning: &str) -> bool {
        let value =
            |word: &str| crate::data::world::words::NUMBERS.iter().position(|number| *number == word).unwrap() as i32;
        reasoning.split(" . ").all(|step| match step.split(' ').collect::<Vec<_>>()[..] {
            [a, "and", b, "is", c] => value(a) + value(b) == value(c),
            [a, "minus", b, "is", c] => value(a) - value(b) == value(c),
            _ => true,
        })
    }

    #[test]
    fn every_step_is_right_and_ends_at_the_result() {
        for sum in Sum::all().into_iter().chain(large()) {
            let text = reasoning(sum);
            assert!(is_right(&text), "{sum:?}: {text}");
            let ends = text.ends_with(number(sum.result()));
            assert!(ends || sum.right == 0 || text.ends_with("ten are left"), "{sum:?}: {text}");
        }
        let text = reasoning(Sum { left: 7, plus: true, right: 5 });
        assert_eq!(text, "seven and three is ten . two are left . ten and two is twelve");
        assert_eq!(reasoning(Sum { left: 5, plus: false, right: 2 }), "count two down from five . four three");
    }
}
