//! Tasks of text alone: sums, repeating, greetings, system messages, JSON.

use crate::data::typed::line::Line;
use crate::data::world::draw::Draw;
use crate::data::world::held::{self, Side};
use crate::data::world::sums::Sum;
use crate::data::world::words::{GREETINGS, number};

/// The system message that asks for short answers.
pub const ONE_WORD: &str = "answer with one word";
/// The names that training gives the model.
pub const NAMES: [&str; 2] = ["ethan", "chelsie"];
/// The name that only evaluation gives it.
const HELD_NAME: &str = "aiden";

#[derive(Clone, Copy)]
enum Kind {
    Sum,
    Repeat,
    Greeting,
    System,
    Json,
}

/// Lines of text alone.
pub fn lines(side: Side, count: usize, draw: &mut Draw) -> Vec<Line> {
    let kinds = [(35, Kind::Sum), (40, Kind::Repeat), (5, Kind::Greeting), (12, Kind::System), (8, Kind::Json)];
    let line = |draw: &mut Draw| match draw.weighted(&kinds) {
        Kind::Sum => sum(if side == Side::Held { "sum, read in training" } else { "sum" }, any_sum(draw)),
        Kind::Repeat => repeat("repeat", &side.list(draw)),
        Kind::Greeting => greeting("greeting", draw),
        Kind::System => system(side, draw),
        Kind::Json => {
            let sum = side.sum(draw);
            Line::new("json").asks(format!("{} as json", sum.question())).answer(sum.json())
        }
    };
    (0..count).map(|_| line(draw)).collect()
}

/// Any of the sums: all are read in training, only some are heard.
fn any_sum(draw: &mut Draw) -> Sum {
    draw.pick(&Sum::all())
}

fn sum(kind: &'static str, sum: Sum) -> Line {
    Line::new(kind).asks(sum.question()).answer(sum.answer())
}

fn repeat(kind: &'static str, words: &[&str]) -> Line {
    let words = words.join(" ");
    Line::new(kind).asks(format!("repeat {words}")).answer(words)
}

fn greeting(kind: &'static str, draw: &mut Draw) -> Line {
    let (question, answer) = draw.pick(&GREETINGS);
    Line::new(kind).asks(question).answer(answer)
}

/// A question under a system message that changes its answer, or does not.
fn system(side: Side, draw: &mut Draw) -> Line {
    let line = Line::new("system");
    if side == Side::Train && draw.chance(0.4) {
        let sum = any_sum(draw);
        return line.system(ONE_WORD).asks(sum.question()).answer(number(sum.result()));
    }
    let name = if side == Side::Held { HELD_NAME } else { draw.pick(&NAMES) };
    let line = line.system(&format!("you are {name}"));
    match draw.below(4) {
        0 | 1 => line.asks("who are you").answer(format!("i am {name}")),
        2 => {
            let sum = any_sum(draw);
            line.asks(sum.question()).answer(sum.answer())
        }
        _ if draw.chance(0.7) => {
            let words = side.list(draw).join(" ");
            line.asks(format!("repeat {words}")).answer(words)
        }
        _ => {
            // All but the last, which asks for the name.
            let (question, answer) = draw.pick(&GREETINGS[..4]);
            line.asks(question).answer(answer)
        }
    }
}

/// The system message of a prompt whose answer is read, not found: any will do.
pub fn any_system(draw: &mut Draw) -> String {
    if draw.chance(0.4) { ONE_WORD.into() } else { format!("you are {}", draw.pick(&NAMES)) }
}

/// Texts that are said as short answers.
pub fn small_answers() -> Vec<String> {
    let names = NAMES.iter().map(|name| format!("i am {name}"));
    let greetings = GREETINGS.iter().map(|(_, answer)| (*answer).to_owned());
    names.chain(greetings).collect()
}

/// Questions that "what did i ask" answers with.
pub fn questions(side: Side) -> Vec<String> {
    let sums = Sum::all().into_iter().filter(|sum| side.takes(held::is_sum(*sum)));
    sums.map(Sum::question).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_names_and_lists_stay_out_of_training() {
        let lines = lines(Side::Train, 2000, &mut Draw::new(3, "text", 0));
        let texts: Vec<String> = lines.iter().map(|line| line.to_json().to_string()).collect();
        assert!(texts.iter().all(|text| !text.contains(HELD_NAME)));
        for line in &lines {
            let words: Vec<&str> = line.last_answer().unwrap_or_default().split(' ').collect();
            let repeats = line.to_json()["kind"] == "repeat";
            assert!(!repeats || !held::is_list(&words));
        }
    }
}
