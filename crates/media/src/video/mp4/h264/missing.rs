//! The place of the decoder in a build without one.

use std::convert::Infallible;
use std::marker::PhantomData;

use super::super::colour::Planes;
use crate::boxes::Fault;

pub(crate) struct Decoder(Infallible);

pub(crate) struct Picture<'a>(Infallible, PhantomData<&'a ()>);

impl Decoder {
    pub(crate) fn new() -> Result<Self, Fault> {
        Err(Fault::foreign("this program was built without the feature `video`, which decodes H.264"))
    }

    pub(crate) fn decode(&mut self, _: &[u8]) -> Result<Picture<'_>, Fault> {
        match self.0 {}
    }
}

impl Picture<'_> {
    pub(crate) fn planes(&self) -> Planes<'_> {
        match self.0 {}
    }
}
