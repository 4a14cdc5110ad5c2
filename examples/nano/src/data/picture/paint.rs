//! Scenes as pixels, with smooth edges.

use image::{Rgb as Pixel, RgbImage};

use crate::data::picture::scene::{Item, Scene};
use crate::data::world::words::Shape;

/// Samples of a pixel along each side.
const FINE: u32 = 4;

/// How far a shape of radius one reaches to the right and left, up, and down.
pub fn reach(shape: Shape) -> (f32, f32, f32) {
    match shape {
        Shape::Circle | Shape::Ring => (1.0, 1.0, 1.0),
        Shape::Square => (0.88, 0.88, 0.88),
        Shape::Triangle => (1.05, 1.1, 0.8),
        Shape::Diamond => (0.85, 1.1, 1.1),
        Shape::Star => (1.05, 1.1, 0.9),
    }
}

/// Whether a point, seen from the middle of a shape of radius one, is in it.
fn is_inside(shape: Shape, x: f32, y: f32) -> bool {
    match shape {
        Shape::Circle => x * x + y * y <= 1.0,
        Shape::Ring => (0.55 * 0.55..=1.0).contains(&(x * x + y * y)),
        Shape::Square => x.abs().max(y.abs()) <= 0.88,
        // The sides fall from the tip at -1.1 to the ground at 0.8, where the half width is 1.05.
        Shape::Triangle => y <= 0.8 && x.abs() <= (y + 1.1) * (1.05 / 1.9),
        Shape::Diamond => x.abs() / 0.85 + y.abs() / 1.1 <= 1.0,
        Shape::Star => is_in_star(x, y),
    }
}

/// A star of five points, one of which is at the top.
fn is_in_star(x: f32, y: f32) -> bool {
    use std::f32::consts::PI;
    let (outer, inner) = (1.1, 0.45);
    // Folded onto one half of one point.
    let sector = PI / 5.0;
    let angle = x.atan2(-y).rem_euclid(2.0 * sector);
    let angle = angle.min(2.0 * sector - angle);
    let (along, beside) = (x.hypot(y) * angle.cos(), x.hypot(y) * angle.sin());
    let corner = (inner * sector.cos(), inner * sector.sin());
    // The edge runs from the tip to the corner between two points.
    (outer - along) * corner.1 >= beside * (outer - corner.0)
}

fn covers(item: &Item, x: f32, y: f32) -> bool {
    is_inside(item.look.shape, (x - item.at[0]) / item.radius, (y - item.at[1]) / item.radius)
}

/// Draws a scene.
pub fn paint(scene: &Scene) -> RgbImage {
    let [width, height] = scene.sides;
    let mut image = RgbImage::from_pixel(width, height, Pixel(scene.ground));
    for item in &scene.items {
        let (side, up, down) = reach(item.look.shape);
        let columns = span(item.at[0] - side * item.radius, item.at[0] + side * item.radius, width);
        for y in span(item.at[1] - up * item.radius, item.at[1] + down * item.radius, height) {
            for x in columns.clone() {
                let Pixel(below) = *image.get_pixel(x, y);
                image.put_pixel(x, y, Pixel(blend(below, item.rgb, covered(item, x, y))));
            }
        }
    }
    image
}

/// Pixels between two places, and one more on each side.
fn span(low: f32, high: f32, end: u32) -> std::ops::Range<u32> {
    let last = (high.ceil().max(0.0) as u32 + 1).min(end);
    (low.floor() as u32).saturating_sub(1)..last
}

/// The part of a pixel that an item covers.
fn covered(item: &Item, x: u32, y: u32) -> f32 {
    let corners =
        [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(right, down)| covers(item, (x + right) as f32, (y + down) as f32));
    // Most pixels are not at an edge.
    if corners.iter().all(|inside| *inside == corners[0]) {
        return if corners[0] { 1.0 } else { 0.0 };
    }
    let at = |pixel: u32, sample: u32| pixel as f32 + (sample as f32 + 0.5) / FINE as f32;
    let samples = (0..FINE).flat_map(|row| (0..FINE).map(move |column| (column, row)));
    let inside = samples.filter(|(column, row)| covers(item, at(x, *column), at(y, *row))).count();
    inside as f32 / (FINE * FINE) as f32
}

fn blend(below: [u8; 3], above: [u8; 3], part: f32) -> [u8; 3] {
    let mix = |below: u8, above: u8| f32::from(below) + (f32::from(above) - f32::from(below)) * part;
    std::array::from_fn(|channel| mix(below[channel], above[channel]).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::picture::ask::Question;
    use crate::data::world::draw::Draw;
    use crate::data::world::held::Side;
    use crate::data::world::words::Named;

    #[test]
    fn shapes_stay_within_their_reach_and_fill_a_good_part_of_it() {
        for shape in Shape::ALL {
            let (side, up, down) = reach(*shape);
            let (mut inside, mut total) = (0, 0);
            for row in -150..150 {
                for column in -150..150 {
                    let (x, y) = (column as f32 / 100.0, row as f32 / 100.0);
                    total += usize::from(x.abs() <= side && (-up..=down).contains(&y));
                    if is_inside(*shape, x, y) {
                        inside += 1;
                        let within = x.abs() <= side + 0.01 && (-up - 0.01..=down + 0.01).contains(&y);
                        assert!(within, "{shape:?} at {x} {y}");
                    }
                }
            }
            assert!(inside * 10 > total * 3, "{shape:?}: {inside} of {total}");
        }
    }

    /// Everything is inside the picture, no two shapes share a pixel, and the pixels tell the answer.
    #[test]
    fn shapes_are_inside_and_apart() {
        let mut draw = Draw::new(9, "scenes", 0);
        for round in 0..400 {
            let question = match round % 4 {
                0 => Question::One,
                1 => Question::Two,
                2 => Question::any_count(&mut draw),
                _ => Question::Where(crate::data::picture::scene::Look::any(&mut draw)),
            };
            let scene = question.scene(Side::Train, &mut draw);
            for item in &scene.items {
                let (side, up, down) = reach(item.look.shape);
                let [width, height] = scene.sides.map(|side| side as f32);
                assert!(item.at[0] - side * item.radius >= 0.0 && item.at[0] + side * item.radius <= width);
                assert!(item.at[1] - up * item.radius >= 0.0 && item.at[1] + down * item.radius <= height, "{scene:?}");
            }
            let [width, height] = scene.sides;
            for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                let count = scene.items.iter().filter(|item| covered(item, x, y) > 0.0).count();
                assert!(count < 2, "{scene:?}");
            }
        }
    }
}
