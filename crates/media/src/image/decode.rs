use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};

use image::error::ImageError;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::Pixels;
use crate::{MediaError, Result, Source};

/// Most pixels of a picture. A larger one is refused by its header alone; it would need a gigabyte to decode.
const MOST_PIXELS: u64 = 178_956_970;

const KNOWN: &str = "expected PNG, JPEG, WebP, BMP or GIF";

/// Decodes a picture. The format is told by the contents, never by the file's name.
pub(super) fn decode(source: &Source) -> Result<Pixels> {
    match source {
        Source::Path(path) => {
            let io = |source| MediaError::Io { path: path.clone(), source };
            let file = File::open(path).map_err(io)?;
            if !file.metadata().map_err(io)?.is_file() {
                return Err(MediaError::unsupported(source.origin(), "this is no file"));
            }
            read(BufReader::new(file), &source.origin())
        }
        Source::Bytes(bytes) => read(Cursor::new(bytes.clone()), &source.origin()),
    }
}

fn read(reader: impl BufRead + Seek, origin: &str) -> Result<Pixels> {
    let mut reader = ImageReader::new(reader).with_guessed_format().map_err(|e| MediaError::damaged(origin, e))?;
    if reader.format().is_none() {
        return Err(MediaError::unsupported(origin, format!("the contents are no picture: {KNOWN}")));
    }
    // Four channels of 16 bits, and as much again for the decoder's own buffers.
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_PIXELS * 16);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| explain(origin, &error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        let reason = format!("{width} × {height} pixels, at most {MOST_PIXELS} in all can be taken in");
        return Err(MediaError::unusable(origin, reason));
    }
    let orientation = decoder.orientation().map_err(|error| explain(origin, &error))?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| explain(origin, &error))?;
    picture.apply_orientation(orientation);
    flatten(picture)
}

fn explain(origin: &str, error: &ImageError) -> MediaError {
    match error {
        ImageError::Unsupported(_) => MediaError::unsupported(origin, format!("{error}: {KNOWN}")),
        other => MediaError::damaged(origin, format!("the picture cannot be decoded: {other}")),
    }
}

/// Converts to RGB, with transparency laid over white.
fn flatten(picture: DynamicImage) -> Result<Pixels> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    if !picture.color().has_alpha() {
        return Pixels::new(width, height, picture.into_rgb8().into_raw());
    }
    let rgba = picture.into_rgba8().into_raw();
    let (pixels, _) = rgba.as_chunks::<4>();
    let over_white = |[r, g, b, a]: &[u8; 4]| [*r, *g, *b].map(|x| blend(x, *a));
    Pixels::new(width, height, pixels.iter().flat_map(over_white).collect())
}

/// `round((x * a + 255 * (255 - a)) / 255)`; a half cannot occur, as 255 is odd.
fn blend(x: u8, alpha: u8) -> u8 {
    let (x, alpha) = (u32::from(x), u32::from(alpha));
    ((x * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}
