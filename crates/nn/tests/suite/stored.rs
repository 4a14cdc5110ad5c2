//! A checkpoint of one layer, drawn for a test, and the engines that read it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::packed::{self, quantize};
use checkpoint::{Checkpoint, Scheme};
use omni_core::{Dtype, Place};
use qwen3_omni_nn::Engine;
use safetensors::tensor::TensorView;

/// A tensor as its file holds it.
#[derive(Debug)]
struct Kept {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A source of random numbers, and the tensors drawn from it as if they had been read from a file.
#[derive(Debug, Default)]
pub struct Stored {
    seed: RefCell<u64>,
    /// How the matrices of linear layers are packed, if they are.
    scheme: Option<Scheme>,
    tensors: RefCell<BTreeMap<String, Kept>>,
}

impl Stored {
    pub fn new(seed: u64) -> Self {
        Self { seed: RefCell::new(seed), ..Self::default() }
    }

    /// The matrices of linear layers are packed.
    pub fn packed(seed: u64, scheme: Scheme) -> Self {
        Self { scheme: Some(scheme), ..Self::new(seed) }
    }

    pub fn is_packed(&self) -> bool {
        self.scheme.is_some()
    }

    /// Draws numbers of mean 0 and variance 1 that no file holds.
    pub fn noise(&self, count: usize) -> Vec<f32> {
        let mut seed = self.seed.borrow_mut();
        *seed += 1;
        testkit::noise(count, *seed)
    }

    /// Draws a vector that is stored under this name.
    pub fn vector(&self, name: &str, length: usize) -> Vec<f32> {
        let values = self.noise(length);
        self.keep(name, &[length], &values);
        values
    }

    /// Draws a matrix `[out, in]` that is stored under this name; its outputs have the variance of its inputs.
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Vec<f32> {
        let values = self.scaled(shape);
        self.keep(name, &shape, &values);
        values
    }

    /// Draws the weight `[out, in]` of a linear layer, which is packed if all are; returns the values that it then stands for.
    pub fn linear(&self, module: &str, shape: [usize; 2]) -> Vec<f32> {
        let Some(scheme) = &self.scheme else { return self.matrix(&format!("{module}.weight"), shape) };
        let ([output, input], matrix) = (shape, quantize(&self.scaled(shape), shape, scheme));
        let (bits, groups) = (scheme.bits as usize, scheme.groups_in(input));
        let zeros = matrix.zeros.as_ref().map(|words| packed::unpack_zeros(words, [output, groups], scheme.bits));
        let value = |at: usize| {
            let (row, column) = (at / input, at % input);
            let (word, group) =
                (row * (input * bits / 32) + column * bits / 32, row * groups + column * groups / input);
            let stored = (matrix.words[word] as u32 >> (column * bits % 32)) & ((1 << bits) - 1);
            let zero = (1 << (bits - 1)) + zeros.as_ref().map_or(0, |zeros| i32::from(zeros[group]));
            (stored as i32 - zero) as f32 * matrix.scales[group].to_f32()
        };
        let i32s = |values: &[i32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let scales = matrix.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let part = |suffix: &str| format!("{module}.weight_{suffix}");
        self.keep_bytes(&part("packed"), safetensors::Dtype::I32, &[output, input * bits / 32], i32s(&matrix.words));
        self.keep_bytes(&part("scale"), safetensors::Dtype::BF16, &[output, groups], scales);
        let sizes = shape.iter().flat_map(|size| (*size as i64).to_le_bytes()).collect();
        self.keep_bytes(&part("shape"), safetensors::Dtype::I64, &[2], sizes);
        if let Some(words) = &matrix.zeros {
            let rows = words.len() / groups;
            self.keep_bytes(&part("zero_point"), safetensors::Dtype::I32, &[rows, groups], i32s(words));
        }
        (0..output * input).map(value).collect()
    }

    fn scaled(&self, [output, input]: [usize; 2]) -> Vec<f32> {
        let scale = (input as f32).sqrt().recip();
        self.noise(output * input).into_iter().map(|value| scale * value).collect()
    }

    fn keep(&self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.keep_bytes(name, safetensors::Dtype::F32, shape, bytes);
    }

    fn keep_bytes(&self, name: &str, dtype: safetensors::Dtype, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.borrow_mut().insert(name.to_owned(), Kept { dtype, shape: shape.to_vec(), bytes });
    }

    /// The config: it names the scheme, if there is one.
    fn config(&self) -> serde_json::Value {
        let Some(Scheme { bits, group, symmetric }) = &self.scheme else { return serde_json::json!({}) };
        let strategy = if group.is_some() { "group" } else { "channel" };
        let weights = serde_json::json!({
            "num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": group,
        });
        serde_json::json!({ "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } },
        } })
    }

    /// Writes all tensors to a file and opens it; the file is gone once the checkpoint is dropped.
    pub fn open(&self) -> Checkpoint {
        let directory = tempfile::tempdir().unwrap();
        let tensors = self.tensors.borrow();
        let views = tensors.iter().map(|(name, Kept { dtype, shape, bytes })| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &directory.path().join("model.safetensors")).unwrap();
        std::fs::write(directory.path().join("config.json"), self.config().to_string()).unwrap();
        Checkpoint::open(directory.path()).unwrap()
    }
}

/// Where the engines of a CPU compute, and the number types that each is tested in.
pub fn kinds() -> [(Place, Dtype); 4] {
    let [host, device, autodiff] =
        [Place::Host(Device::flex()), Place::Device(Device::flex()), Place::Device(Device::flex().autodiff())];
    [(host.clone(), Dtype::F32), (host, Dtype::Bf16), (device, Dtype::F32), (autodiff, Dtype::F32)]
}

/// Runs code that is generic over the engine on each of them, with the stored weights loaded for it.
#[macro_export]
macro_rules! on_each_engine {
    ($stored:expr, |$e:ident, $weights:ident| $body:expr) => {
        let checkpoint = $stored.open();
        for (place, dtype) in $crate::stored::kinds() {
            // A test that fails shows where.
            println!("{place:?} in {dtype}");
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

/// Every kind of packing that is read.
pub fn schemes() -> impl proptest::strategy::Strategy<Value = Scheme> {
    use proptest::prelude::*;
    let group = prop::sample::select(vec![None, Some(8), Some(16), Some(32)]);
    (prop::sample::select(vec![4, 8]), group, any::<bool>()).prop_map(|(bits, group, symmetric)| Scheme {
        bits,
        group,
        symmetric,
    })
}
