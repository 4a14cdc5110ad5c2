//! Still pictures through the program `ffmpeg`: the codecs of HEIC and AVIF, and rare kinds of other formats.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Read};

use super::ffmpeg::input::Input;
use super::ffmpeg::run::{self, Run};
use crate::image::Pixels;
use crate::{MediaError, Result, Source};

/// Most pixels of a coded picture, as of any other picture.
const MOST_PIXELS: &str = "178956970";

/// A decoded picture: RGB or grey, row by row.
pub(crate) struct Still {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) values: Vec<u8>,
}

/// What the values become.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Colours {
    /// RGB; the number of the matrix and whether values take the full range, where the file says so besides the coded picture.
    Rgb(Option<(u16, bool)>),
    /// Luma as it is, for transparency.
    Grey,
}

impl Colours {
    pub(crate) fn channels(self) -> usize {
        match self {
            Self::Rgb(_) => 3,
            Self::Grey => 1,
        }
    }

    fn filter(self) -> String {
        let Self::Rgb(stated) = self else {
            return "scale=in_range=full:out_range=full,format=gray".into();
        };
        let range = |full: bool| if full { "full" } else { "limited" };
        let stated = stated.map(|(matrix, full)| match matrix {
            1 => format!(":in_color_matrix=bt709:in_range={}", range(full)),
            5 | 6 => format!(":in_color_matrix=bt601:in_range={}", range(full)),
            9 | 10 => format!(":in_color_matrix=bt2020:in_range={}", range(full)),
            _ => format!(":in_range={}", range(full)),
        });
        format!("scale=flags=bicubic+accurate_rnd+full_chroma_int{},format=rgb24", stated.unwrap_or_default())
    }
}

/// Decodes the first picture of a TIFF file of a kind that is known to `ffmpeg`, but not here; `why` is the reason.
pub(crate) fn first_picture(source: &Source, why: &str) -> Result<Pixels> {
    let mut first = None;
    // What is coded as luma and colour differences takes all values in TIFF.
    decode_stills(source.clone(), "", &source.origin(), why, Colours::Rgb(Some((5, true))), 1, &mut |still| {
        first = Some(Pixels::new(still.width, still.height, still.values)?);
        Ok(())
    })?;
    first.ok_or_else(|| MediaError::damaged(source.origin(), "ffmpeg makes no picture of it"))
}

/// Decodes `count` pictures of a stream in the form that ffmpeg calls `form`, and passes each to `sink`.
///
/// # Errors
/// [`MediaError::Unsupported`], with `why` as the reason, without `ffmpeg` or in one without the codec; [`MediaError::Damaged`] if fewer
/// pictures come; what `sink` returns.
pub(crate) fn decode_stills(
    stream: Source,
    form: &str,
    origin: &str,
    why: &str,
    colours: Colours,
    count: usize,
    sink: &mut dyn FnMut(Still) -> Result<()>,
) -> Result<()> {
    let input = Input::new(&stream)?;
    let limits = ["-threads", "1", "-max_pixels", MOST_PIXELS];
    let form: Vec<&str> = if form.is_empty() { Vec::new() } else { vec!["-f", form] };
    let mut arguments = run::arguments(&[&limits[..], &form].concat(), &input.argument());
    let (filter, frames) = (colours.filter(), count.to_string());
    let coder = if colours.channels() == 3 { "ppm" } else { "pgm" };
    let output = ["-map", "0:v:0", "-vf", &filter, "-frames:v", &frames, "-c:v", coder, "-f", "image2pipe", "-"];
    arguments.extend(output.map(OsString::from));
    let mut run = Run::start(&arguments).map_err(|error| absent(origin, why, &error))?;
    let mut pictures = BufReader::new(run.output());
    for number in 1..=count {
        match read_netpbm(&mut pictures, colours.channels()) {
            Some(still) => sink(still)?,
            None => {
                drop(pictures);
                let messages = run.finish().err().unwrap_or_default();
                return Err(failed(origin, why, &format!("only {} of {count} parts came; {messages}", number - 1)));
            }
        }
    }
    drop(pictures);
    run.finish().map_err(|messages| failed(origin, why, &messages))
}

/// Reads a picture with its head: the kind, width and height, the largest value, a line each.
fn read_netpbm(reader: &mut impl BufRead, channels: usize) -> Option<Still> {
    let mut line = || {
        let mut line = String::new();
        reader.by_ref().take(64).read_line(&mut line).ok()?;
        Some(line)
    };
    let (kind, size, largest) = (line()?, line()?, line()?);
    if !matches!(kind.trim(), "P6" | "P5") || largest.trim() != "255" {
        return None;
    }
    let (width, height) = size.trim().split_once(' ')?;
    let (width, height): (usize, usize) = (width.parse().ok()?, height.parse().ok()?);
    let length = width.checked_mul(height)?.checked_mul(channels)?;
    let mut values = Vec::new();
    reader.by_ref().take(length as u64).read_to_end(&mut values).ok()?;
    (values.len() == length).then_some(Still { width, height, values })
}

fn absent(origin: &str, why: &str, error: &std::io::Error) -> MediaError {
    let state = match error.kind() {
        ErrorKind::NotFound => "was not found".to_owned(),
        _ => format!("does not start: {error}"),
    };
    let reason = format!("{why}, which needs the program `ffmpeg` on PATH, which {state}; or save it as JPEG or PNG");
    MediaError::unsupported(origin, reason)
}

fn failed(origin: &str, why: &str, messages: &str) -> MediaError {
    let reason = format!("{why}, and ffmpeg cannot decode it: {}", messages.trim());
    if super::ffmpeg::no_decoder(messages) {
        return MediaError::unsupported(origin, format!("{reason}; or save it as JPEG or PNG"));
    }
    MediaError::damaged(origin, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_follow_one_another() {
        let mut bytes = &b"P6\n2 1\n255\nabcdefP5\n1 2\n255\nxyP5\n9 9\n255\nshort"[..];
        let first = read_netpbm(&mut bytes, 3).unwrap();
        assert_eq!((first.width, first.height, first.values.as_slice()), (2, 1, &b"abcdef"[..]));
        assert_eq!(read_netpbm(&mut bytes, 1).unwrap().values, b"xy");
        assert!(read_netpbm(&mut bytes, 1).is_none());
    }
}
