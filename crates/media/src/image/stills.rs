//! Still pictures through the program `ffmpeg`: the codecs of HEIC and AVIF, and rare kinds of other formats.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Read};

use super::pixels::{MOST_PIXELS, Pixels, over_white};
use crate::ffmpeg::{Input, Run, arguments, no_decoder, not_started};
use crate::reason::Reason;
use crate::{MediaError, Result, Source};

/// A decoded picture: RGB or grey, row by row.
pub(super) struct Still {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<u8>,
}

/// What the values become.
#[derive(Clone, Copy, Debug)]
pub(super) enum Colours {
    /// RGB; the number of the matrix and whether values take the full range, where the file says so besides the coded picture.
    Rgb(Option<(u16, bool)>),
    /// RGB and transparency; luma and colour differences take all values.
    Rgba,
    /// Luma as it is, for transparency.
    Grey,
}

impl Colours {
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Rgb(_) => 3,
            Self::Rgba => 4,
            Self::Grey => 1,
        }
    }

    fn filter(self) -> String {
        let stated = match self {
            Self::Rgb(stated) => stated,
            Self::Rgba => return "scale=in_color_matrix=bt601:in_range=full,format=rgba".into(),
            Self::Grey => return "scale=in_range=full:out_range=full,format=gray".into(),
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
pub(super) fn first_picture(source: &Source, why: &str) -> Result<Pixels> {
    let mut first = None;
    decode_stills(source.clone(), "", &source.origin(), why, Colours::Rgba, 1, &mut |still| {
        first = Some(over_white(still.width, still.height, &still.values)?);
        Ok(())
    })?;
    first.ok_or_else(|| MediaError::damaged(source.origin(), "ffmpeg makes no picture of it"))
}

/// Decodes `count` pictures of a stream in the form that ffmpeg calls `form`, and passes each to `sink`.
///
/// # Errors
/// [`MediaError::Unsupported`], with `why` as the reason, without `ffmpeg` or in one without the codec; [`MediaError::Damaged`] if fewer
/// pictures come; what `sink` returns.
pub(super) fn decode_stills(
    stream: Source,
    form: &str,
    origin: &str,
    why: &str,
    colours: Colours,
    count: usize,
    sink: &mut dyn FnMut(Still) -> Result<()>,
) -> Result<()> {
    let input = Input::new(&stream)?;
    let most = MOST_PIXELS.to_string();
    let limits = ["-threads", "1", "-max_pixels", &most];
    let form: Vec<&str> = if form.is_empty() { Vec::new() } else { vec!["-f", form] };
    let mut arguments = arguments(&[&limits[..], &form].concat(), &input.argument());
    let (filter, frames) = (colours.filter(), count.to_string());
    let output = ["-map", "0:v:0", "-vf", &filter, "-frames:v", &frames, "-c:v", "pam", "-f", "image2pipe", "-"];
    arguments.extend(output.map(OsString::from));
    let mut run = Run::start(&arguments).map_err(|error| absent(origin, why, error))?;
    let mut pictures = BufReader::new(run.output());
    for number in 1..=count {
        match read_pam(&mut pictures, colours.channels()) {
            Some(still) => sink(still)?,
            None => {
                drop(pictures);
                let messages = run.finish().err().unwrap_or_default();
                let came = |messages: &str| format!("only {} of {count} parts came; {messages}", number - 1);
                return Err(failed(origin, why, messages.reworded(came)));
            }
        }
    }
    drop(pictures);
    run.finish().map_err(|messages| failed(origin, why, messages))
}

/// Reads a picture in the form PAM: lines that name width, height, number of channels and largest value, then the values.
fn read_pam(reader: &mut impl BufRead, channels: usize) -> Option<Still> {
    let (mut width, mut height, mut line) = (0, 0, String::new());
    while line.trim() != "ENDHDR" {
        line.clear();
        if reader.by_ref().take(64).read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim().split_once(' ') {
            Some(("WIDTH", number)) => width = number.parse().ok()?,
            Some(("HEIGHT", number)) => height = number.parse().ok()?,
            Some(("DEPTH", number)) if number.parse() != Ok(channels) => return None,
            Some(("MAXVAL", number)) if number != "255" => return None,
            _ => {}
        }
    }
    let length = usize::checked_mul(width, height)?.checked_mul(channels).filter(|length| *length > 0)?;
    let mut values = Vec::new();
    reader.by_ref().take(length as u64).read_to_end(&mut values).ok()?;
    (values.len() == length).then_some(Still { width, height, values })
}

fn absent(origin: &str, why: &str, error: std::io::Error) -> MediaError {
    let state = match error.kind() {
        ErrorKind::NotFound => "was not found".to_owned(),
        _ => format!("does not start: {error}"),
    };
    let reason = format!("{why}, which needs the program `ffmpeg` on PATH, which {state}; or save it as JPEG or PNG");
    not_started(MediaError::unsupported(origin, reason), error)
}

fn failed(origin: &str, why: &str, messages: Reason) -> MediaError {
    let unsupported = no_decoder(messages.text());
    let reason = messages.reworded(|messages| format!("{why}, and ffmpeg cannot decode it: {}", messages.trim()));
    if unsupported {
        return MediaError::unsupported(origin, reason.reworded(|why| format!("{why}; or save it as JPEG or PNG")));
    }
    MediaError::damaged(origin, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_follow_one_another() {
        let head = |width, depth| {
            format!("P7\nWIDTH {width}\nHEIGHT 1\nDEPTH {depth}\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n").into_bytes()
        };
        let bytes = [&head(2, 3)[..], b"abcdef", &head(2, 1), b"xy", &head(9, 1), b"short"].concat();
        let mut bytes = bytes.as_slice();
        let first = read_pam(&mut bytes, 3).unwrap();
        assert_eq!((first.width, first.height, first.values.as_slice()), (2, 1, &b"abcdef"[..]));
        assert_eq!(read_pam(&mut bytes, 1).unwrap().values, b"xy");
        assert!(read_pam(&mut bytes, 1).is_none());
        assert!(read_pam(&mut &head(2, 4)[..], 3).is_none());
    }
}
