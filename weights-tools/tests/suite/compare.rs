//! What quantising costs, part by part, on the device of `OMNI_TEST_DEVICE`.

use std::path::{Path, PathBuf};

use checkpoint::Dtype;
use qwen3_omni_weights_tools::compare::{Comparison, Options, Prompts, compare};
use qwen3_omni_weights_tools::convert::{self, convert};
use qwen3_omni_weights_tools::quantize::{self, Grouping, Plan, Recipe, quantize};
use tempfile::TempDir;

fn quantized(plan: Plan) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (source, out, shard_bytes) = (testkit::tiny(), directory.path().to_owned(), 400_000);
    let options = quantize::Options { source, out, plan, dtype: Dtype::F32, shard_bytes, restart: false };
    quantize(&options, |_| Ok(())).unwrap();
    directory
}

/// The same values as plain numbers.
fn unpacked(packed: &Path) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (source, out, shard_bytes) = (packed.to_owned(), directory.path().to_owned(), 400_000);
    let options =
        convert::Options { source, out, adapters: vec![], dtype: None, dequantize: true, shard_bytes, restart: false };
    convert(&options, |_| Ok(())).unwrap();
    directory
}

fn golden() -> Prompts {
    Prompts { golden: Some(testkit::golden()), ..Prompts::default() }
}

fn compared(reference: impl Into<PathBuf>, other: impl Into<PathBuf>, prompts: Prompts) -> Comparison {
    let (reference, other) = (reference.into(), other.into());
    let device = testkit::device_name().parse().unwrap();
    compare(&Options { reference, other, prompts, device, dtype: Dtype::F32 }).unwrap()
}

fn bits(bits: u32, group: usize) -> Plan {
    Plan { bits: Some(bits), group: Some(Grouping::Group(group)), ..Plan::default() }
}

#[test]
fn a_checkpoint_does_not_differ_from_itself_in_any_part() {
    for prompts in [golden(), Prompts::default()] {
        let found = compared(testkit::tiny(), testkit::tiny(), prompts);
        let names: Vec<String> = found.differences.iter().map(|d| format!("{} {}", d.component, d.output)).collect();
        let expected = [
            "audio encoder rows",
            "vision encoder rows",
            "vision encoder deepstack 0",
            "vision encoder deepstack 1",
            "thinker scores",
            "talker scores",
            "code predictor scores",
            "code2wav samples",
        ];
        assert_eq!(names, expected);
        for difference in &found.differences {
            assert_eq!((difference.max_abs, difference.cosine), (0.0, 1.0), "{difference:?}");
            assert!(difference.largest > 0.0 && difference.values > 100, "{difference:?}");
            assert!(difference.same_best.is_none_or(|share| share == 1.0));
        }
    }
}

#[test]
fn packed_layers_compute_what_their_values_say() {
    // Between them: both widths, groups and channels, with and without zero points, layers that stay as they are and
    // one expert among packed ones that does.
    let ignore = vec!["thinker.model.layers.0.mlp.experts.3.up_proj".to_owned()];
    let mixed = Plan { recipe: Some(Recipe::Gb24), ignore, ..Plan::default() };
    let zeros = Plan { asymmetric: true, ..bits(4, 32) };
    let channels = Plan { bits: Some(8), group: Some(Grouping::Channel), asymmetric: true, ..Plan::default() };
    for plan in [mixed, zeros, channels] {
        let packed = quantized(plan.clone());
        let plain = unpacked(packed.path());
        let found = compared(plain.path(), packed.path(), golden());
        for difference in &found.differences {
            if testkit::device_name() == "cpu" {
                // Beside packed weights, the inputs of GEMMs of many rows are rounded to bf16; where two experts are almost equally
                // good, that decides between them.
                assert!(difference.cosine > 0.995, "{plan:?}: {difference:?}");
            } else {
                // The same numbers in the same products.
                assert!(difference.max_abs <= 1e-4 * difference.largest.max(1.0), "{plan:?}: {difference:?}");
            }
        }
    }
}

#[test]
fn eight_bits_change_little_and_four_more() {
    // Weights of this checkpoint are drawn evenly, which is hardest on four bits: 7 % of their size, eight bits 0.4 %. Each part
    // has two to eight layers, in which that adds up; what a router decides differently adds more.
    for (plan, least) in [(bits(8, 32), 0.995), (bits(4, 32), 0.9)] {
        let found = compared(testkit::tiny(), quantized(plan.clone()).path(), golden());
        for difference in &found.differences {
            assert!(difference.cosine > least, "{plan:?}: {difference:?}");
            // Without a bit lost, there would be nothing to measure.
            assert!(difference.component == "code2wav" || difference.max_abs > 0.0, "{plan:?}: {difference:?}");
        }
    }
}

#[test]
fn other_models_and_bad_files_are_refused() {
    let comparison = |other: &Path, prompts: Prompts| {
        let (reference, other, device) = (testkit::tiny(), other.to_owned(), testkit::device_name().parse().unwrap());
        compare(&Options { reference, other, prompts, device, dtype: Dtype::F32 }).unwrap_err().to_string()
    };
    let message = comparison(&testkit::nano(), Prompts::default());
    assert!(message.contains("not the same model") && message.contains("nano"), "{message}");
    let missing = Prompts { sounds: vec!["/no/such/sound.wav".into()], ..Prompts::default() };
    let message = comparison(&testkit::tiny(), missing);
    assert!(message.contains("sound 1") && message.contains("/no/such/sound.wav"), "{message}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prompts.txt");
    std::fs::write(&file, "\n \n").unwrap();
    let message = Prompts::from_file(&file).unwrap_err().to_string();
    assert!(message.contains("prompts.txt") && message.contains("no question"), "{message}");
    std::fs::write(&file, "one\n\n two \n").unwrap();
    assert_eq!(Prompts::from_file(&file).unwrap(), ["one", "two"]);
}
