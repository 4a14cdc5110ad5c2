//! On an autodiff device the same model is trainable: no operation cuts a gradient, and each gradient is the slope of the loss.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use qwen3_omni_moe_thinker::{
    Checkpoint, Dtype, Place, Positions, Thinker, ThinkerConfig, ThinkerInput, ThinkerRun, VisualRows, Weights,
};

/// Ids that between them choose every expert of every layer.
fn ids() -> Vec<u32> {
    (0..60).map(|at| 5 + at * 37 % 900).collect()
}

/// Cross-entropy of each next token, with deepstack features at some rows.
fn loss(thinker: &Thinker, device: &Device, features: &[f32]) -> Tensor<1> {
    let ids = ids();
    let (inputs, labels) = (&ids[..ids.len() - 1], &ids[1..]);
    let embeds = thinker.embed(inputs);
    let width = embeds.dims()[1];
    let rows = |layer: usize| {
        let values = features[layer * 3 * width..][..3 * width].to_vec();
        Tensor::from_data(TensorData::new(values, [3, width]), device)
    };
    let visual = VisualRows { indices: vec![2, 3, 9], deepstack: vec![rows(0), rows(1)] };
    let positions = Positions::sequence(0.0, inputs.len());
    let input = ThinkerInput { visual: Some(visual), ..ThinkerInput::text(embeds, positions) };
    let logits = thinker.states(ThinkerRun::new(&mut thinker.start(), &input)).unwrap().logits; // [T, V]
    let labels: Vec<i64> = labels.iter().map(|id| i64::from(*id)).collect();
    let labels: Tensor<2, Int> = Tensor::from_data(TensorData::new(labels, [inputs.len(), 1]), device);
    burn::tensor::activation::log_softmax(logits, 1).gather(1, labels).mean().neg()
}

/// Names a parameter by the modules it lies in.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn name(&self) -> String {
        self.0.join(".")
    }
}

/// The gradient of every parameter.
struct Collect<'a> {
    path: Path,
    gradients: &'a Gradients,
    found: BTreeMap<String, Option<Vec<f32>>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.gradients);
        let values = gradient.map(|gradient| gradient.into_data().try_to_vec_as::<f32>().unwrap());
        self.found.insert(self.path.name(), values);
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }
}

/// Moves the parameters of one kind along their gradients.
struct Move<'a> {
    path: Path,
    gradients: &'a BTreeMap<String, Vec<f32>>,
    kind: &'a str,
    by: f32,
}

impl ModuleMapper for Move<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        if !name.contains(self.kind) {
            return param;
        }
        let gradient = &self.gradients[&name];
        let by = self.by;
        param.map(|value| {
            let step = TensorData::new(gradient.iter().map(|g| g * by).collect::<Vec<f32>>(), value.dims());
            value.clone() + Tensor::from_data(step, &value.device())
        })
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }
}

#[test]
fn every_parameter_has_a_gradient_and_it_is_the_slope_of_the_loss() {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let config: ThinkerConfig = checkpoint.config().section().unwrap();
    let features = testkit::noise(6 * config.text.hidden_size, 1);
    let load = |device: &Device| {
        Thinker::load(&Weights::new(&checkpoint, &Place::Device(device.clone()), Dtype::F32), &config, None).unwrap()
    };
    let device = Device::flex().autodiff();
    let thinker = load(&device);
    let gradients = loss(&thinker, &device, &features).backward();
    let mut collect = Collect { path: Path::default(), gradients: &gradients, found: BTreeMap::new() };
    thinker.visit(&mut collect);
    let on_disk = checkpoint.tensors().keys();
    let on_disk = on_disk.filter(|name| name.starts_with("thinker.model") || name.starts_with("thinker.lm_head"));
    assert_eq!(collect.found.len(), on_disk.count(), "one parameter for each tensor of the checkpoint");
    let gradients: BTreeMap<String, Vec<f32>> = collect
        .found
        .into_iter()
        .map(|(name, gradient)| {
            let gradient = gradient.unwrap_or_else(|| panic!("{name} has no gradient"));
            assert!(gradient.iter().any(|g| *g != 0.0) && gradient.iter().all(|g| g.is_finite()), "{name}");
            (name, gradient)
        })
        .collect();

    let kinds = [
        "embed_tokens",
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "q_norm",
        "k_norm",
        "input_layernorm",
        "post_attention_layernorm",
        "gate_proj",
        "up_proj",
        "down_proj",
        "router",
        "model.norm",
        "lm_head",
    ];
    for kind in kinds {
        let of_kind = gradients.iter().filter(|(name, _)| name.contains(kind));
        let squared: f64 = of_kind.flat_map(|(_, g)| g).map(|g| f64::from(*g) * f64::from(*g)).sum();
        assert!(squared > 0.0, "no parameter of kind {kind}");
        // Along the gradient the loss rises by its squared length; a longer step may take a token to other experts.
        let step = (1e-3 / squared.sqrt()) as f32;
        let at = |by: f32| {
            let mut moved = Move { path: Path::default(), gradients: &gradients, kind, by };
            let moved = load(&device).map(&mut moved);
            f64::from(loss(&moved, &device, &features).into_scalar::<f32>())
        };
        let slope = (at(step) - at(-step)) / (2.0 * f64::from(step));
        assert!((slope / squared - 1.0).abs() < 0.05, "{kind}: slope {slope}, squared gradient {squared}");
    }
}
