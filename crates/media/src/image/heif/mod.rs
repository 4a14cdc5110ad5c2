//! HEIC and AVIF: still pictures coded as HEVC or AV1, in boxes like those of MP4 (ISO/IEC 23008-12).
//!
//! The boxes are read here, so that size, tiles, transparency and orientation do not depend on the decoder; the coded pictures go to
//! an installed `ffmpeg`, of which old versions know these codecs, but not these boxes.

mod codec;
mod items;
mod stream;

use image::{DynamicImage, RgbImage};

use self::items::{Items, Layout};
use super::pixels::{MOST_PIXELS, Pixels, blend};
use super::stills::{Colours, Still, decode_stills};
use crate::boxes::Fault;
use crate::{MediaError, Result};

/// A picture whose boxes were read.
pub(super) struct Heif {
    origin: String,
    /// The format's name.
    name: &'static str,
    file: Vec<u8>,
    items: Items,
    colour: Layout,
    alpha: Option<Layout>,
}

impl Heif {
    pub(super) fn read(origin: &str, name: &'static str, file: Vec<u8>) -> Result<Self> {
        let read = || {
            let items = Items::read(&file)?;
            let colour = items.layout(&file, items.primary)?;
            let alpha = items.alpha().map(|alpha| items.layout(&file, alpha)).transpose()?;
            Ok((items, colour, alpha))
        };
        let (items, colour, alpha) = read().map_err(|fault| explain(origin, name, fault))?;
        for [height, width] in alpha.iter().chain([&colour]).map(|layout| layout.size) {
            if height as u64 * width as u64 > MOST_PIXELS {
                let reason = format!("{width} × {height} pixels, at most {MOST_PIXELS} in all can be taken in");
                return Err(MediaError::unusable(origin, reason));
            }
        }
        Ok(Self { origin: origin.into(), name, file, items, colour, alpha })
    }

    /// Height and width of the upright picture.
    pub(super) fn size(&self) -> [usize; 2] {
        self.colour.transforms.iter().fold(self.colour.size, |size, transform| transform.size(size))
    }

    /// Decodes the picture: upright, RGB, transparency laid over white.
    pub(super) fn pixels(self) -> Result<Pixels> {
        let mut values = self.decode(&self.colour, Colours::Rgb(self.colour.colours))?;
        if let Some(alpha) = &self.alpha {
            if alpha.size != self.colour.size {
                return Err(MediaError::unsupported(&self.origin, "its transparency has another size"));
            }
            let alpha = self.decode(alpha, Colours::Grey)?;
            for (pixel, alpha) in values.chunks_exact_mut(3).zip(alpha) {
                pixel.iter_mut().for_each(|value| *value = blend(*value, alpha));
            }
        }
        let [height, width] = self.colour.size;
        let picture = RgbImage::from_raw(width as u32, height as u32, values).expect("the canvas has this size");
        let steps = self.colour.transforms.iter();
        let upright = steps.fold(DynamicImage::from(picture), |picture, step| step.apply(picture)).into_rgb8();
        Pixels::new(upright.width() as usize, upright.height() as usize, upright.into_raw())
    }

    /// The values of all tiles, put together.
    fn decode(&self, layout: &Layout, colours: Colours) -> Result<Vec<u8>> {
        let stream =
            stream::stream(&self.items, layout, &self.file).map_err(|fault| explain(&self.origin, self.name, fault))?;
        let mut canvas = Canvas::new(layout.size, layout.columns, colours.channels());
        let tiles = layout.tiles.len();
        let why = format!("this is {}", self.name);
        decode_stills(stream.into(), layout.codec.form(), &self.origin, &why, colours, tiles, &mut |tile| {
            canvas.place(&tile).ok_or_else(|| MediaError::damaged(&self.origin, "its parts do not fill the picture"))
        })?;
        canvas.finish(tiles).ok_or_else(|| MediaError::damaged(&self.origin, "its parts do not fill the picture"))
    }
}

fn explain(origin: &str, name: &str, fault: Fault) -> MediaError {
    match fault {
        Fault::Damaged(reason) => {
            let unread = |why: &str| format!("the {name} picture cannot be read: {why}");
            MediaError::damaged(origin, reason.reworded(unread))
        }
        Fault::Unusable(reason) => MediaError::unusable(origin, reason),
        Fault::Foreign(reason) => {
            let unread = |why: &str| format!("this {name} picture is not read: {why}");
            MediaError::unsupported(origin, reason.reworded(unread))
        }
    }
}

/// A picture that tiles of one size are laid on, row by row; what reaches over its edge is cut.
struct Canvas {
    size: [usize; 2],
    columns: usize,
    channels: usize,
    values: Vec<u8>,
    tile: Option<[usize; 2]>,
    placed: usize,
}

impl Canvas {
    fn new(size: [usize; 2], columns: usize, channels: usize) -> Self {
        Self { size, columns, channels, values: vec![0; size[0] * size[1] * channels], tile: None, placed: 0 }
    }

    /// Lays the next tile; `None` if it has another size than the first.
    fn place(&mut self, tile: &Still) -> Option<()> {
        let [tile_height, tile_width] = *self.tile.get_or_insert([tile.height, tile.width]);
        if [tile.height, tile.width] != [tile_height, tile_width] {
            return None;
        }
        let [height, width] = self.size;
        let (top, left) = (self.placed / self.columns * tile_height, self.placed % self.columns * tile_width);
        let kept = width.saturating_sub(left).min(tile_width) * self.channels;
        let rows = tile.values.chunks_exact(tile_width * self.channels).take(height.saturating_sub(top));
        for (row, values) in rows.enumerate().filter(|_| kept > 0) {
            let start = ((top + row) * width + left) * self.channels;
            self.values[start..start + kept].copy_from_slice(&values[..kept]);
        }
        self.placed += 1;
        Some(())
    }

    /// The values; `None` if the tiles do not cover the picture.
    fn finish(self, tiles: usize) -> Option<Vec<u8>> {
        let [height, width] = self.tile?;
        let rows = tiles / self.columns;
        let covered = height * rows >= self.size[0] && width * self.columns >= self.size[1];
        (covered && self.placed == tiles).then_some(self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_laid_row_by_row_and_cut_at_the_edges() {
        let tile = |value| Still { width: 2, height: 2, values: vec![value; 4] };
        let mut canvas = Canvas::new([3, 3], 2, 1);
        (1..=4).for_each(|value| canvas.place(&tile(value)).unwrap());
        assert_eq!(canvas.finish(4).unwrap(), [1, 1, 2, 1, 1, 2, 3, 3, 4]);
        let mut small = Canvas::new([3, 3], 2, 1);
        small.place(&tile(1)).unwrap();
        assert!(small.place(&Still { width: 1, height: 2, values: vec![0; 2] }).is_none());
        small.place(&tile(1)).unwrap();
        assert!(small.finish(2).is_none());
    }
}
