//! Rows of media: given the encoders' rows and deepstack features, every layer equals the reference's.

use burn::tensor::{Device, Tensor, TensorData};
use nn::Probe;
use qwen3_omni_moe_thinker::{
    Checkpoint, Dtype, Place, Positions, Thinker, ThinkerInput, ThinkerRun, VisualRows, Weights,
};
use safetensors::SafeTensors;

struct Golden(Vec<u8>);

impl Golden {
    fn floats(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (values, view.shape().to_vec())
    }

    /// A stored tensor as rows, its leading axes flattened.
    fn tensor(&self, name: &str, device: &Device) -> Tensor<2> {
        let (values, shape) = self.floats(name);
        let width = shape[shape.len() - 1];
        let rows = values.len() / width;
        Tensor::from_data(TensorData::new(values, [rows, width]), device)
    }

    fn mask(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().data().to_vec()
    }
}

struct Compare<'a>(&'a Golden);

impl Probe for Compare<'_> {
    fn layer(&mut self, index: usize, hidden: &Tensor<2>) {
        let expected = self.0.tensor(&format!("layer_{index}"), &hidden.device());
        let error = (hidden.clone() - expected).abs().max().into_scalar::<f32>();
        assert!(error < 1e-4, "layer {index}: {error}");
    }
}

#[test]
fn deepstack_features_are_added_at_visual_rows_after_the_first_layers() {
    let device = Device::flex();
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let golden = Golden(std::fs::read(testkit::golden().join("thinker_mixed.safetensors")).unwrap());
    let (positions, shape) = golden.floats("position_ids");
    let axes = [0, 1, 2].map(|axis| positions[axis * shape[2]..(axis + 1) * shape[2]].to_vec());
    let visual = golden.mask("visual_pos_mask");
    let input = ThinkerInput {
        embeds: golden.tensor("inputs_embeds", &device),
        positions: Positions::new(1, axes),
        visual: Some(VisualRows {
            indices: (0..visual.len()).filter(|i| visual[*i] != 0).collect(),
            deepstack: vec![golden.tensor("deepstack_0", &device), golden.tensor("deepstack_1", &device)],
        }),
        tap: true,
    };
    let config = checkpoint.config().section().unwrap();
    for place in [Place::Host(device.clone()), Place::Device(device.clone())] {
        let thinker = Thinker::load(&Weights::new(&checkpoint, &place, Dtype::F32), &config, Some(3)).unwrap();
        let (mut state, mut compare) = (thinker.start(), Compare(&golden));
        let states =
            thinker.states(ThinkerRun { state: &mut state, input: &input, probe: Some(&mut compare) }).unwrap();
        let error = (states.logits - golden.tensor("logits", &device)).abs().max().into_scalar::<f32>();
        assert!(error < 1e-4, "logits: {error}");
        // The tap is the raw output of the layer before the accepted one.
        let error = (states.tap.unwrap() - golden.tensor("layer_2", &device)).abs().max().into_scalar::<f32>();
        assert!(error < 1e-4, "tap: {error}");
    }
}
