//! What is in a picture, and where: shapes on a plain ground.

use crate::data::world::draw::Draw;
use crate::data::world::words::{Colour, Relation, Shape, Size};

/// A colour as it is drawn.
pub type Rgb = [u8; 3];

/// The side that lengths below are given for; in other pictures they grow with the smaller side.
pub const USUAL_SIDE: f32 = 96.0;

/// A shape of a colour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// The colour.
    pub colour: Colour,
    /// The shape.
    pub shape: Shape,
}

/// A shape in its place.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    /// Its look.
    pub look: Look,
    /// Its colour as drawn.
    pub rgb: Rgb,
    /// Its size, where that can be told.
    pub size: Option<Size>,
    /// Its middle.
    pub at: [f32; 2],
    /// Half its width, about.
    pub radius: f32,
}

/// A picture.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Width and height.
    pub sides: [u32; 2],
    /// The ground.
    pub ground: Rgb,
    /// The shapes.
    pub items: Vec<Item>,
}

/// The lowest distance of two colours that are told apart.
const CONTRAST: f32 = 90.0;

impl Colour {
    fn rgb(self) -> Rgb {
        match self {
            Self::Red => [220, 30, 30],
            Self::Green => [30, 170, 50],
            Self::Blue => [40, 70, 220],
            Self::Yellow => [235, 215, 40],
            Self::Purple => [150, 50, 190],
            Self::White => [250, 250, 250],
            Self::Orange => [240, 130, 30],
            Self::Pink => [245, 140, 185],
            Self::Black => [20, 20, 22],
        }
    }

    /// The colour, a little different each time.
    pub fn drawn(self, draw: &mut Draw) -> Rgb {
        self.rgb().map(|value| near(value, 15, draw))
    }
}

impl Size {
    /// A radius at the usual side.
    pub fn radius(self, draw: &mut Draw) -> f32 {
        match self {
            Self::Big => draw.real(29.0, 36.0),
            Self::Small => draw.real(12.0, 18.0),
        }
    }
}

fn near(value: u8, most: i32, draw: &mut Draw) -> u8 {
    (i32::from(value) + draw.whole(-most, most)).clamp(0, 255) as u8
}

/// A ground on which all colours can be seen: a grey, mostly a dark one.
pub fn ground(colours: &[Rgb], draw: &mut Draw) -> Rgb {
    let mut best = ([0; 3], 0.0);
    for _ in 0..300 {
        let grey = if draw.chance(0.7) { draw.whole(0, 110) } else { draw.whole(110, 235) } as u8;
        let ground = [grey; 3].map(|value| near(value, 12, draw));
        let least = colours.iter().map(|colour| distance(*colour, ground)).fold(f32::MAX, f32::min);
        if least >= CONTRAST {
            return ground;
        }
        if least > best.1 {
            best = (ground, least);
        }
    }
    best.0
}

fn distance(a: Rgb, b: Rgb) -> f32 {
    a.iter().zip(b).map(|(a, b)| (f32::from(*a) - f32::from(b)).powi(2)).sum::<f32>().sqrt()
}

impl Item {
    /// A shape in a place.
    pub fn new(look: Look, size: Option<Size>, at: [f32; 2], radius: f32, draw: &mut Draw) -> Self {
        Self { look, rgb: look.colour.drawn(draw), size, at, radius }
    }
}

impl Scene {
    fn new(sides: [u32; 2], items: Vec<Item>, draw: &mut Draw) -> Self {
        let colours: Vec<Rgb> = items.iter().map(|item| item.rgb).collect();
        Self { sides, ground: ground(&colours, draw), items }
    }

    /// One shape anywhere.
    pub fn one(size: Size, look: Look, draw: &mut Draw) -> Self {
        let (sides, unit) = sides(draw);
        Self::one_within(sides, unit, size, look, draw)
    }

    /// One shape in a picture of given sides.
    pub fn one_within(sides: [u32; 2], unit: f32, size: Size, look: Look, draw: &mut Draw) -> Self {
        let radius = size.radius(draw) * unit;
        let edge = radius + 5.0 * unit;
        let at = sides.map(|side| draw.real(edge, side as f32 - edge));
        Self::new(sides, vec![Item::new(look, Some(size), at, radius, draw)], draw)
    }

    /// Two shapes, the first `relation` the second.
    pub fn two(first: Look, relation: Relation, second: Look, draw: &mut Draw) -> Self {
        let (sides, unit) = sides(draw);
        let [low, high, middle] =
            [(21.0, 26.0), (70.0, 75.0), (38.0, 58.0)].map(|(from, to)| draw.real(from, to) / USUAL_SIDE);
        let shift = draw.real(-8.0, 8.0) * unit;
        let level = matches!(relation, Relation::Left | Relation::Right);
        // Lengths along the axis of the relation, then across it.
        let along = sides[usize::from(!level)] as f32;
        let across = sides[usize::from(level)] as f32;
        let place = |along_part: f32, shift: f32| {
            let (a, b) = (along_part * along, middle * across + shift);
            if level { [a, b] } else { [b, a] }
        };
        let (mut from, mut to) = (place(low, 0.0), place(high, shift));
        if matches!(relation, Relation::Right | Relation::Below) {
            std::mem::swap(&mut from, &mut to);
        }
        let radii = [draw.real(13.0, 19.0) * unit, draw.real(13.0, 19.0) * unit];
        let items = vec![Item::new(first, None, from, radii[0], draw), Item::new(second, None, to, radii[1], draw)];
        Self::new(sides, items, draw)
    }

    /// Several shapes that do not touch.
    pub fn many(looks: &[Look], draw: &mut Draw) -> Self {
        let (sides, unit) = sides(draw);
        loop {
            let mut items: Vec<Item> = Vec::new();
            for look in looks {
                let radius = draw.real(9.0, 13.0) * unit;
                let edge = radius * 1.1 + 3.0 * unit;
                let free = |at: [f32; 2]| items.iter().all(|item| apart(item, at, radius, 3.0 * unit));
                let at = (0..40).map(|_| sides.map(|side| draw.real(edge, side as f32 - edge))).find(|at| free(*at));
                let Some(at) = at else { break };
                items.push(Item::new(*look, None, at, radius, draw));
            }
            if items.len() == looks.len() {
                return Self::new(sides, items, draw);
            }
        }
    }
}

/// Whether another shape has room beside an item: their circumscribed circles do not touch.
fn apart(item: &Item, at: [f32; 2], radius: f32, gap: f32) -> bool {
    let reach = 1.33;
    let far = (item.at[0] - at[0]).hypot(item.at[1] - at[1]);
    far > reach * (item.radius + radius) + gap
}

/// Sides of a picture: square in half of them; and the factor of lengths.
fn sides(draw: &mut Draw) -> ([u32; 2], f32) {
    let sides = match draw.chance(0.5) {
        true => [USUAL_SIDE as u32; 2],
        false => [draw.whole(64, 160) as u32, draw.whole(64, 160) as u32],
    };
    (sides, sides[0].min(sides[1]) as f32 / USUAL_SIDE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::world::words::Named;

    #[test]
    fn all_colours_together_find_a_ground() {
        let mut draw = Draw::new(5, "ground", 0);
        for _ in 0..200 {
            let colours: Vec<Rgb> = Colour::ALL.iter().map(|colour| colour.drawn(&mut draw)).collect();
            let ground = ground(&colours, &mut draw);
            assert!(colours.iter().all(|colour| distance(*colour, ground) > 70.0));
        }
    }
}
