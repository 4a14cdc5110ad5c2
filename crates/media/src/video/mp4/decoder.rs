//! Decoding of H.264 to pictures, in order of decoding.

use super::colour::{Colour, Converter, Turn};
use super::h264::{Decoder, Picture};
use super::units::{self, Units};
use crate::Result;
use crate::boxes::Fault;
use crate::image::Pixels;

/// How decoded values become pixels.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) converter: Converter,
    pub(super) turn: Turn,
}

impl Look {
    pub(super) fn new(size: (usize, usize), colour: Option<Colour>, turn: Turn) -> Result<Self, Fault> {
        let colour = colour.unwrap_or(Colour { matrix: Colour::UNSPECIFIED as u16, full: false });
        let foreign = || Fault::foreign(format!("its colours are of the unknown kind {}", colour.matrix));
        let converter = Converter::new(colour).ok_or_else(foreign)?;
        Ok(Self { width: size.0, height: size.1, converter, turn })
    }

    /// Height and width of the upright picture.
    pub(super) fn size(&self) -> [usize; 2] {
        if self.turn.swap { [self.width, self.height] } else { [self.height, self.width] }
    }
}

/// One pass through a video.
pub(super) struct Frames {
    decoder: Decoder,
    length_bytes: usize,
    /// Bytes that go to the decoder with the next picture.
    stream: Vec<u8>,
}

impl Frames {
    pub(super) fn new(length_bytes: usize, headers: &[Vec<u8>]) -> Result<Self, Fault> {
        let decoder = Decoder::new()?;
        let mut stream = Vec::new();
        for unit in headers {
            units::append(unit, true, &mut stream)?;
        }
        Ok(Self { decoder, length_bytes, stream })
    }

    /// Skips a sample whose picture is not needed, but keeps its headers.
    pub(super) fn skip(&mut self, sample: &[u8]) -> Result<(), Fault> {
        self.gather(sample, true)
    }

    /// Decodes the picture of a sample.
    pub(super) fn decode(&mut self, sample: &[u8]) -> Result<Decoded<'_>, Fault> {
        self.gather(sample, false)?;
        let decoded = self.decoder.decode(&self.stream);
        self.stream.clear();
        decoded.map(Decoded)
    }

    fn gather(&mut self, sample: &[u8], only_headers: bool) -> Result<(), Fault> {
        for unit in Units::new(sample, self.length_bytes) {
            units::append(unit?, only_headers, &mut self.stream)?;
        }
        Ok(())
    }
}

/// A picture that still lies in the decoder.
pub(super) struct Decoded<'a>(Picture<'a>);

impl Decoded<'_> {
    /// Converts the picture to pixels; `None` if it does not have the announced size.
    pub(super) fn pixels(&self, look: &Look) -> Option<Result<Pixels>> {
        let planes = self.0.planes();
        let (width, height) = (planes.width, planes.height);
        if (width, height) != (look.width, look.height) {
            return None;
        }
        Some(look.turn.apply(width, height, look.converter.rgb(&planes)?))
    }
}
