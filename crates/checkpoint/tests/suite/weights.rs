//! Tensors and experts have the number type of the computation, and are counted in the progress.

use burn::tensor::Device;
use omni_core::{Dtype, Place};
use qwen3_omni_checkpoint::{Checkpoint, Weights};

fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn tensors_are_single_precision_on_the_cpu_whatever_is_asked_for() {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let place = Place::Host(Device::flex());
    let stored = checkpoint.bytes(&checkpoint.tensors()["thinker.lm_head.weight"]);
    let expected: Vec<f32> = stored.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for dtype in Dtype::ALL {
        let weights = Weights::new(&checkpoint, &place, dtype);
        assert_eq!((weights.tensor_dtype(), weights.compute_dtype()), (Dtype::F32, dtype));
        let tensor = weights.at("thinker").at("lm_head").tensor::<2>("weight", [1024, 64]).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32.into());
        assert_eq!(tensor.into_data().try_to_vec_as::<f32>().unwrap(), expected);
    }
    let weights = Weights::new(&checkpoint, &place, Dtype::F32);
    let message = weights.tensor::<2>("thinker.lm_head.weight", [64, 1024]).unwrap_err().to_string();
    assert_names(&message, &["thinker.lm_head.weight", "[64, 1024]", "[1024, 64]"]);
    assert_names(&weights.tensor::<1>("nothing", [1]).unwrap_err().to_string(), &["nothing"]);
}

#[test]
fn experts_are_packed_in_order_and_progress_counts_every_tensor() {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut seen = Vec::new();
    {
        let weights = Weights::new(&checkpoint, &Place::Host(Device::flex()), Dtype::F32)
            .with_progress(|progress| seen.push(progress));
        let mlp = weights.at("thinker.model.layers.0.mlp");
        let packed = mlp.experts(8, &["gate_proj", "up_proj"], [32, 64]).unwrap();
        assert_eq!(packed.dims(), [8, 64, 64]);
        for (expert, part, row) in [(0, "gate_proj", 0), (5, "up_proj", 32), (7, "gate_proj", 0)] {
            let one = mlp.tensor::<2>(&format!("experts.{expert}.{part}.weight"), [32, 64]).unwrap();
            let slice = packed.clone().slice([expert..expert + 1, row..row + 32, 0..64]).squeeze_dim::<2>(0);
            assert_eq!((slice - one).abs().max().into_scalar::<f32>(), 0.0);
        }
    }
    assert_eq!((seen[0].tensors, seen[0].bytes), (16, 16 * 32 * 64 * 4));
    assert_eq!(seen.last().unwrap().tensors, 19);
}
