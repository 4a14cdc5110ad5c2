//! The decoder of H.264: OpenH264 with the feature `video`, and none without it.

#[cfg(feature = "video")]
pub(super) use built_in::{Decoder, Picture};
#[cfg(not(feature = "video"))]
pub(super) use missing::{Decoder, Picture};

#[cfg(feature = "video")]
mod built_in {
    use openh264::OpenH264API;
    use openh264::decoder::{DecodeOptions, DecodedYUV, DecoderConfig, Flush};
    use openh264::formats::YUVSource;

    use super::super::boxes::Fault;
    use super::super::colour::Planes;

    pub(in super::super) struct Decoder(openh264::decoder::Decoder);

    /// A picture that still lies in the decoder.
    pub(in super::super) struct Picture<'a>(DecodedYUV<'a>);

    impl Decoder {
        pub(in super::super) fn new() -> Result<Self, Fault> {
            let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
            let decoder = openh264::decoder::Decoder::with_api_config(OpenH264API::from_source(), config);
            let missing = |error| Fault::Foreign(format!("the H.264 decoder cannot be made: {error}"));
            decoder.map(Self).map_err(missing)
        }

        pub(in super::super) fn decode(&mut self, stream: &[u8]) -> Result<Picture<'_>, Fault> {
            let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
            match self.0.decode_with_options(stream, options) {
                Ok(Some(picture)) => Ok(Picture(picture)),
                Ok(None) => Err(Fault::Damaged("the H.264 decoder makes no picture of it".into())),
                Err(error) => Err(Fault::Damaged(format!("the H.264 decoder cannot read it: {error}"))),
            }
        }
    }

    impl Picture<'_> {
        pub(in super::super) fn planes(&self) -> Planes<'_> {
            let ((width, height), (luma, blue, red)) = (self.0.dimensions(), self.0.strides());
            Planes { width, height, luma: (self.0.y(), luma), blue: (self.0.u(), blue), red: (self.0.v(), red) }
        }
    }
}

#[cfg(not(feature = "video"))]
mod missing {
    use std::convert::Infallible;
    use std::marker::PhantomData;

    use super::super::boxes::Fault;
    use super::super::colour::Planes;

    pub(in super::super) struct Decoder(Infallible);

    pub(in super::super) struct Picture<'a>(Infallible, PhantomData<&'a ()>);

    impl Decoder {
        pub(in super::super) fn new() -> Result<Self, Fault> {
            Err(Fault::Foreign("this program was built without the feature `video`, which decodes H.264".into()))
        }

        pub(in super::super) fn decode(&mut self, _: &[u8]) -> Result<Picture<'_>, Fault> {
            match self.0 {}
        }
    }

    impl Picture<'_> {
        pub(in super::super) fn planes(&self) -> Planes<'_> {
            match self.0 {}
        }
    }
}
