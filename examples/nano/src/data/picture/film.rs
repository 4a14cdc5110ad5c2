//! Films of one shape that moves, grows, shrinks, turns another colour, or rests.

use std::path::{Path, PathBuf};

use crate::data::Result;
use crate::data::picture::ask::{alone, describe_one, is_held};
use crate::data::picture::mp4::{PACE, Take};
use crate::data::picture::paint::paint;
use crate::data::picture::scene::{Item, Look, Rgb, Scene, USUAL_SIDE, ground};
use crate::data::sound::surroundings::RATE;
use crate::data::sound::wave::{Wave, to_bits};
use crate::data::world::draw::Draw;
use crate::data::world::held::{self, Side};
use crate::data::world::words::{Colour, Named, Size, Way};

/// Numbers of frames; even, as models read them in pairs.
const FRAMES: [usize; 3] = [4, 6, 8];

/// What a shape does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// It moves.
    Move(Way),
    /// It grows.
    Grow,
    /// It shrinks.
    Shrink,
    /// It turns another colour.
    Turn(Colour),
    /// It rests.
    Rest,
}

/// A film.
#[derive(Debug, Clone, Copy)]
pub struct Film {
    /// The shape.
    pub look: Look,
    /// Its size, if it rests.
    pub size: Size,
    /// What it does.
    pub action: Action,
}

impl Film {
    /// A film of a side with an action of a kind.
    pub fn any(side: Side, action: impl Fn(&mut Draw) -> Action, draw: &mut Draw) -> Self {
        let make = |draw: &mut Draw| {
            let (size, look) = alone(Side::Train, draw);
            Self { look, size, action: action(draw) }
        };
        let changes = |draw: &mut Draw| loop {
            let film = make(draw);
            if !matches!(film.action, Action::Turn(colour) if colour == film.look.colour) {
                return film;
            }
        };
        side.of(draw, changes, |film| held::is_sentence(&film.happening()))
    }

    /// Any action.
    pub fn any_action(draw: &mut Draw) -> Action {
        match draw.below(10) {
            0..4 => Action::Move(draw.pick(Way::ALL)),
            4 => Action::Grow,
            5 => Action::Shrink,
            6..8 => Action::Turn(draw.pick(Colour::ALL)),
            _ => Action::Rest,
        }
    }

    /// What happens.
    pub fn happening(&self) -> String {
        let what = self.look.with_article();
        match self.action {
            Action::Move(way) => format!("{what} moves {}", way.name()),
            Action::Grow => format!("{what} grows"),
            Action::Shrink => format!("{what} shrinks"),
            Action::Turn(colour) => format!("{what} turns {}", colour.name()),
            Action::Rest => format!("{what} rests"),
        }
    }

    /// What is seen of a shape that rests.
    pub fn description(&self) -> String {
        debug_assert!(!is_held(self.size, self.look));
        describe_one(self.size, self.look)
    }

    /// The frames.
    pub fn frames(&self, count: usize, draw: &mut Draw) -> Vec<Scene> {
        let side = draw.pick(&[64, 96]);
        let unit = side as f32 / USUAL_SIDE;
        let sides = [side; 2];
        if self.action == Action::Rest {
            return vec![Scene::one_within(sides, unit, self.size, self.look, draw); count];
        }
        let colour = self.look.colour.drawn(draw);
        let turned = if let Action::Turn(colour) = self.action { colour.drawn(draw) } else { colour };
        let ground = ground(&[colour, turned], draw);
        let middle = [draw.real(45.0, 51.0), draw.real(45.0, 51.0)];
        let (slim, wide, radius) = (draw.real(10.0, 13.0), draw.real(28.0, 33.0), draw.real(14.0, 22.0));
        let travel = draw.real(22.0, 28.0);
        let scene = |number: usize| {
            let part = number as f32 / (count - 1) as f32;
            let way = travel * (2.0 * part - 1.0);
            let (offset, radius) = match self.action {
                Action::Move(Way::Left) => ([-way, 0.0], slim + 2.0),
                Action::Move(Way::Right) => ([way, 0.0], slim + 2.0),
                Action::Move(Way::Up) => ([0.0, -way], slim + 2.0),
                Action::Move(Way::Down) => ([0.0, way], slim + 2.0),
                Action::Grow => ([0.0; 2], slim + (wide - slim) * part),
                Action::Shrink => ([0.0; 2], wide + (slim - wide) * part),
                Action::Turn(_) | Action::Rest => ([0.0; 2], radius),
            };
            let rgb: Rgb = if 2 * number < count { colour } else { turned };
            let at = [0, 1].map(|axis| (middle[axis] + offset[axis]) * unit);
            Scene { sides, ground, items: vec![Item { look: self.look, rgb, size: None, at, radius: radius * unit }] }
        };
        (0..count).map(scene).collect()
    }

    /// The film as it is written to a file, as long as its sound if it has any.
    ///
    /// # Errors
    /// For a sound that cannot be read.
    pub fn take(&self, path: PathBuf, sound: Option<&Path>, draw: &mut Draw) -> Result<Take> {
        let sound = sound.map(Wave::read).transpose()?;
        let per_frame = RATE as usize / PACE;
        let least = sound.as_ref().map_or(0, |sound| sound.samples.len().div_ceil(per_frame));
        let long: Vec<usize> = FRAMES.into_iter().filter(|count| *count >= least).collect();
        let count = if long.is_empty() { FRAMES[FRAMES.len() - 1] } else { draw.pick(&long) };
        let scenes = self.frames(count, draw);
        let sound = sound.map(|mut sound| {
            sound.samples.resize(count * per_frame, 0.0);
            to_bits(&sound.samples).flat_map(i16::to_le_bytes).collect()
        });
        let pixels = scenes.iter().flat_map(|scene| paint(scene).into_raw()).collect();
        Ok(Take { path, sides: scenes[0].sides, pixels, sound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_stay_inside_and_do_what_is_said() {
        let mut draw = Draw::new(6, "films", 0);
        for _ in 0..300 {
            let film = Film::any(Side::Train, Film::any_action, &mut draw);
            let frames = film.frames(6, &mut draw);
            for scene in &frames {
                let item = &scene.items[0];
                let (side, up, down) = crate::data::picture::paint::reach(item.look.shape);
                let end = scene.sides[0] as f32;
                assert!(item.at[0] - side * item.radius >= 0.0 && item.at[0] + side * item.radius <= end);
                assert!(item.at[1] - up * item.radius >= 0.0 && item.at[1] + down * item.radius <= end, "{film:?}");
            }
            let (first, last) = (&frames[0].items[0], &frames[5].items[0]);
            let moved = [0, 1].map(|axis| (last.at[axis] - first.at[axis]) / frames[0].sides[0] as f32);
            let right = match film.action {
                Action::Move(Way::Left) => moved[0] < -0.4,
                Action::Move(Way::Right) => moved[0] > 0.4,
                Action::Move(Way::Up) => moved[1] < -0.4,
                Action::Move(Way::Down) => moved[1] > 0.4,
                Action::Grow => last.radius > 1.8 * first.radius,
                Action::Shrink => first.radius > 1.8 * last.radius,
                Action::Turn(colour) => first.rgb != last.rgb && colour != film.look.colour,
                Action::Rest => first.rgb == last.rgb && moved == [0.0; 2],
            };
            assert!(right, "{film:?}");
        }
    }
}
