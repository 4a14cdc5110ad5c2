//! Lines with a picture, the question written or spoken.

use crate::data::picture::ask::{Question, alone, json_of};
use crate::data::picture::media::Media;
use crate::data::picture::scene::{Look, Scene};
use crate::data::sound::heard::Ears;
use crate::data::typed::line::{Line, Part};
use crate::data::typed::text::{NAMES, ONE_WORD};
use crate::data::world::draw::Draw;
use crate::data::world::held::Side;
use crate::data::world::topic::{Group, Topic};
use crate::data::world::words::Named;

#[derive(Clone, Copy)]
enum Kind {
    One,
    Two,
    Where,
    YesNo,
    Count,
    Json,
    System,
}

/// Lines whose question is written.
pub fn lines(side: Side, count: usize, draw: &mut Draw, media: &mut Media) -> Vec<Line> {
    let kinds = [
        (34, Kind::One),
        (18, Kind::Two),
        (16, Kind::Where),
        (10, Kind::YesNo),
        (14, Kind::Count),
        (4, Kind::Json),
        (4, Kind::System),
    ];
    let mut line = |draw: &mut Draw| match draw.weighted(&kinds) {
        Kind::One => asked("picture one", any_of_one(draw), side, draw, media),
        Kind::Two => asked("picture two", Question::Two, side, draw, media),
        Kind::Where => asked("picture where", Question::Where(Look::any(draw)), side, draw, media),
        Kind::YesNo => asked("picture yes/no", Question::any_yes_no(draw), side, draw, media),
        Kind::Count => asked("picture count", Question::any_count(draw), side, draw, media),
        Kind::Json => {
            let scene = Question::One.scene(side, draw);
            let answer = json_of(&scene);
            let text = Part::Text(format!("{} as json", Question::One.text()));
            Line::new("picture json").says(&[Part::Picture(media.picture(scene)), text]).answer(answer)
        }
        Kind::System => system(side, draw, media),
    };
    (0..count).map(|_| line(draw)).collect()
}

/// A question about the only shape, mostly what it is.
fn any_of_one(draw: &mut Draw) -> Question {
    draw.weighted(&[(60, Question::One), (15, Question::Colour), (13, Question::Shape), (12, Question::Size)])
}

fn asked(kind: &'static str, question: Question, side: Side, draw: &mut Draw, media: &mut Media) -> Line {
    let scene = question.scene(side, draw);
    let answer = question.answer(&scene);
    let picture = Part::Picture(media.picture(scene));
    Line::new(kind).says(&[picture, Part::Text(question.text())]).answer(answer)
}

/// Under a system message that asks for one word, or gives a name, which changes nothing.
fn system(side: Side, draw: &mut Draw, media: &mut Media) -> Line {
    let (size, look) = alone(side, draw);
    let scene = Scene::one(size, look, draw);
    let short = draw.chance(0.7);
    let answer = if short { look.shape.name().into() } else { Question::One.answer(&scene) };
    let system = if short { ONE_WORD.into() } else { format!("you are {}", draw.pick(&NAMES)) };
    let parts = [Part::Picture(media.picture(scene)), Part::Text(Question::One.text())];
    Line::new("picture system").system(&system).says(&parts).answer(answer)
}

/// Lines whose question is spoken.
pub fn heard(side: Side, count: usize, draw: &mut Draw, media: &mut Media, ears: &mut Ears) -> Vec<Line> {
    let mut line = |draw: &mut Draw| {
        let (path, topic) = ears.hear(Group::Picture);
        let line = Line::new("picture heard");
        let Topic::Picture(question) = topic else { return line };
        // Both questions have the same words.
        let question = if question == Question::One && draw.chance(0.45) { Question::Two } else { question };
        let scene = question.scene(side, draw);
        let answer = question.answer(&scene);
        line.says(&[Part::Picture(media.picture(scene)), Part::Sound(path)]).answer(answer)
    };
    (0..count).map(|_| line(draw)).collect()
}

/// A question to be spoken.
pub fn any_spoken(draw: &mut Draw) -> Question {
    match draw.below(100) {
        0..30 => Question::One,
        30..38 => Question::Colour,
        38..46 => Question::Shape,
        46..52 => Question::Size,
        52..63 => Question::any_yes_no(draw),
        63..85 => Question::Where(Look::any(draw)),
        _ => Question::any_count(draw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::picture::ask::{is_held, relation};
    use crate::data::world::words::{Relation, Size};

    #[test]
    fn every_question_has_one_right_answer() {
        let mut draw = Draw::new(4, "questions", 0);
        for _ in 0..3000 {
            let question = any_spoken(&mut draw);
            let scene = question.scene(Side::Train, &mut draw);
            let items = &scene.items;
            match question {
                Question::Where(look) => {
                    assert_eq!(items.iter().filter(|item| item.look == look).count(), 1);
                    let [across, down] = [0, 1].map(|axis| (items[0].at[axis] - items[1].at[axis]).abs());
                    assert!(across > 1.5 * down || down > 1.5 * across, "{scene:?}");
                }
                Question::Count(_) => assert!((1..=5).contains(&items.len())),
                _ => {
                    assert_eq!(items.len(), 1);
                    let size = items[0].size.unwrap();
                    assert!(!is_held(size, items[0].look));
                    let smaller = scene.sides[0].min(scene.sides[1]) as f32;
                    assert_eq!(size == Size::Big, items[0].radius / smaller > 0.25);
                }
            }
        }
    }

    #[test]
    fn the_left_or_upper_shape_is_named_first() {
        let mut draw = Draw::new(4, "two", 0);
        for _ in 0..500 {
            let mut scene = Question::Two.scene(Side::Train, &mut draw);
            let answer = Question::Two.answer(&scene);
            scene.items.reverse();
            assert_eq!(Question::Two.answer(&scene), answer);
            let second = &scene.items[0];
            assert!(matches!(relation(second, &scene.items[1]), Relation::Right | Relation::Below));
            assert!(!crate::data::world::held::is_sentence(&answer));
        }
    }
}
