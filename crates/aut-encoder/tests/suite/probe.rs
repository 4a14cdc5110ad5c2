//! Neither a probe nor an earlier call changes the results.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni_aut_encoder::{AutEncoder, AutProbe, Checkpoint, Dtype, ModalityEncoder, Place, Weights};

fn encoder(directory: PathBuf, dtype: Dtype) -> AutEncoder {
    let checkpoint = Checkpoint::open(directory).unwrap();
    let config = checkpoint.config().section().unwrap();
    AutEncoder::load(&Weights::new(&checkpoint, &Place::Host(Device::flex()), dtype), &config).unwrap()
}

/// More than one attention window, more chunks than are convolved together, and a short last chunk.
fn items() -> Vec<Tensor<2>> {
    let device = Device::flex();
    let item = |frames: usize| {
        Tensor::from_data(TensorData::new(testkit::noise(frames * 128, frames as u64), [frames, 128]), &device)
    };
    [1730, 33, 100].map(item).to_vec()
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec_as().unwrap()
}

/// Every step, by name.
#[derive(Default)]
struct Steps(Vec<(String, Vec<f32>)>);

impl AutProbe for Steps {
    fn conv(&mut self, x: &Tensor<4>) {
        self.0.push(("convolutions".into(), values(x.clone())));
    }

    fn conv_out(&mut self, x: &Tensor<3>) {
        self.0.push(("conv_out".into(), values(x.clone())));
    }

    fn input(&mut self, x: &Tensor<2>, _: &[usize]) {
        self.0.push(("input".into(), values(x.clone())));
    }

    fn layer(&mut self, index: usize, x: &Tensor<2>) {
        self.0.push((format!("layer {index}"), values(x.clone())));
    }

    fn norm(&mut self, x: &Tensor<2>) {
        self.0.push(("norm".into(), values(x.clone())));
    }
}

#[test]
fn a_look_changes_nothing_and_neither_does_what_was_encoded_before() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let encoder = encoder(testkit::nano(), dtype);
        let first = values(encoder.encode(items()).unwrap().embeds);
        encoder.encode(vec![items().remove(1)]).unwrap();
        let looked = encoder.encode_with(&items(), &mut Steps::default()).unwrap();
        assert_eq!(first, values(looked.embeds), "{dtype:?}");
    }
}
