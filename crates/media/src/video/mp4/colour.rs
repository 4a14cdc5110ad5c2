//! From decoded YCbCr to RGB, upright.

use crate::Result;
use crate::image::Pixels;

/// What the values of a picture mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colour {
    /// Number of the standard's matrix, as H.264 and MP4 count them.
    pub(super) matrix: u16,
    /// Whether luma takes all values, or those from 16 to 235.
    pub(super) full: bool,
}

impl Colour {
    pub(super) const UNSPECIFIED: u32 = 2;

    /// Reads a `colr` box, if it is of the kind for video.
    pub(super) fn from_box(body: &[u8]) -> Option<Self> {
        let (kind, rest) = body.split_first_chunk::<4>()?;
        let matrix = u16::from_be_bytes(*rest.get(4..)?.first_chunk()?);
        let full = kind == b"nclx" && rest.get(6).is_some_and(|flags| flags & 0x80 != 0);
        matches!(kind, b"nclx" | b"nclc").then_some(Self { matrix, full })
    }

    /// Weights of red and blue in luma.
    fn weights(self) -> Option<(f64, f64)> {
        match self.matrix {
            1 => Some((0.2126, 0.0722)),
            4 => Some((0.30, 0.11)),
            // If nothing is stated, FFmpeg takes BT.601 whatever the size, and the model learnt from FFmpeg's pictures.
            2 | 5 | 6 => Some((0.299, 0.114)),
            7 => Some((0.212, 0.087)),
            9 | 10 => Some((0.2627, 0.0593)),
            _ => None,
        }
    }
}

const SHIFT: i32 = 16;
const HALF: i32 = 1 << (SHIFT - 1);

/// Factors for integer arithmetic, times `1 << SHIFT`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Converter {
    black: i32,
    bright: i32,
    red: i32,
    green: (i32, i32),
    blue: i32,
}

/// A picture as decoded: luma, and the two chroma planes at half the size.
pub(super) struct Planes<'a> {
    pub(super) width: usize,
    pub(super) height: usize,
    /// The values and their stride from row to row.
    pub(super) luma: (&'a [u8], usize),
    pub(super) blue: (&'a [u8], usize),
    pub(super) red: (&'a [u8], usize),
}

impl Converter {
    /// Prepares the factors; `None` if the standard is not known.
    pub(super) fn new(colour: Colour) -> Option<Self> {
        let (red, blue) = colour.weights()?;
        let green = 1.0 - red - blue;
        let (black, bright, vivid) = if colour.full { (0, 1.0, 1.0) } else { (16, 255.0 / 219.0, 255.0 / 224.0) };
        let fixed = |factor: f64| (factor * f64::from(1 << SHIFT)).round() as i32;
        let (to_red, to_blue) = (2.0 * (1.0 - red) * vivid, 2.0 * (1.0 - blue) * vivid);
        Some(Self {
            black,
            bright: fixed(bright),
            red: fixed(to_red),
            green: (fixed(to_blue * blue / green), fixed(to_red * red / green)),
            blue: fixed(to_blue),
        })
    }

    /// Converts the planes to RGB; `None` if they are smaller than the picture.
    pub(super) fn rgb(&self, planes: &Planes<'_>) -> Option<Vec<u8>> {
        let mut rgb = vec![0; planes.width * planes.height * 3];
        for (row, out) in rgb.chunks_exact_mut(planes.width * 3).enumerate() {
            let luma = line(planes.luma, row, planes.width)?;
            let half = planes.width.div_ceil(2);
            self.line(luma, line(planes.blue, row / 2, half)?, line(planes.red, row / 2, half)?, out);
        }
        Some(rgb)
    }

    fn line(&self, luma: &[u8], blue: &[u8], red: &[u8], out: &mut [u8]) {
        for (((out, luma), blue), red) in out.chunks_mut(6).zip(luma.chunks(2)).zip(blue).zip(red) {
            let (blue, red) = (i32::from(*blue) - 128, i32::from(*red) - 128);
            let shift = [self.red * red, -self.green.0 * blue - self.green.1 * red, self.blue * blue];
            for (pixel, luma) in out.chunks_exact_mut(3).zip(luma) {
                let grey = self.bright * (i32::from(*luma) - self.black) + HALF;
                for (value, shift) in pixel.iter_mut().zip(shift) {
                    *value = ((grey + shift) >> SHIFT).clamp(0, 255) as u8;
                }
            }
        }
    }
}

fn line((values, stride): (&[u8], usize), row: usize, width: usize) -> Option<&[u8]> {
    values.get(row * stride..row * stride + width)
}

/// Orientation of a picture: a quarter turn, a mirroring, or both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Turn {
    /// Whether rows become columns.
    pub(super) swap: bool,
    /// Whether left and right, and top and bottom, are exchanged afterwards.
    flip: (bool, bool),
}

impl Turn {
    /// Reads the matrix `[a, b, c, d]` that takes (x, y) to (ax + cy, bx + dy); `None` for any other angle.
    pub(super) fn from_matrix([a, b, c, d]: [i32; 4]) -> Option<Self> {
        match (a, b, c, d) {
            (a, 0, 0, d) => Some(Self { swap: false, flip: (a < 0, d < 0) }),
            (0, b, c, 0) => Some(Self { swap: true, flip: (c < 0, b < 0) }),
            _ => None,
        }
    }

    pub(super) fn apply(self, width: usize, height: usize, rgb: Vec<u8>) -> Result<Pixels> {
        if !self.swap && self.flip == (false, false) {
            return Pixels::new(width, height, rgb);
        }
        let (out_width, out_height) = if self.swap { (height, width) } else { (width, height) };
        let mut out = vec![0; rgb.len()];
        for (index, pixel) in out.chunks_exact_mut(3).enumerate() {
            let (x, y) = (index % out_width, index / out_width);
            let x = if self.flip.0 { out_width - 1 - x } else { x };
            let y = if self.flip.1 { out_height - 1 - y } else { y };
            let from = if self.swap { x * width + y } else { y * width + x };
            pixel.copy_from_slice(&rgb[from * 3..from * 3 + 3]);
        }
        Pixels::new(out_width, out_height, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(matrix: u16, full: bool, luma: u8, blue: u8, red: u8) -> Vec<u8> {
        let converter = Converter::new(Colour { matrix, full }).unwrap();
        let (luma, blue, red) = ([luma; 3], [blue; 2], [red; 2]);
        let planes = Planes { width: 3, height: 1, luma: (&luma, 3), blue: (&blue, 2), red: (&red, 2) };
        converter.rgb(&planes).unwrap()[6..].to_vec()
    }

    #[test]
    fn known_colours_come_out() {
        assert_eq!(grey(6, false, 16, 128, 128), [0, 0, 0]);
        assert_eq!(grey(1, false, 235, 128, 128), [255, 255, 255]);
        assert_eq!(grey(1, true, 100, 128, 128), [100, 100, 100]);
        assert_eq!(grey(6, false, 81, 90, 240), [254, 0, 0]);
        assert_eq!(grey(1, false, 63, 102, 240), [255, 1, 0]);
        assert!(Converter::new(Colour { matrix: 0, full: true }).is_none());
    }

    #[test]
    fn planes_that_are_too_small_are_refused() {
        let converter = Converter::new(Colour { matrix: 6, full: false }).unwrap();
        let planes = Planes { width: 2, height: 2, luma: (&[0; 3], 2), blue: (&[0], 1), red: (&[0], 1) };
        assert!(converter.rgb(&planes).is_none());
    }

    #[test]
    fn pictures_are_turned() {
        let turned = |matrix| {
            let rgb = (0..6).flat_map(|n| [n; 3]).collect();
            let pixels = Turn::from_matrix(matrix).unwrap().apply(3, 2, rgb).unwrap();
            (pixels.width(), pixels.rgb().iter().step_by(3).copied().collect::<Vec<_>>())
        };
        assert_eq!(turned([1, 0, 0, 1]), (3, vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(turned([0, 1, -1, 0]), (2, vec![3, 0, 4, 1, 5, 2]));
        assert_eq!(turned([-1, 0, 0, -1]), (3, vec![5, 4, 3, 2, 1, 0]));
        assert_eq!(turned([0, -1, 1, 0]), (2, vec![2, 5, 1, 4, 0, 3]));
        assert_eq!(turned([-1, 0, 0, 1]), (3, vec![2, 1, 0, 5, 4, 3]));
        assert!(Turn::from_matrix([1, 1, -1, 1]).is_none());
    }

    #[test]
    fn a_colour_box_is_read() {
        let nclx = b"nclx\0\x01\0\x01\0\x01\x80";
        assert_eq!(Colour::from_box(nclx), Some(Colour { matrix: 1, full: true }));
        assert_eq!(Colour::from_box(b"prof\0\x01\0\x01\0\x01"), None);
        assert_eq!(Colour::from_box(b"nclc\0"), None);
    }
}
