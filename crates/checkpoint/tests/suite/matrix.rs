//! Matrices of linear layers: values and memory for every number type on disk, plain and packed.

use burn::tensor::Device;
use half::{bf16, f16};
use omni_core::{Dtype, Place};
use qwen3_omni_checkpoint::packed::{Scheme, pack, unpack};
use qwen3_omni_checkpoint::{Checkpoint, StoredMatrix, Weights};
use safetensors::tensor::TensorView;
use safetensors::{Dtype as Stored, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

const LAYER: &str = "thinker.lm_head";
const SHAPE: [usize; 2] = [40, 256];

/// A tensor of the layer: its name, type, shape and bytes.
type Part = (&'static str, Stored, Vec<usize>, Vec<u8>);

/// Makes a checkpoint that holds only this layer.
fn directory(parts: &[Part], scheme: Option<&Scheme>) -> TempDir {
    let directory = testkit::copy_of_tiny(&["config.json"]);
    let views = parts.iter().map(|(name, dtype, shape, bytes)| {
        (format!("{LAYER}.{name}"), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &directory.path().join("model.safetensors")).unwrap();
    if let Some(scheme) = scheme {
        let path = directory.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["quantization_config"] = quantization(scheme);
        std::fs::write(path, config.to_string()).unwrap();
    }
    directory
}

fn quantization(scheme: &Scheme) -> Value {
    let strategy = if scheme.group.is_some() { "group" } else { "channel" };
    let weights = json!({"num_bits": scheme.bits, "type": "int", "symmetric": scheme.symmetric,
        "group_size": scheme.group, "strategy": strategy, "dynamic": false});
    let group = json!({"targets": ["Linear"], "weights": weights, "input_activations": null});
    json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}, "ignore": []})
}

fn matrix(directory: &TempDir, dtype: Dtype) -> StoredMatrix {
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let weights = Weights::new(&checkpoint, &Place::Host(Device::flex()), dtype).at(LAYER);
    weights.matrix(SHAPE).unwrap()
    // The file stays mapped as long as the matrix lives.
}

fn values(matrix: &StoredMatrix) -> Vec<f32> {
    let [outputs, inputs] = matrix.shape();
    let mut values = vec![0.0; outputs * inputs];
    let rows = values.chunks_exact_mut(inputs).enumerate();
    rows.for_each(|(row, values)| matrix.weight().read(row, inputs, 0, values));
    values
}

fn bytes_of<const N: usize>(values: &[f32], one: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| one(*value)).collect()
}

fn as_type(values: &[f32], dtype: Dtype) -> (Stored, Vec<u8>) {
    match dtype {
        Dtype::F32 => (Stored::F32, bytes_of(values, f32::to_le_bytes)),
        Dtype::Bf16 => (Stored::BF16, bytes_of(values, |value| bf16::from_f32(value).to_le_bytes())),
        Dtype::F16 => (Stored::F16, bytes_of(values, |value| f16::from_f32(value).to_le_bytes())),
    }
}

fn rounded(values: &[f32], dtype: Dtype) -> Vec<f32> {
    let round = |value: &f32| match dtype {
        Dtype::F32 => *value,
        Dtype::Bf16 => bf16::from_f32(*value).to_f32(),
        Dtype::F16 => f16::from_f32(*value).to_f32(),
    };
    values.iter().map(round).collect()
}

#[test]
fn plain_matrices_stay_in_the_file_where_their_type_can() {
    let (golden, elements) = (cases(), SHAPE[0] * SHAPE[1]);
    let file = SafeTensors::deserialize(&golden).unwrap();
    let original = floats(&file, "int4_group32_sym.weight");
    for stored in Dtype::ALL {
        let (dtype, bytes) = as_type(&original, stored);
        let directory = directory(&[("weight", dtype, SHAPE.to_vec(), bytes)], None);
        for asked in Dtype::ALL {
            let matrix = matrix(&directory, asked);
            let (becomes, held) = match (stored, asked) {
                (Dtype::Bf16, _) | (Dtype::F32, Dtype::F32 | Dtype::F16) => (stored, 0),
                (Dtype::F32 | Dtype::F16, Dtype::Bf16) => (Dtype::Bf16, 2 * elements),
                (Dtype::F16, _) => (Dtype::F32, 4 * elements),
            };
            assert_eq!(matrix.bytes_in_memory(), held, "{stored} asked for as {asked}");
            let expected = rounded(&rounded(&original, stored), becomes);
            assert!(values(&matrix) == expected, "{stored} asked for as {asked}");
            assert!(!matrix.is_packed() && matrix.shape() == SHAPE);
        }
    }
}

#[test]
fn a_matrix_at_an_odd_place_of_the_file_is_copied() {
    let golden = cases();
    let original = floats(&SafeTensors::deserialize(&golden).unwrap(), "int4_group32_sym.weight");
    let directory = testkit::copy_of_tiny(&["config.json"]);
    let (data, end) = (bytes_of(&original, f32::to_le_bytes), 2 + 4 * original.len());
    let header = json!({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
        "thinker.lm_head.weight": {"dtype": "F32", "shape": SHAPE, "data_offsets": [2, end]}});
    let mut header = header.to_string();
    header.push_str(&" ".repeat(8 - header.len() % 8));
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 2], &data].concat();
    std::fs::write(directory.path().join("model.safetensors"), file).unwrap();
    let matrix = matrix(&directory, Dtype::F32);
    assert_eq!(matrix.bytes_in_memory(), 4 * original.len());
    assert!(values(&matrix) == original);
}

fn cases() -> Vec<u8> {
    std::fs::read(testkit::fixtures().join("quantized/cases.safetensors")).unwrap()
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn integers(file: &SafeTensors<'_>, name: &str) -> Vec<i32> {
    file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

/// The tensors of a golden case's packed layer, with its scales (bf16 in the file) in another type.
fn packed_parts(file: &SafeTensors<'_>, case: &str, scheme: &Scheme, scales: Dtype) -> Vec<Part> {
    let (inputs, groups) = (SHAPE[1], scheme.groups_in(SHAPE[1]));
    let part = |name: &str| file.tensor(&format!("{case}.{name}")).unwrap().data().to_vec();
    let stored = part("weight_scale");
    let halves = stored.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32());
    let (dtype, bytes) = as_type(&halves.collect::<Vec<_>>(), scales);
    let mut parts = vec![
        ("weight_packed", Stored::I32, vec![SHAPE[0], scheme.words_in(inputs)], part("weight_packed")),
        ("weight_scale", dtype, vec![SHAPE[0], groups], bytes),
        ("weight_shape", Stored::I64, vec![2], part("weight_shape")),
    ];
    if !scheme.symmetric {
        let words = scheme.words_in(SHAPE[0]);
        parts.push(("weight_zero_point", Stored::I32, vec![words, groups], part("weight_zero_point")));
    }
    parts
}

#[test]
fn packed_matrices_have_the_packages_values_and_their_words_stay_in_the_file() {
    let golden = cases();
    let file = SafeTensors::deserialize(&golden).unwrap();
    for (bits, group, symmetric) in [4, 8]
        .into_iter()
        .flat_map(|bits| [Some(32), Some(128), None].into_iter().flat_map(move |g| [(bits, g, true), (bits, g, false)]))
    {
        let scheme = Scheme { bits, group, symmetric };
        let groups = group.map_or("channel".to_owned(), |group| format!("group{group}"));
        let case = format!("int{bits}_{groups}_{}", if symmetric { "sym" } else { "asym" });
        let expected = floats(&file, &format!("{case}.dequantized"));
        let count = SHAPE[0] * scheme.groups_in(SHAPE[1]);
        for scales in Dtype::ALL {
            let directory = directory(&packed_parts(&file, &case, &scheme, scales), Some(&scheme));
            for asked in Dtype::ALL {
                let matrix = matrix(&directory, asked);
                assert!(matrix.is_packed(), "{case}");
                // These scales are exact in f16 too.
                assert!(values(&matrix) == expected, "{case} with scales in {scales}");
                let scale_bytes = if scales == Dtype::F16 { 4 * count } else { 0 };
                let held = scale_bytes + if symmetric { 0 } else { count };
                assert_eq!(matrix.bytes_in_memory(), held, "{case} with scales in {scales}");
            }
        }
    }
}

#[test]
fn inputs_in_another_order_become_plain_numbers_of_the_same_values() {
    let golden = cases();
    let file = SafeTensors::deserialize(&golden).unwrap();
    for symmetric in [true, false] {
        let scheme = Scheme { bits: 4, group: Some(32), symmetric };
        let case = if symmetric { "int4_group32_sym" } else { "int4_group32_asym" };
        // Input `i` is what was input `from(i)`.
        let from = |input: usize| input * 37 % SHAPE[1];
        let moved = |row: usize| (0..SHAPE[1]).map(move |input| row * SHAPE[1] + from(input));
        let integers = unpack(&integers(&file, &format!("{case}.weight_packed")), SHAPE, 4);
        let turned: Vec<i8> = (0..SHAPE[0]).flat_map(|row| moved(row).map(|at| integers[at])).collect();
        let dequantized = floats(&file, &format!("{case}.dequantized"));
        let expected: Vec<f32> = (0..SHAPE[0]).flat_map(|row| moved(row).map(|at| dequantized[at])).collect();
        let mut parts = packed_parts(&file, case, &scheme, Dtype::Bf16);
        parts[0].3 = pack(&turned, SHAPE, 4).iter().flat_map(|word| word.to_le_bytes()).collect();
        let order = (0..SHAPE[1]).flat_map(|input| ((from(input) / 32) as i32).to_le_bytes()).collect();
        parts.push(("weight_g_idx", Stored::I32, vec![SHAPE[1]], order));
        let directory = directory(&parts, Some(&scheme));
        for (asked, size, becomes) in
            [(Dtype::F32, 4, Dtype::F32), (Dtype::F16, 4, Dtype::F32), (Dtype::Bf16, 2, Dtype::Bf16)]
        {
            let matrix = matrix(&directory, asked);
            assert!(!matrix.is_packed());
            assert_eq!(matrix.bytes_in_memory(), size * SHAPE[0] * SHAPE[1]);
            assert!(values(&matrix) == rounded(&expected, becomes), "{case} as {asked}");
        }
    }
}

#[test]
fn what_cannot_be_is_an_error_that_names_the_tensor() {
    let golden = cases();
    let file = SafeTensors::deserialize(&golden).unwrap();
    let scheme = Scheme { bits: 4, group: Some(32), symmetric: true };
    let directory = directory(&packed_parts(&file, "int4_group32_sym", &scheme, Dtype::Bf16), Some(&scheme));
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let weights = Weights::new(&checkpoint, &Place::Host(Device::flex()), Dtype::F32);
    let message = weights.at(LAYER).matrix([40, 128]).unwrap_err().to_string();
    assert!(message.contains("thinker.lm_head.weight_packed") && message.contains("[40, 16]"), "{message}");
    let message = weights.at("thinker.other").matrix(SHAPE).unwrap_err().to_string();
    assert!(message.contains("thinker.other.weight") && message.contains("[40, 256]"), "{message}");
    assert!(weights.at(LAYER).is_packed() && !weights.at("thinker.other").is_packed());
}
