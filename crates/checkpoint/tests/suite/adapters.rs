//! What is wrong with an adapter is said by its file and tensor; several adapters add up.

use half::f16;
use qwen3_omni_checkpoint::{Adapter, Checkpoint, CheckpointError, Dtype};
use safetensors::tensor::TensorView;
use safetensors::{Dtype as Stored, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A matrix `[4, 3]` and a vector of the small checkpoint made here.
const MATRIX: &str = "thinker.lm_head";
const NORM: &str = "thinker.model.norm";

/// A tensor by name, with shape and values.
type Part<'a> = (&'a str, &'a [usize], &'a [f32]);

fn write(directory: &TempDir, file: &str, parts: &[Part], dtype: Stored) {
    let bytes = |values: &[f32]| match dtype {
        Stored::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect::<Vec<u8>>(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let parts: Vec<(&str, &[usize], Vec<u8>)> =
        parts.iter().map(|(name, shape, x)| (*name, *shape, bytes(x))).collect();
    let views =
        parts.iter().map(|(name, shape, bytes)| (*name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap()));
    serialize_to_file(views, None, &directory.path().join(file)).unwrap();
}

fn model(dtype: Stored) -> TempDir {
    let directory = testkit::copy_of_tiny(&["config.json"]);
    let matrix: Vec<f32> = (0..12u8).map(f32::from).collect();
    let (matrix_name, norm_name) = (format!("{MATRIX}.weight"), format!("{NORM}.weight"));
    write(
        &directory,
        "model.safetensors",
        &[
            (&matrix_name, &[4, 3], &matrix),
            (&norm_name, &[3], &[1.0, 2.0, 3.0]),
            ("experts.0.down_proj.weight", &[4, 3], &matrix),
        ],
        dtype,
    );
    directory
}

fn adapter(parts: &[Part], change: Value) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"});
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    std::fs::write(directory.path().join("adapter_config.json"), config.to_string()).unwrap();
    write(&directory, "adapter_model.safetensors", parts, Stored::F32);
    directory
}

const A: Part = ("base_model.model.thinker.lm_head.lora_A.weight", &[2, 3], &[1.0, 0.0, 2.0, 0.0, 1.0, 0.0]);
const B: Part = ("base_model.model.thinker.lm_head.lora_B.weight", &[4, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
/// `B A`.
const PRODUCT: [f32; 12] = [1.0, 0.0, 2.0, 0.0, 1.0, 0.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0];

fn add(model: &TempDir, adapters: &[&TempDir]) -> Result<Checkpoint, CheckpointError> {
    let mut checkpoint = Checkpoint::open(model.path()).unwrap();
    for adapter in adapters {
        checkpoint
            .add_adapter(Adapter::open(adapter.path())?, |name| vec![name.to_owned(), format!("thinker.{name}")])?;
    }
    Ok(checkpoint)
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let bytes = checkpoint.contents(name).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn with_product(times: f32) -> Vec<f32> {
    (0..12u8).map(f32::from).zip(PRODUCT).map(|(value, product)| value + times * product).collect()
}

#[test]
fn the_product_is_scaled_and_several_adapters_add_up() {
    let (model, one) = (model(Stored::F32), adapter(&[A, B], json!({})));
    let name = format!("{MATRIX}.weight");
    assert_eq!(values(&add(&model, &[&one]).unwrap(), &name), with_product(2.0));
    let root = adapter(&[A, B], json!({"use_rslora": true, "lora_alpha": 8f64.sqrt()}));
    let both = values(&add(&model, &[&one, &root]).unwrap(), &name);
    assert!(both.iter().zip(with_product(4.0)).all(|(found, expected)| (found - expected).abs() < 1e-5), "{both:?}");
    // What nobody changes stays where it lies.
    let checkpoint = add(&model, &[&one]).unwrap();
    assert!(matches!(checkpoint.contents(&format!("{NORM}.weight")).unwrap(), std::borrow::Cow::Borrowed(_)));
    assert!(checkpoint.contents("nothing").unwrap_err().to_string().contains("nothing"));
}

#[test]
fn whole_tensors_take_the_place_of_those_on_disk_and_products_are_added_to_them() {
    let model = model(Stored::F32);
    let (norm, matrix) = (format!("{NORM}.weight"), format!("{MATRIX}.weight"));
    let whole: Part = ("base_model.model.model.norm.modules_to_save.weight", &[3], &[7.0, 8.0, 9.0]);
    let base: Part = ("base_model.model.thinker.lm_head.base_layer.weight", &[4, 3], &[0.0; 12]);
    let first = adapter(&[A, B, whole, base], json!({}));
    let checkpoint = add(&model, &[&first]).unwrap();
    assert_eq!(values(&checkpoint, &norm), [7.0, 8.0, 9.0]);
    assert_eq!(values(&checkpoint, &matrix), PRODUCT.map(|x| 2.0 * x));
    // The same values twice are no contradiction: PEFT saves embeddings that it has not changed.
    let same = add(&model, &[&first, &adapter(&[whole], json!({}))]).unwrap();
    assert_eq!(values(&same, &norm), [7.0, 8.0, 9.0]);
    let other: Part = (whole.0, whole.1, &[7.0, 8.0, 9.5]);
    let error = add(&model, &[&first, &adapter(&[other], json!({}))]).unwrap_err().to_string();
    assert!(error.contains(&norm) && error.contains(&first.path().display().to_string()), "{error}");
}

/// The error of these tensors and settings; it must name the file.
fn refused(parts: &[Part], change: Value) -> String {
    let adapter = adapter(parts, change);
    let error = add(&model(Stored::F32), &[&adapter]).unwrap_err().to_string();
    assert!(error.contains(&adapter.path().display().to_string()), "{error}");
    error
}

#[test]
fn two_names_of_one_adapter_cannot_mean_one_tensor() {
    let other = |name: &'static str, part: Part<'static>| (name, part.1, part.2);
    let again =
        [other("base_model.model.lm_head.lora_A.weight", A), other("base_model.model.lm_head.lora_B.weight", B)];
    let error = refused(&[A, B, again[0], again[1]], json!({}));
    assert!(error.contains("thinker.lm_head.weight") && error.contains("another tensor of this adapter"), "{error}");
    let whole = [
        ("base_model.model.model.norm.modules_to_save.weight", &[3][..], &[7.0, 8.0, 9.0][..]),
        ("base_model.model.thinker.model.norm.modules_to_save.weight", &[3][..], &[1.0, 1.0, 1.0][..]),
    ];
    let error = refused(&[A, B, whole[0], whole[1]], json!({}));
    assert!(error.contains("thinker.model.norm.weight"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_by_file_and_tensor() {
    let named = |name: &'static str, part: Part<'static>| (name, part.1, part.2);
    let shaped = |part: Part<'static>, shape: &'static [usize]| (part.0, shape, part.2);
    let nan: Part = (B.0, B.1, &[1.0, 0.0, f32::NAN, 1.0, 1.0, 1.0, 0.0, 0.0]);
    let infinite: Part = (A.0, A.1, &[1.0, 0.0, 2.0, 0.0, 1.0, f32::INFINITY]);
    let cases: [(&[Part], Value, &[&str]); 12] = [
        (&[A], json!({}), &[A.0, "no partner", B.0]),
        (&[B], json!({}), &[B.0, "no partner", A.0]),
        (&[A, nan], json!({}), &[B.0, "NaN as value 2"]),
        (&[infinite, B], json!({}), &[A.0, "inf as value 5"]),
        (&[A, B], json!({"r": 3}), &[A.0, "has rank 2", "say 3", "adapter_config.json"]),
        (&[shaped(A, &[3, 2]), B], json!({}), &[A.0, "[3, 2]", B.0, "[4, 2]", "thinker.lm_head.weight", "[4, 3]"]),
        (&[A, shaped(B, &[2, 4])], json!({}), &["[2, 4]", "[4, 3]"]),
        (
            &[
                named("base_model.model.thinker.other.lora_A.weight", A),
                named("base_model.model.thinker.other.lora_B.weight", B),
            ],
            json!({}),
            &["thinker.other.lora_A.weight", "there is no `thinker.other` and no `thinker.thinker.other`"],
        ),
        (&[("base_model.model.thinker.bias", &[1], &[1.0])], json!({}), &["thinker.bias", "belongs to no tensor"]),
        (&[("base_model.model.model.norm.weight", &[2], &[1.0, 2.0])], json!({}), &["model.norm.weight", "[2]", "[3]"]),
        (&[A, B, named("thinker.lm_head.lora_A.default.weight", A)], json!({}), &["same tensor", "default"]),
        (&[A, B, ("base_model.model.thinker.lm_head.lora_magnitude_vector", &[4], &[1.0; 4])], json!({}), &["DoRA"]),
    ];
    for (parts, change, named) in cases {
        let error = refused(parts, change);
        for part in named {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
    let empty = refused(&[("thinker.lm_head.lora_A.weight", &[0, 1 << 40, 1 << 40], &[]), B], json!({}));
    assert!(empty.contains("no values"), "{empty}");
    // Factors of experts that transformers has fused: the rows of one expert are not those of its matrices.
    let fused = refused(&[named("experts.lora_A.weight", A), ("experts.lora_B.weight", &[3, 2], &[1.0; 6])], json!({}));
    assert!(fused.contains("experts.0.down_proj.weight") && fused.contains("[3, 2]"), "{fused}");
    assert!(refused(&[A, B], json!({"use_dora": true})).contains("use_dora"));
    let integers = adapter(&[A, B], json!({}));
    let view = TensorView::new(Stored::I32, vec![1], &[0; 4]).unwrap();
    serialize_to_file([(A.0, view)], None, &integers.path().join("adapter_model.safetensors")).unwrap();
    let error = add(&model(Stored::F32), &[&integers]).unwrap_err().to_string();
    assert!(error.contains(A.0) && error.contains("I32") && error.contains("BF16"), "{error}");
}

#[test]
fn files_that_are_not_there_or_damaged_are_named() {
    let adapter = adapter(&[A, B], json!({}));
    let path = |file: &str| adapter.path().join(file);
    std::fs::write(path("adapter_model.safetensors"), [1; 5]).unwrap();
    assert!(
        matches!(Adapter::open(adapter.path()), Err(CheckpointError::Shard { path: found, .. }) if found == path("adapter_model.safetensors"))
    );
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        std::fs::remove_file(path(file)).unwrap();
        assert!(
            matches!(Adapter::open(adapter.path()), Err(CheckpointError::Io { path: found, .. }) if found == path(file))
        );
    }
}

#[test]
fn a_sum_that_the_number_type_cannot_hold_is_refused() {
    let large: Part = (A.0, A.1, &[0.0, 0.0, 0.0, 0.0, 40_000.0, 0.0]);
    let adapter = adapter(&[large, B], json!({}));
    let name = format!("{MATRIX}.weight");
    assert_eq!(values(&add(&model(Stored::F32), &[&adapter]).unwrap(), &name)[4], 80_004.0);
    let error = add(&model(Stored::F16), &[&adapter]).unwrap().contents(&name).unwrap_err().to_string();
    for part in [A.0, "value 4", &name, Dtype::F16.name(), &adapter.path().display().to_string()] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}
