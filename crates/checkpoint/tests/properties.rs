//! Whatever bytes stand in a shard, opening it gives a checkpoint or an error, never a panic.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use qwen3_omni_checkpoint::{Checkpoint, Expected, Manifest, TensorKind};

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
}
