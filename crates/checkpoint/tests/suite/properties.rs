//! Whatever bytes stand in a shard or an adapter, opening it gives a checkpoint or an error, never a panic.

use proptest::prelude::*;
use qwen3_omni_checkpoint::{Adapter, Checkpoint, CheckpointError, Expected, Manifest, TensorKind};
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};

fn open(shard: &[u8]) -> String {
    let directory = testkit::copy_of_tiny(&["config.json"]);
    std::fs::write(directory.path().join("model.safetensors"), shard).unwrap();
    let needed = Expected { shape: vec![1], kind: TensorKind::Values };
    let manifest = Manifest::from([("needed".to_owned(), needed)]);
    match Checkpoint::open(directory.path()) {
        Ok(checkpoint) => checkpoint.check(&manifest, |_| true).err().map_or_else(String::new, |e| e.to_string()),
        Err(error) => error.to_string(),
    }
}

fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

/// Merges an adapter with these tensors into a checkpoint of a matrix, a kernel and two experts, and reads all of it.
fn merged(tensors: &[(String, Vec<usize>)], rank: u64) -> Result<usize, CheckpointError> {
    let (model, adapter) = (testkit::copy_of_tiny(&["config.json"]), tempfile::tempdir().unwrap());
    let zeros = [0; 4 * 625];
    let view = |shape: &[usize]| {
        TensorView::new(Dtype::F32, shape.to_vec(), &zeros[..4 * shape.iter().product::<usize>()]).unwrap()
    };
    let parts = |expert: usize| {
        ["gate_proj", "up_proj", "down_proj"].map(|part| {
            (format!("experts.{expert}.{part}.weight"), view(if part == "down_proj" { &[3, 2] } else { &[2, 3] }))
        })
    };
    let plain = [("linear.weight".to_owned(), view(&[3, 2])), ("conv.weight".to_owned(), view(&[3, 2, 2, 2]))];
    let all = plain.into_iter().chain(parts(0)).chain(parts(1));
    serialize_to_file(all, None, &model.path().join("model.safetensors")).unwrap();
    let config = format!(r#"{{"peft_type": "LORA", "r": {rank}, "lora_alpha": 1}}"#);
    std::fs::write(adapter.path().join("adapter_config.json"), config).unwrap();
    let views = tensors.iter().map(|(name, shape)| (name, view(shape)));
    serialize_to_file(views, None, &adapter.path().join("adapter_model.safetensors")).unwrap();
    let mut checkpoint = Checkpoint::open(model.path())?;
    checkpoint.add_adapter(Adapter::open(adapter.path())?, |name| vec![name.to_owned()])?;
    let read = checkpoint.tensors().keys().map(|name| Ok(checkpoint.contents(name)?.len()));
    read.sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes(shard in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!open(&shard).is_empty());
    }

    #[test]
    fn any_entry(start in any::<u64>(), end in any::<u64>(), shape in prop::collection::vec(any::<u64>(), 0..4), data in 0usize..64) {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#);
        prop_assert!(!open(&with_header(&header, data)).is_empty());
    }

    #[test]
    fn factors_of_any_shape(
        module in prop::sample::select(vec!["linear", "conv", "experts", "experts.base_layer", "other"]),
        shapes in prop::array::uniform2(prop::collection::vec(0usize..6, 0..5)),
        rank in 0u64..4,
    ) {
        let named = |factor: &str, shape: &[usize]| (format!("{module}.lora_{factor}.weight"), shape.to_vec());
        let tensors = [named("A", &shapes[0]), named("B", &shapes[1])];
        match merged(&tensors, rank) {
            // Nothing has changed its size.
            Ok(bytes) => prop_assert_eq!(bytes, 4 * (6 + 24 + 2 * 18)),
            Err(error) => prop_assert!(error.to_string().contains("adapter"), "{}", error),
        }
    }
}
