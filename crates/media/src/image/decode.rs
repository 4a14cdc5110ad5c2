use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom};

use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::jpeg;
use super::pixels::{MOST_PIXELS, Pixels, over_white};
use super::signature::{heif_name, is_tiff};
use super::stills::first_picture;
use crate::error::guarded;
use crate::{MediaError, Result, Source};

/// Most bytes of a JPEG, HEIC or AVIF file, which are read whole: three for each of the most pixels.
const MOST_BYTES: u64 = 3 * MOST_PIXELS;

const KNOWN: &str = "expected PNG, JPEG, WebP, TIFF, BMP, GIF, HEIC or AVIF";

/// Reads a picture's height and width when upright from its header; no pixel is decoded.
pub(super) fn size(source: &Source) -> Result<[usize; 2]> {
    if let Some(heif) = heif(source)? {
        return Ok(heif.size());
    }
    match Header::read(source) {
        Ok(header) => Ok(header.size()),
        Err(error) => {
            check_end(source)?;
            rare(source, error).map(|pixels| [pixels.height(), pixels.width()])
        }
    }
}

/// Decodes a picture. The format is told by the contents, never by the file's name.
pub(super) fn decode(source: &Source) -> Result<Pixels> {
    if let Some(heif) = heif(source)? {
        return heif.pixels();
    }
    check_end(source)?;
    match Header::read(source).and_then(|header| header.decode(&source.origin())) {
        Err(error) => rare(source, error),
        done => done,
    }
}

/// Reads the kinds of TIFF that the decoder here does not take, as those with a palette, through an installed `ffmpeg`.
fn rare(source: &Source, error: MediaError) -> Result<Pixels> {
    let mut head = Vec::new();
    open(source)?.take(HEAD).read_to_end(&mut head).map_err(|error| MediaError::damaged(source.origin(), error))?;
    if !is_tiff(&head) || !matches!(error, MediaError::Unsupported { .. }) {
        return Err(error);
    }
    first_picture(source, "this is a rare kind of TIFF")
}

/// Reads a HEIC or AVIF file, if it is one.
fn heif(source: &Source) -> Result<Option<super::heif::Heif>> {
    let origin = source.origin();
    let mut contents = open(source)?;
    let broken = |error| MediaError::damaged(&origin, error);
    let mut file = Vec::new();
    contents.by_ref().take(HEAD).read_to_end(&mut file).map_err(broken)?;
    let Some(name) = heif_name(&file) else { return Ok(None) };
    contents.take(MOST_BYTES).read_to_end(&mut file).map_err(broken)?;
    if file.len() as u64 >= MOST_BYTES {
        let reason = format!("{name} pictures of at most {MOST_BYTES} bytes can be taken in");
        return Err(MediaError::unusable(origin, reason));
    }
    super::heif::Heif::read(&origin, name, file).map(Some)
}

/// Bytes in which a file's format shows.
const HEAD: u64 = 64;

/// Refuses what the decoders take although the end is missing.
fn check_end(source: &Source) -> Result<()> {
    let mut contents = open(source)?;
    let broken = |error| MediaError::damaged(source.origin(), error);
    let cut = |what: String| Err(MediaError::damaged(source.origin(), format!("the picture is truncated: {what}")));
    let mut head = Vec::new();
    contents.by_ref().take(12).read_to_end(&mut head).and_then(|_| contents.rewind()).map_err(broken)?;
    match head[..] {
        [0xFF, 0xD8, 0xFF, ..] if !jpeg::is_whole(&mut contents).map_err(broken)? => {
            cut("its end-of-image marker is missing".to_owned())
        }
        [b'R', b'I', b'F', b'F', a, b, c, d, b'W', b'E', b'B', b'P'] => {
            let size = 8 + u64::from(u32::from_le_bytes([a, b, c, d]));
            let length = contents.seek(SeekFrom::End(0)).map_err(broken)?;
            if length < size { cut(format!("it has {length} of {size} bytes")) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// What a decoder reads from.
trait Contents: BufRead + Seek {}

impl<T: BufRead + Seek> Contents for T {}

fn open(source: &Source) -> Result<Box<dyn Contents>> {
    let path = match source {
        Source::Bytes(bytes) => return Ok(Box::new(Cursor::new(bytes.clone()))),
        Source::Path(path) => path,
    };
    source.check()?;
    let file = File::open(path).map_err(|source| MediaError::Io { path: path.clone(), source })?;
    Ok(Box::new(BufReader::new(file)))
}

/// A picture whose header was read.
struct Header {
    decoder: Box<dyn ImageDecoder>,
    orientation: Orientation,
}

impl Header {
    fn read(source: &Source) -> Result<Self> {
        let origin = source.origin();
        let mut contents = open(source)?;
        let damaged = |error| MediaError::damaged(&origin, error);
        let length = contents.seek(SeekFrom::End(0)).map_err(damaged)?;
        contents.rewind().map_err(damaged)?;
        let mut head = Vec::new();
        contents.by_ref().take(HEAD).read_to_end(&mut head).map_err(damaged)?;
        contents.rewind().map_err(damaged)?;
        let mut reader = ImageReader::new(contents).with_guessed_format().map_err(damaged)?;
        if is_tiff(&head) {
            reader.set_format(ImageFormat::Tiff);
        }
        match reader.format() {
            None | Some(ImageFormat::Avif) => {
                return Err(MediaError::unsupported(origin, format!("the contents are no picture: {KNOWN}")));
            }
            Some(ImageFormat::Jpeg) if length > MOST_BYTES => {
                let reason = format!("a JPEG of {length} bytes, at most {MOST_BYTES} can be taken in");
                return Err(MediaError::unusable(origin, reason));
            }
            Some(_) => {}
        }
        // Four channels of 16 bits, and as much again for the decoder's own buffers.
        let mut limits = Limits::default();
        limits.max_alloc = Some(MOST_PIXELS * 16);
        reader.limits(limits);
        let mut decoder: Box<dyn ImageDecoder> =
            Box::new(guarded(&origin, || reader.into_decoder())?.map_err(|error| explain(&origin, error))?);
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > MOST_PIXELS {
            let reason = format!("{width} × {height} pixels, at most {MOST_PIXELS} in all can be taken in");
            return Err(MediaError::unusable(origin, reason));
        }
        let orientation = guarded(&origin, || decoder.orientation())?.map_err(|error| explain(&origin, error))?;
        Ok(Self { decoder, orientation })
    }

    fn size(&self) -> [usize; 2] {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let (width, height) = self.decoder.dimensions();
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => [width, height].map(|side| side as usize),
            _ => [height, width].map(|side| side as usize),
        }
    }

    fn decode(self, origin: &str) -> Result<Pixels> {
        let picture = guarded(origin, || DynamicImage::from_decoder(self.decoder))?;
        let mut picture = picture.map_err(|error| explain(origin, error))?;
        picture.apply_orientation(self.orientation);
        flatten(picture)
    }
}

fn explain(origin: &str, error: ImageError) -> MediaError {
    let explained = match &error {
        ImageError::Unsupported(_) => MediaError::unsupported(origin, format!("{error}: {KNOWN}")),
        // Some decoders wrap the reader's error in their own.
        other if error_kind(other) == Some(ErrorKind::UnexpectedEof) || ends_early(&other.to_string()) => {
            MediaError::damaged(origin, format!("the picture is truncated: {other}"))
        }
        other => MediaError::damaged(origin, format!("the picture cannot be decoded: {other}")),
    };
    explained.caused_by(error)
}

fn error_kind(error: &ImageError) -> Option<ErrorKind> {
    if let ImageError::IoError(error) = error { Some(error.kind()) } else { None }
}

fn ends_early(message: &str) -> bool {
    message.to_lowercase().contains("unexpected end of file")
}

/// Converts to RGB, with transparency laid over white.
fn flatten(picture: DynamicImage) -> Result<Pixels> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    if !picture.color().has_alpha() {
        return Pixels::new(width, height, picture.into_rgb8().into_raw());
    }
    over_white(width, height, &picture.into_rgba8().into_raw())
}
