//! A checkpoint of one layer, drawn for a test, and the engines that read it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::Checkpoint;
use omni_core::{Dtype, Place};
use qwen3_omni_nn::Engine;
use safetensors::tensor::TensorView;

/// The shape and the values of a tensor.
type Kept = (Vec<usize>, Vec<f32>);

/// A source of random numbers, and the tensors drawn from it as if they had been read from a file.
#[derive(Debug, Default)]
pub struct Stored {
    seed: RefCell<u64>,
    tensors: RefCell<BTreeMap<String, Kept>>,
}

impl Stored {
    pub fn new(seed: u64) -> Self {
        Self { seed: RefCell::new(seed), ..Self::default() }
    }

    /// Draws numbers of mean 0 and variance 1 that no file holds.
    pub fn noise(&self, count: usize) -> Vec<f32> {
        let mut seed = self.seed.borrow_mut();
        *seed += 1;
        testkit::noise(count, *seed)
    }

    /// Draws a vector that is stored under this name.
    pub fn vector(&self, name: &str, length: usize) -> Vec<f32> {
        self.keep(name, vec![length], self.noise(length))
    }

    /// Draws a matrix `[out, in]` that is stored under this name; its outputs have the variance of its inputs.
    pub fn matrix(&self, name: &str, [output, input]: [usize; 2]) -> Vec<f32> {
        let scale = (input as f32).sqrt().recip();
        let values = self.noise(output * input).into_iter().map(|value| scale * value).collect();
        self.keep(name, vec![output, input], values)
    }

    fn keep(&self, name: &str, shape: Vec<usize>, values: Vec<f32>) -> Vec<f32> {
        self.tensors.borrow_mut().insert(name.to_owned(), (shape, values.clone()));
        values
    }

    /// Writes all tensors to a file and opens it; the file is gone once the checkpoint is dropped.
    pub fn open(&self) -> Checkpoint {
        let directory = tempfile::tempdir().unwrap();
        let tensors = self.tensors.borrow();
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let kept: Vec<_> = tensors.iter().map(|(name, (shape, values))| (name, shape, bytes(values))).collect();
        let views = kept.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &directory.path().join("model.safetensors")).unwrap();
        std::fs::write(directory.path().join("config.json"), "{}").unwrap();
        Checkpoint::open(directory.path()).unwrap()
    }
}

/// Where the engines of a CPU compute, and the number types that each is tested in.
pub fn kinds() -> [(Place, Dtype); 3] {
    let [host, device] = [Place::Host(Device::flex()), Place::Device(Device::flex())];
    [(host.clone(), Dtype::F32), (host, Dtype::Bf16), (device, Dtype::F32)]
}

/// Runs code that is generic over the engine on each of them, with the stored weights loaded for it.
#[macro_export]
macro_rules! on_each_engine {
    ($stored:expr, |$e:ident, $weights:ident| $body:expr) => {
        let checkpoint = $stored.open();
        for (place, dtype) in $crate::stored::kinds() {
            let $weights = &checkpoint::Weights::new(&checkpoint, &place, dtype);
            match &qwen3_omni_nn::AnyEngine::of($weights) {
                qwen3_omni_nn::AnyEngine::Host($e) => $body,
                qwen3_omni_nn::AnyEngine::Device($e) => $body,
            }
        }
    };
}

/// Values as a tensor `[N, width]` of another crate.
pub fn tensor(values: &[f32], width: usize) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len() / width, width]), &Device::flex())
}

/// Values as an engine's rows `[N, width]`.
pub fn rows<E: Engine>(e: &E, values: &[f32], width: usize) -> E::Rows {
    e.rows(&[&tensor(values, width)])
}

/// Few cases, since each loads its weights for every engine and computes a formula without optimisation.
pub fn few_cases() -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases: 48, failure_persistence: None, ..Default::default() }
}
