//! Checkpoints in the packings of other tools become what this project reads, with the values their own packages compute.

use std::path::Path;

use checkpoint::Dtype;
use checkpoint::packed::{Groups, dequantize};
use half::f16;
use qwen3_omni::{Component, OmniCheckpoint};
use qwen3_omni_weights_tools::convert::{Options, convert};
use safetensors::tensor::{TensorView, serialize_to_file};
use safetensors::{Dtype as Stored, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A linear layer `[128, 64]` of the small checkpoint, and a square one.
const LAYER: &str = "thinker.model.layers.1.self_attn.q_proj";
const SQUARE: &str = "thinker.visual.blocks.1.attn.proj";

fn fixture() -> Vec<u8> {
    std::fs::read(testkit::fixtures().join("quantized/other_packings.safetensors")).unwrap()
}

struct Part {
    name: String,
    dtype: Stored,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// The tensors of a case; those that start with `dequantized` are not part of the layer.
fn parts(case: &str) -> Vec<Part> {
    let bytes = fixture();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let prefix = format!("{case}.");
    let parts = file.tensors().into_iter().filter_map(|(name, view)| {
        let name = name.strip_prefix(&prefix).filter(|name| !name.starts_with("dequantized"))?.to_owned();
        Some(Part { name, dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() })
    });
    let parts: Vec<Part> = parts.collect();
    assert!(parts.len() > 1, "{case}");
    parts
}

/// The bytes of the values that the writer's package computes.
fn values(case: &str) -> Vec<u8> {
    let bytes = fixture();
    SafeTensors::deserialize(&bytes).unwrap().tensor(case).unwrap().data().to_vec()
}

/// The small checkpoint with one layer in another packing.
fn source(module: &str, parts: &[Part], config: Value) -> TempDir {
    let directory = testkit::copy_of_tiny(&["config.json", "vocab.json", "chat_template.json"]);
    let whole = OmniCheckpoint::open(testkit::tiny()).unwrap();
    let weight = format!("{module}.weight");
    let plain = whole.tensors().iter().filter(|(name, _)| **name != weight);
    let mut tensors: Vec<(String, TensorView<'_>)> = plain
        .map(|(name, t)| (name.clone(), TensorView::new(t.dtype, t.shape.clone(), whole.bytes(t)).unwrap()))
        .collect();
    for part in parts {
        let view = TensorView::new(part.dtype, part.shape.clone(), &part.bytes).unwrap();
        tensors.push((format!("{module}.{}", part.name), view));
    }
    serialize_to_file(tensors, None, &directory.path().join("model.safetensors")).unwrap();
    let path = directory.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["thinker_config"]["quantization_config"] = config;
    std::fs::write(path, json.to_string()).unwrap();
    directory
}

fn options(source: &Path, out: &Path) -> Options {
    let (source, out) = (source.to_owned(), out.to_owned());
    Options { source, out, adapters: vec![], dtype: None, dequantize: false, shard_bytes: 1_000_000, restart: false }
}

fn converted(source: &Path, dtype: Option<Dtype>, dequantize: bool) -> (TempDir, OmniCheckpoint) {
    let directory = tempfile::tempdir().unwrap();
    convert(&Options { dtype, dequantize, ..options(source, directory.path()) }, |_| Ok(())).unwrap();
    let checkpoint = OmniCheckpoint::open(directory.path()).unwrap();
    checkpoint.check(&Component::ALL).unwrap();
    (directory, checkpoint)
}

fn gptq(bits: u32, symmetric: bool) -> Value {
    json!({"quant_method": "gptq", "bits": bits, "group_size": 32, "sym": symmetric, "desc_act": false})
}

/// What the checkpoint says a packed layer's values are, rounded once to f16.
fn packed_values(checkpoint: &OmniCheckpoint, module: &str, shape: [usize; 2]) -> Vec<u8> {
    let packed = checkpoint.packed(module, shape).unwrap().unwrap();
    let words: Vec<i32> =
        checkpoint.bytes(packed.words).as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
    assert_eq!(packed.scales.dtype, Stored::F16);
    let scales = checkpoint.bytes(packed.scales).as_chunks::<2>().0;
    let scales: Vec<f32> = scales.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect();
    let groups = packed.group_of_input.as_deref().map_or(Groups::Consecutive(packed.group), Groups::Listed);
    let values = dequantize(&words, shape, packed.bits, groups, (&scales, packed.zeros.as_deref()));
    values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
}

/// Converts a case to packed integers and to floats, and compares both with the writer's values.
fn assert_same_values(case: &str, module: &str, shape: [usize; 2], config: Value) -> OmniCheckpoint {
    let source = source(module, &parts(case), config);
    let expected = values(&format!("{case}.dequantized"));
    let (_kept, packed) = converted(source.path(), None, false);
    assert!(packed_values(&packed, module, shape) == expected, "{case}: packed");
    let (_, dense) = converted(source.path(), None, true);
    let weight = &dense.tensors()[&format!("{module}.weight")];
    assert!(dense.quantization().is_none());
    assert_eq!((weight.dtype, weight.shape.as_slice()), (Stored::F16, shape.as_slice()), "{case}");
    assert!(dense.bytes(weight) == expected, "{case}: floats");
    // All else is as it was.
    let whole = OmniCheckpoint::open(testkit::tiny()).unwrap();
    for (name, tensor) in whole.tensors().iter().filter(|(name, _)| !name.starts_with(module)) {
        assert!(packed.bytes(&packed.tensors()[name]) == whole.bytes(tensor), "{name}");
    }
    packed
}

#[test]
fn gptq_and_autoround_keep_their_values() {
    for bits in [4, 8] {
        for (kind, symmetric) in [("sym", true), ("asym", false)] {
            for group in [32, 64] {
                let case = format!("gptq_int{bits}_group{group}_{kind}");
                let packed = assert_same_values(&case, LAYER, [128, 64], gptq(bits, symmetric));
                let scheme = packed.quantization().unwrap().scheme_of(LAYER).unwrap();
                assert_eq!((scheme.bits, scheme.symmetric, scheme.group_in(64)), (bits, symmetric, group), "{case}");
            }
        }
    }
    let round = json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "sym": true});
    assert_same_values("gptq_int4_group32_sym", LAYER, [128, 64], round);
}

#[test]
fn gptq_of_the_second_version_stores_zero_points_as_they_count() {
    let mut later = parts("gptq_int4_group32_asym");
    let zeros = later.iter_mut().find(|part| part.name == "qzeros").unwrap();
    // The fixture's zero points are at most 15, one more than stored.
    zeros.bytes.iter_mut().for_each(|byte| *byte += 0x11);
    let mut config = gptq(4, false);
    config["checkpoint_format"] = json!("gptq_v2");
    let source = source(LAYER, &later, config);
    let (_kept, packed) = converted(source.path(), None, false);
    assert!(packed_values(&packed, LAYER, [128, 64]) == values("gptq_int4_group32_asym.dequantized"));
}

#[test]
fn inputs_in_another_order_keep_their_groups() {
    let packed = assert_same_values("gptq_int4_ordered", SQUARE, [64, 64], gptq(4, false));
    assert!(packed.packed(SQUARE, [64, 64]).unwrap().unwrap().group_of_input.is_some());
}

#[test]
fn awq_keeps_its_values() {
    for group in [32, 64] {
        let config =
            json!({"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": true, "version": "gemm"});
        assert_same_values(&format!("awq_int4_group{group}"), LAYER, [128, 64], config);
    }
    let round = json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4});
    assert_same_values("awq_int4_group32", LAYER, [128, 64], round);
}

fn fp8(block: [usize; 2]) -> Value {
    json!({"quant_method": "fp8", "weight_block_size": block, "activation_scheme": "dynamic"})
}

#[test]
fn fp8_becomes_floats_of_the_same_values() {
    for block in [[128, 128], [32, 32]] {
        let case = format!("fp8_{}_{}", block[0], block[1]);
        let source = source(LAYER, &parts(&case), fp8(block));
        for (dtype, values_of) in [(None, "dequantized_bf16"), (Some(Dtype::F32), "dequantized")] {
            let (_kept, made) = converted(source.path(), dtype, false);
            let weight = &made.tensors()[&format!("{LAYER}.weight")];
            assert!(made.bytes(weight) == values(&format!("{case}.{values_of}")), "{case} {dtype:?}");
            assert!(made.quantization().is_none());
        }
    }
}

fn error(module: &str, parts: &[Part], config: Value) -> String {
    let source = source(module, parts, config);
    let out = tempfile::tempdir().unwrap();
    let message = convert(&options(source.path(), out.path()), |_| Ok(())).unwrap_err().to_string();
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "{message}");
    message
}

#[test]
fn what_does_not_fit_is_named() {
    let changed = |edit: &dyn Fn(&mut Vec<Part>)| {
        let mut parts = parts("gptq_int4_group32_asym");
        edit(&mut parts);
        error(LAYER, &parts, gptq(4, false))
    };
    fn part<'a>(parts: &'a mut [Part], name: &str) -> &'a mut Part {
        parts.iter_mut().find(|part| part.name == name).unwrap()
    }
    for (message, names) in [
        (changed(&|parts| part(parts, "qweight").shape = vec![16, 64]), ["qweight", "[16, 64]", "expected [8, 128]"]),
        (changed(&|parts| part(parts, "scales").shape = vec![128, 2]), ["scales", "[128, 2]", "expected [128, 128]"]),
        (changed(&|parts| part(parts, "scales").dtype = Stored::I16), ["scales", "I16", "expected F32"]),
        (changed(&|parts| part(parts, "qzeros").dtype = Stored::F32), ["qzeros", "F32", "expected I32"]),
        (
            changed(&|parts| part(parts, "qzeros").bytes[0] = 0xFF),
            ["qzeros", "output 0, group 0", "16 and others as 0"],
        ),
        (changed(&|parts| part(parts, "g_idx").bytes[4] = 7), ["g_idx", "input 1 is in group 7", "0 to 1"]),
        (changed(&|parts| parts.retain(|part| part.name != "scales")), ["missing", "q_proj.scales", "1 missing"]),
        (changed(&|parts| part(parts, "g_idx").name = "h_idx".into()), ["unexpected", "q_proj.h_idx", "1 unexpected"]),
        (error(LAYER, &parts("gptq_int8_group32_sym"), gptq(4, true)), ["qweight", "[16, 128]", "expected [8, 128]"]),
        (error(LAYER, &parts("gptq_int4_group32_sym"), gptq(3, true)), ["config.json", "bits` is 3", "4 or 8"]),
        (error(LAYER, &parts("fp8_32_32"), fp8([64, 64])), ["weight_scale_inv", "[4, 2]", "expected [2, 1]"]),
    ] {
        for name in names {
            assert!(message.contains(name), "`{name}` is not in: {message}");
        }
    }
    let mut broken = parts("fp8_32_32");
    part(&mut broken, "weight").bytes[64 + 3] = 0xFF;
    let source = source(LAYER, &broken, fp8([32, 32]));
    let out = tempfile::tempdir().unwrap();
    let message = convert(&options(source.path(), out.path()), |_| Ok(())).unwrap_err().to_string();
    assert!(message.contains("row 1, column 3 is not a finite number"), "{message}");
}

#[test]
fn a_truncated_shard_is_named() {
    let source = source(LAYER, &parts("gptq_int4_group32_sym"), gptq(4, true));
    let shard = source.path().join("model.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    let out = tempfile::tempdir().unwrap();
    for (kept, reason) in [(bytes.len() - 1, "header promises"), (100, "header should have"), (3, "model.safetensors")]
    {
        std::fs::write(&shard, &bytes[..kept]).unwrap();
        let message = convert(&options(source.path(), out.path()), |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains(reason) && message.contains("model.safetensors"), "{message}");
    }
}
