//! OpenH264.

use openh264::OpenH264API;
use openh264::decoder::{DecodeOptions, DecodedYUV, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use super::super::colour::Planes;
use crate::boxes::Fault;
use crate::reason::Reason;

pub(crate) struct Decoder(openh264::decoder::Decoder);

/// A picture that still lies in the decoder.
pub(crate) struct Picture<'a>(DecodedYUV<'a>);

impl Decoder {
    pub(crate) fn new() -> Result<Self, Fault> {
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let decoder = openh264::decoder::Decoder::with_api_config(OpenH264API::from_source(), config);
        let missing = |error| {
            let reason = Reason::from(format!("the H.264 decoder cannot be made: {error}"));
            Fault::foreign(reason.caused_by(error))
        };
        decoder.map(Self).map_err(missing)
    }

    pub(crate) fn decode(&mut self, stream: &[u8]) -> Result<Picture<'_>, Fault> {
        let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
        match self.0.decode_with_options(stream, options) {
            Ok(Some(picture)) => Ok(Picture(picture)),
            Ok(None) => Err(Fault::damaged("the H.264 decoder makes no picture of it")),
            Err(error) => {
                let reason = Reason::from(format!("the H.264 decoder cannot read it: {error}"));
                Err(Fault::damaged(reason.caused_by(error)))
            }
        }
    }
}

impl Picture<'_> {
    pub(crate) fn planes(&self) -> Planes<'_> {
        let ((width, height), (luma, blue, red)) = (self.0.dimensions(), self.0.strides());
        Planes { width, height, luma: (self.0.y(), luma), blue: (self.0.u(), blue), red: (self.0.v(), red) }
    }
}
