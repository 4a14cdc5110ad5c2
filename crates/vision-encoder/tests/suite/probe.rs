//! Neither a probe nor an earlier call changes the results.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni_vision_encoder::{
    Checkpoint, Dtype, ModalityEncoder, PixelPatches, Place, VisionConfig, VisionEncoder, VisionProbe, Weights,
};

fn encoder(directory: PathBuf, dtype: Dtype) -> VisionEncoder {
    let checkpoint = Checkpoint::open(directory).unwrap();
    let config = checkpoint.config().section().unwrap();
    VisionEncoder::load(&Weights::new(&checkpoint, &Place::Host(Device::flex()), dtype), &config).unwrap()
}

/// A picture, a video of three frames, and a small picture.
fn items() -> Vec<PixelPatches> {
    let device = Device::flex();
    let item = |grid: [usize; 3]| {
        let count: usize = grid.iter().product();
        let values = TensorData::new(testkit::noise(count * 1536, count as u64), [count, 1536]);
        PixelPatches { patches: Tensor::from_data(values, &device), grid, seconds_per_step: 0.0 }
    };
    [[1, 12, 10], [3, 4, 6], [1, 2, 2]].map(item).to_vec()
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec_as().unwrap()
}

/// Every step, by name.
#[derive(Default)]
struct Steps(Vec<(String, Vec<f32>)>);

impl VisionProbe for Steps {
    fn embedded(&mut self, patches: &Tensor<2>, _: &Tensor<2>, _: &[usize]) {
        self.0.push(("patches".into(), values(patches.clone())));
    }

    fn block(&mut self, index: usize, x: &Tensor<2>) {
        self.0.push((format!("block {index}"), values(x.clone())));
    }
}

#[test]
fn a_look_changes_nothing_and_neither_does_what_was_encoded_before() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let encoder = encoder(testkit::nano(), dtype);
        let first = values(encoder.encode(items()).unwrap().embeds);
        encoder.encode(vec![items().remove(2)]).unwrap();
        let looked = encoder.encode_with(&items(), &mut Steps::default()).unwrap();
        assert_eq!(first, values(looked.embeds), "{dtype:?}");
    }
}

/// The reference goes through the layers and takes the merger that the config names for each: features are in the order of the
/// layers, whatever the order of the config.
#[test]
fn deepstack_features_come_in_the_order_of_the_layers() {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let features = |indexes: &[usize]| {
        let mut config: VisionConfig = checkpoint.config().section().unwrap();
        config.deepstack_visual_indexes = indexes.to_vec();
        let weights = Weights::random(&Place::Host(Device::flex()), Dtype::F32);
        let encoder = VisionEncoder::load_parts(&weights, &config).unwrap();
        encoder.encode(items()).unwrap().deepstack.into_iter().map(values).collect::<Vec<_>>()
    };
    let found = features(&[2, 0]);
    // The second merger behind layer 0, then the first behind layer 2.
    assert_eq!(found[0], features(&[1, 0])[0]);
    assert_eq!(found[1], features(&[2])[0]);
    assert_ne!(found[0], found[1]);
}
