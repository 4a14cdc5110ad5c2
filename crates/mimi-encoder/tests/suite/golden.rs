//! Waves, and what the reference makes of them; see `fixtures/make_reference.py`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use qwen3_omni_mimi_encoder::{Checkpoint, MimiEncoder, Place};
use safetensors::SafeTensors;

pub const MODELS: [&str; 2] = ["tiny", "variant"];
pub const CASES: [&str; 5] = ["whole", "remainder", "odd", "short", "single"];

/// One wave and the reference's results in f64.
pub struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    pub fn open(model: &str, case: &str) -> Self {
        let path = fixtures().join(format!("golden/{model}_{case}.safetensors"));
        Self { bytes: std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    /// The values of a tensor, row by row.
    pub fn values(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let data = tensors.tensor(name).unwrap().data();
        data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    pub fn samples(&self) -> Vec<f32> {
        self.values("samples")
    }

    /// `[F, Q]`.
    pub fn codes(&self) -> Vec<Vec<u32>> {
        let tensors = self.tensors();
        let codes = tensors.tensor("codes").unwrap();
        let ids = codes.data().chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
        ids.collect::<Vec<_>>().chunks(codes.shape()[1]).map(<[u32]>::to_vec).collect()
    }

    /// Largest error of the reference in f32.
    pub fn noise(&self, part: &str) -> f32 {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).unwrap();
        header.metadata().as_ref().unwrap()[&format!("noise_{part}")].parse().unwrap()
    }
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Both engines.
pub fn places() -> [Place; 2] {
    [Place::Host(Device::flex()), Place::Device(Device::flex())]
}

pub fn load(model: &str, place: &Place) -> MimiEncoder {
    MimiEncoder::from_checkpoint(&Checkpoint::open(fixtures().join(model)).unwrap(), place).unwrap()
}
