//! Number types of weights, as benchmarks name them.

use std::str::FromStr;

use checkpoint::{Scheme, Weights};
use omni_core::{Dtype, Error, Place, Result};
use qwen3_omni::Device;

/// What the weights are stored in.
#[derive(Debug, Clone)]
pub struct Stored {
    /// f32, bf16, f16, int8 or int4.
    pub name: String,
    /// Number type of what is not packed.
    pub dtype: Dtype,
    /// How matrices are packed; `None` if they are not.
    pub scheme: Option<Scheme>,
}

impl FromStr for Stored {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let packed = |bits, group| Some(Scheme { bits, group: Some(group), symmetric: true });
        let (dtype, scheme) = match name {
            "int8" => (Dtype::Bf16, packed(8, 128)),
            "int4" => (Dtype::Bf16, packed(4, 32)),
            other => {
                let expected = || Error::Request(format!("`{other}`: expected f32, bf16, f16, int8 or int4"));
                (other.parse().map_err(|_| expected())?, None)
            }
        };
        Ok(Self { name: name.to_owned(), dtype, scheme })
    }
}

impl Stored {
    /// Opens a device. Beside integers everything is bf16; where the device has none, f16 or f32.
    ///
    /// # Errors
    /// The errors of [`Device::place`].
    pub fn open(&self, device: &Device) -> Result<(Place, Dtype)> {
        let opened = device.open()?;
        let of_others = [Dtype::Bf16, Dtype::F16, Dtype::F32];
        let offered = |dtype: &Dtype| opened.supports_dtype(burn::tensor::DType::from(*dtype));
        let dtype = self.scheme.as_ref().and_then(|_| of_others.into_iter().find(offered)).unwrap_or(self.dtype);
        Ok((device.place(dtype)?, dtype))
    }

    /// Random weights of this kind.
    pub fn weights(&self, place: &Place, dtype: Dtype) -> Weights<'static> {
        match &self.scheme {
            Some(scheme) => Weights::random_packed(place, dtype, scheme.clone()),
            None => Weights::random(place, dtype),
        }
    }

    /// Bytes per weight, its share of the scales included.
    pub fn bytes_per_weight(&self) -> f64 {
        match &self.scheme {
            Some(scheme) => f64::from(scheme.bits) / 8.0 + 2.0 / scheme.group.map_or(f64::INFINITY, |n| n as f64),
            None => self.dtype.size() as f64,
        }
    }
}
