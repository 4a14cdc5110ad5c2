//! From the released config alone, the loaders ask for exactly the names and shapes of the released checkpoint.

use std::collections::BTreeMap;
use std::io::Read;

use qwen3_omni::{Component, OmniConfig};

fn released() -> BTreeMap<String, Vec<usize>> {
    let packed = std::fs::File::open(testkit::fixtures().join("released/qwen3-omni-30b-a3b-instruct.json.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let shapes = json.get("tensors").unwrap_or(&json);
    serde_json::from_value(shapes.clone()).unwrap()
}

fn config(file: &str) -> OmniConfig {
    OmniConfig::read(&testkit::fixtures().join("released").join(file)).unwrap()
}

#[test]
fn all_28010_names_and_shapes_follow_from_the_config_in_both_key_styles() {
    let released = released();
    assert_eq!(released.len(), 28_010);
    for file in ["qwen3-omni-30b-a3b-instruct.config.json", "qwen3-omni-30b-a3b-instruct.config.transformers5.json"] {
        let found = config(file).manifest().unwrap();
        let differ = found.iter().find(|(name, expected)| released.get(*name) != Some(&expected.shape));
        assert_eq!(differ, None, "{file}");
        assert_eq!(found.len(), released.len(), "{file}");
    }
}

#[test]
fn parameters_per_component_are_the_published_ones() {
    let mut sums: BTreeMap<Component, usize> = BTreeMap::new();
    for (name, expected) in config("qwen3-omni-30b-a3b-instruct.config.json").manifest().unwrap() {
        *sums.entry(Component::of(&name).unwrap()).or_default() += expected.elements();
    }
    assert_eq!(sums[&Component::Thinker], 30_532_646_912);
    assert_eq!(sums[&Component::AudioEncoder], 647_927_168);
    assert_eq!(sums[&Component::VisionEncoder], 538_631_408);
    assert_eq!(sums[&Component::Talker], 3_183_026_176);
    assert_eq!(sums[&Component::CodePredictor], 141_570_304);
    assert_eq!(sums[&Component::Code2Wav], 216_016_577);
}
