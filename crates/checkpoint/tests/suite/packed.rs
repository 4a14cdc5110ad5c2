//! Packed layers: golden cases of `compressed-tensors` in both directions, and directories that hold them, sound or damaged.

use std::path::Path;

use half::bf16;
use qwen3_omni_checkpoint::packed::{Groups, Scheme, dequantize, pack, pack_zeros, quantize, unpack, unpack_zeros};
use qwen3_omni_checkpoint::{Checkpoint, Expected, Manifest, TensorKind, UNFINISHED};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

const SHAPE: [usize; 2] = [40, 256];

fn cases() -> Vec<u8> {
    std::fs::read(testkit::fixtures().join("quantized/cases.safetensors")).unwrap()
}

fn schemes() -> impl Iterator<Item = (String, Scheme)> {
    [4, 8].into_iter().flat_map(|bits| {
        [Some(32), Some(128), None].into_iter().flat_map(move |group| {
            [true, false].into_iter().map(move |symmetric| {
                let groups = group.map_or("channel".to_owned(), |group| format!("group{group}"));
                let name = format!("int{bits}_{groups}_{}", if symmetric { "sym" } else { "asym" });
                (name, Scheme { bits, group, symmetric })
            })
        })
    })
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn integers(file: &SafeTensors<'_>, name: &str) -> Vec<i32> {
    file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

fn scales(file: &SafeTensors<'_>, name: &str) -> Vec<bf16> {
    file.tensor(name).unwrap().data().as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b)).collect()
}

#[test]
fn the_packages_files_are_read_to_the_same_values() {
    let bytes = cases();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (case, scheme) in schemes() {
        let words = integers(&file, &format!("{case}.weight_packed"));
        let scales: Vec<f32> = scales(&file, &format!("{case}.weight_scale")).iter().map(|s| s.to_f32()).collect();
        let shape = [SHAPE[0], scheme.groups_in(SHAPE[1])];
        let zeros = (!scheme.symmetric)
            .then(|| unpack_zeros(&integers(&file, &format!("{case}.weight_zero_point")), shape, scheme.bits));
        let groups = Groups::Consecutive(scheme.group_in(SHAPE[1]));
        let values = dequantize(&words, SHAPE, scheme.bits, groups, (&scales, zeros.as_deref()));
        assert!(values == floats(&file, &format!("{case}.dequantized")), "{case}");
        // Packing what was unpacked gives the same words.
        assert_eq!(pack(&unpack(&words, SHAPE, scheme.bits), SHAPE, scheme.bits), words, "{case}");
        if let Some(zeros) = zeros {
            let packed = integers(&file, &format!("{case}.weight_zero_point"));
            assert_eq!(pack_zeros(&zeros, shape, scheme.bits), packed, "{case}");
        }
    }
}

#[test]
fn the_same_weights_become_the_packages_words_scales_and_zero_points() {
    let bytes = cases();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (case, scheme) in schemes() {
        let packed = quantize(&floats(&file, &format!("{case}.weight")), SHAPE, &scheme);
        assert!(packed.scales == scales(&file, &format!("{case}.weight_scale")), "{case}: scales");
        assert!(packed.words == integers(&file, &format!("{case}.weight_packed")), "{case}: words");
        let zeros = (!scheme.symmetric).then(|| integers(&file, &format!("{case}.weight_zero_point")));
        assert!(packed.zeros == zeros, "{case}: zero points");
    }
}

/// A linear layer of the small checkpoint, `[1024, 64]`, and its parts as raw bytes.
const LAYER: &str = "thinker.lm_head";
const LAYER_SHAPE: [usize; 2] = [1024, 64];

struct Part {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn le(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn parts(scheme: &Scheme, weight: &[f32]) -> Vec<Part> {
    let [outputs, inputs] = LAYER_SHAPE;
    let packed = quantize(weight, LAYER_SHAPE, scheme);
    let part = |name, dtype, shape, bytes| Part { name, dtype, shape, bytes };
    let groups = scheme.groups_in(inputs);
    let scales = packed.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let shape = LAYER_SHAPE.iter().flat_map(|n| (*n as i64).to_le_bytes()).collect();
    let mut parts = vec![
        part("weight_packed", Dtype::I32, vec![outputs, scheme.words_in(inputs)], le(&packed.words)),
        part("weight_scale", Dtype::BF16, vec![outputs, groups], scales),
        part("weight_shape", Dtype::I64, vec![2], shape),
    ];
    if let Some(zeros) = &packed.zeros {
        parts.push(part("weight_zero_point", Dtype::I32, vec![scheme.words_in(outputs), groups], le(zeros)));
    }
    parts
}

fn config(scheme: &Scheme) -> Value {
    let strategy = if scheme.group.is_some() { "group" } else { "channel" };
    let weights = json!({"num_bits": scheme.bits, "type": "int", "symmetric": scheme.symmetric,
        "group_size": scheme.group, "strategy": strategy, "dynamic": false});
    let group = json!({"targets": ["Linear"], "weights": weights, "input_activations": null});
    json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}, "ignore": []})
}

/// Makes the small checkpoint in one file, with `LAYER` packed.
fn packed(scheme: &Scheme, edit_parts: impl FnOnce(&mut Vec<Part>), edit_config: impl FnOnce(&mut Value)) -> TempDir {
    let directory = testkit::copy_of_tiny(&["config.json"]);
    let whole = Checkpoint::open(testkit::tiny()).unwrap();
    let stored = &whole.tensors()[&format!("{LAYER}.weight")];
    let weight: Vec<f32> = whole.bytes(stored).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut parts = parts(scheme, &weight);
    edit_parts(&mut parts);
    let mut tensors = Vec::new();
    for (name, tensor) in whole.tensors().iter().filter(|(name, _)| **name != format!("{LAYER}.weight")) {
        let view =
            safetensors::tensor::TensorView::new(tensor.dtype, tensor.shape.clone(), whole.bytes(tensor)).unwrap();
        tensors.push((name.clone(), view));
    }
    for part in &parts {
        let view = safetensors::tensor::TensorView::new(part.dtype, part.shape.clone(), &part.bytes).unwrap();
        tensors.push((format!("{LAYER}.{}", part.name), view));
    }
    safetensors::serialize_to_file(tensors, None, &directory.path().join("model.safetensors")).unwrap();
    let path = directory.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["quantization_config"] = config(scheme);
    edit_config(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
    directory
}

/// The manifest of the small checkpoint, in which only `LAYER` may be packed.
fn manifest() -> Manifest {
    let kind =
        |name: &str| if name.strip_suffix(".weight") == Some(LAYER) { TensorKind::Linear } else { TensorKind::Table };
    let whole = Checkpoint::open(testkit::tiny()).unwrap();
    let expected = |shape: &Vec<usize>, kind| Expected { shape: shape.clone(), kind };
    whole.tensors().iter().map(|(name, tensor)| (name.clone(), expected(&tensor.shape, kind(name)))).collect()
}

fn int4() -> Scheme {
    Scheme { bits: 4, group: Some(32), symmetric: true }
}

fn error(directory: &Path) -> String {
    let checkpoint = match Checkpoint::open(directory) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return error.to_string(),
    };
    match checkpoint.check(&manifest(), |_| true) {
        Err(error) => error.to_string(),
        Ok(()) => checkpoint.packed(LAYER, LAYER_SHAPE).unwrap_err().to_string(),
    }
}

fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn a_packed_layer_stands_for_its_weight() {
    for (case, scheme) in schemes().filter(|(_, scheme)| scheme.group != Some(128)) {
        let directory = packed(&scheme, |_| {}, |_| {});
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        checkpoint.check(&manifest(), |_| true).unwrap();
        let layer = checkpoint.packed(LAYER, LAYER_SHAPE).unwrap().unwrap();
        assert_eq!((layer.bits, layer.group), (scheme.bits, scheme.group.unwrap_or(64)), "{case}");
        assert_eq!(layer.words.shape, [1024, 64 * scheme.bits as usize / 32]);
        assert_eq!(layer.scales.shape, [1024, scheme.groups_in(64)]);
        assert_eq!(layer.zeros.map(|zeros| zeros.len()), (!scheme.symmetric).then_some(1024 * scheme.groups_in(64)));
        assert_eq!(layer.group_of_input, None);
        assert!(checkpoint.packed("thinker.model.layers.0.self_attn.q_proj", [64, 64]).unwrap().is_none());
    }
}

#[test]
fn the_config_key_is_also_found_inside_a_parts_config() {
    for place in ["/thinker_config", "/thinker_config/text_config"] {
        let directory = packed(
            &int4(),
            |_| {},
            |json| {
                let key = json["quantization_config"].take();
                json.pointer_mut(place).unwrap()["quantization_config"] = key;
            },
        );
        Checkpoint::open(directory.path()).unwrap().check(&manifest(), |_| true).unwrap();
    }
}

#[test]
fn an_order_of_the_inputs_is_read_unless_it_is_the_plain_one() {
    let order =
        |groups: Vec<i32>| Part { name: "weight_g_idx", dtype: Dtype::I32, shape: vec![64], bytes: le(&groups) };
    let read = |groups: Vec<i32>| {
        let directory = packed(&int4(), |parts| parts.push(order(groups)), |_| {});
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        checkpoint.check(&manifest(), |_| true).unwrap();
        checkpoint.packed(LAYER, LAYER_SHAPE).unwrap().unwrap().group_of_input
    };
    assert_eq!(read((0..64).map(|i| i / 32).collect()), None);
    assert_eq!(read((0..64).map(|i| i % 2).collect()), Some((0..64).map(|i| i % 2).collect()));
    let directory = packed(&int4(), |parts| parts.push(order(vec![2; 64])), |_| {});
    assert_names(&error(directory.path()), &["thinker.lm_head.weight_g_idx", "input 0 is in group 2", "0 to 1"]);
}

#[test]
fn bad_scales_name_tensor_row_and_group() {
    for bad in [0.0, f32::NAN, f32::INFINITY] {
        let set = |parts: &mut Vec<Part>| parts[1].bytes[10..12].copy_from_slice(&bf16::from_f32(bad).to_le_bytes());
        let directory = packed(&int4(), set, |_| {});
        let names = ["model.safetensors", "thinker.lm_head.weight_scale", "row 2, group 1", &format!("is {bad}")];
        assert_names(&error(directory.path()), &names);
    }
}

#[test]
fn parts_of_the_wrong_shape_or_type_are_named_with_what_was_expected() {
    let wrong = |edit: &dyn Fn(&mut Vec<Part>)| error(packed(&int4(), |parts| edit(parts), |_| {}).path());
    let message = wrong(&|parts| parts[1].shape = vec![2, 1024]);
    assert_names(&message, &["mismatched thinker.lm_head.weight_scale: expected [1024, 2], found [2, 1024]"]);
    let message = wrong(&|parts| parts[0].shape = vec![512, 16]);
    assert_names(&message, &["mismatched thinker.lm_head.weight_packed: expected [1024, 8], found [512, 16]"]);
    let message = wrong(&|parts| drop(parts.remove(1)));
    assert_names(&message, &["missing    thinker.lm_head.weight_scale: expected [1024, 2]"]);
    let message = wrong(&|parts| parts[1].dtype = Dtype::I16);
    assert_names(&message, &["thinker.lm_head.weight_scale", "I16", "expected BF16, F16 or F32"]);
    let message = wrong(&|parts| parts[0].dtype = Dtype::F32);
    assert_names(&message, &["thinker.lm_head.weight_packed", "F32", "expected I32"]);
    let message = wrong(&|parts| parts[2].bytes[0] = 3);
    assert_names(&message, &["thinker.lm_head.weight_shape", "[1027, 64]", "expected [1024, 64]"]);
    // Zero points that the config does not announce, and a config that announces absent ones.
    let zeros = || Part { name: "weight_zero_point", dtype: Dtype::I32, shape: vec![128, 2], bytes: vec![0; 1024] };
    assert_names(&wrong(&|parts| parts.push(zeros())), &["unexpected thinker.lm_head.weight_zero_point"]);
    let asymmetric = Scheme { symmetric: false, ..int4() };
    let directory = packed(&asymmetric, |parts| drop(parts.pop()), |_| {});
    assert_names(&error(directory.path()), &["missing    thinker.lm_head.weight_zero_point: expected [128, 2]"]);
}

#[test]
fn a_config_that_does_not_fit_the_packed_layer_is_named() {
    let wrong = |edit: &dyn Fn(&mut Value)| error(packed(&int4(), |_| {}, |json| edit(json)).path());
    let message = wrong(&|json| drop(json.as_object_mut().unwrap().remove("quantization_config")));
    assert_names(&message, &["thinker.lm_head.weight_packed", "config.json has no `quantization_config`"]);
    let group = "/quantization_config/config_groups/group_0";
    let message = wrong(&|json| json.pointer_mut(group).unwrap()["targets"] = json!(["re:^talker"]));
    assert_names(&message, &["thinker.lm_head.weight_packed", "targets"]);
    let message = wrong(&|json| json.pointer_mut(group).unwrap()["weights"]["num_bits"] = json!(8));
    assert_names(&message, &["thinker.lm_head.weight_packed: expected [1024, 16], found [1024, 8]"]);
    let message = wrong(&|json| json.pointer_mut(group).unwrap()["weights"]["group_size"] = json!(40));
    assert_names(&message, &["thinker.lm_head.weight_packed", "groups of 40 do not divide", "64 inputs"]);
}

#[test]
fn kinds_that_cannot_be_read_are_named_when_the_directory_is_opened() {
    for (pointer, value, named) in [
        ("/quantization_config/quant_method", json!("fp8"), "\"fp8\""),
        ("/quantization_config/quant_method", json!("awq"), "\"awq\""),
        ("/quantization_config/format", json!("nvfp4-pack-quantized"), "\"nvfp4-pack-quantized\""),
        ("/quantization_config/config_groups/group_0/weights/num_bits", json!(3), "is 3, expected 4 or 8"),
        ("/quantization_config/config_groups/group_0/input_activations", json!({"num_bits": 8}), "activations"),
    ] {
        let directory = packed(&int4(), |_| {}, |json| *json.pointer_mut(pointer).unwrap() = value);
        let key = pointer[1..].replace('/', ".");
        assert_names(&Checkpoint::open(directory.path()).unwrap_err().to_string(), &["config.json", &key, named]);
    }
}

#[test]
fn a_layer_stored_twice_is_refused() {
    let part = || Part { name: "weight", dtype: Dtype::BF16, shape: vec![1024, 64], bytes: vec![0; 1024 * 64 * 2] };
    let directory = packed(&int4(), |parts| parts.push(part()), |_| {});
    assert_names(&error(directory.path()), &["unexpected thinker.lm_head.weight_packed"]);
}

#[test]
fn an_embedding_table_may_not_be_packed() {
    let directory = packed(&int4(), |_| {}, |_| {});
    let path = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
    let text = text.replace("thinker.model.embed_tokens.weight\"", "thinker.model.embed_tokens.weight_packed\"");
    let parts = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[8 + header..]];
    std::fs::write(path, parts.concat()).unwrap();
    let message = error(directory.path());
    assert_names(
        &message,
        &["missing    thinker.model.embed_tokens.weight", "unexpected thinker.model.embed_tokens.weight_packed"],
    );
}

#[test]
fn a_directory_that_is_still_being_written_is_refused() {
    let directory = packed(&int4(), |_| {}, |_| {});
    std::fs::write(directory.path().join(UNFINISHED), "{}").unwrap();
    assert_names(&error(directory.path()), &["half-written", UNFINISHED, "resume", "--restart"]);
}
