//! `quantization_config` for exactly the modules that are quantised.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::Scheme;
use qwen3_omni::Component;
use serde_json::{Map, Value, json};

const AUDIO_ENCODER: &str = r"(thinker\.)?(model\.)?audio_tower\.";
const VISION_ENCODER: &str = r"(thinker\.)?(model\.)?visual\.";

/// Prefixes of names in the checkpoint, and patterns that also match the names in memory. For `thinker.model.layers`, transformers
/// says `thinker.model.language_model.layers`, or `model.language_model.layers` where the thinker is loaded alone, and vLLM
/// `language_model.model.layers`.
const PARTS: [(&str, &str); 4] = [
    ("thinker.audio_tower.", AUDIO_ENCODER),
    ("thinker.visual.", VISION_ENCODER),
    ("thinker.model.", r"((thinker|language_model)\.model\.(language_model\.)?|model\.language_model\.)"),
    // Alone, the thinker has an `lm_head` without a prefix.
    ("thinker.", r"((thinker|language_model)\.)?"),
];

/// A linear layer, and how it is quantised, if it is.
pub(crate) type Choice = (String, Option<Scheme>);

/// The config of these layers: a group per scheme, and everything else under `ignore`.
///
/// Readers that load a part under names of their own look for modules under those names, so the patterns also match what
/// transformers and vLLM call the thinker's parts ([`PARTS`]).
pub(crate) fn quantization_config(choices: &[Choice]) -> Value {
    let mut targets: BTreeMap<&Scheme, Vec<String>> = BTreeMap::new();
    let mut ignore = Vec::new();
    let (whole, rest) = untouched(choices);
    ignore.extend(whole);
    for (kind, choices) in kinds(&rest) {
        let schemes: BTreeSet<Option<&Scheme>> = choices.iter().map(|(_, scheme)| scheme.as_ref()).collect();
        // One pattern for all layers of a kind, unless they differ: then each by its name.
        let names = match schemes.len() {
            1 => vec![(format!("re:{kind}"), choices[0])],
            _ => choices.iter().map(|choice| (format!("re:{}", pattern(&choice.0, false)), *choice)).collect(),
        };
        for (name, (_, scheme)) in names {
            match scheme {
                Some(scheme) => targets.entry(scheme).or_default().push(name),
                None => ignore.push(name),
            }
        }
    }
    let groups = targets.into_iter().enumerate().map(|(i, (s, t))| (format!("group_{i}"), group(s, t)));
    json!({
        "config_groups": groups.collect::<Map<_, _>>(),
        "quant_method": "compressed-tensors",
        "kv_cache_scheme": null,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "ignore": ignore,
    })
}

fn group(scheme: &Scheme, targets: Vec<String>) -> Value {
    json!({
        "targets": targets,
        "weights": {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": scheme.symmetric,
            "group_size": scheme.group,
            "strategy": if scheme.group.is_some() { "group" } else { "channel" },
            "dynamic": false,
        },
        "input_activations": null,
        "output_activations": null,
        "format": "pack-quantized",
    })
}

/// Patterns for the parts of which nothing is quantised, and the layers of the others.
fn untouched(choices: &[Choice]) -> (Vec<String>, Vec<&Choice>) {
    let part = |module: &str| Component::of(&format!("{module}."));
    let touched: BTreeSet<_> = choices.iter().filter(|(_, scheme)| scheme.is_some()).map(|(m, _)| part(m)).collect();
    let roots = [
        (Component::AudioEncoder, AUDIO_ENCODER),
        (Component::VisionEncoder, VISION_ENCODER),
        (Component::Code2Wav, r"code2wav\."),
    ];
    let (mut patterns, mut rest) = (Vec::new(), choices.iter().collect::<Vec<_>>());
    for (component, root) in roots.into_iter().filter(|(component, _)| !touched.contains(&Some(*component))) {
        patterns.push(format!("re:^{root}"));
        rest.retain(|(module, _)| part(module) != Some(component));
    }
    (patterns, rest)
}

/// Groups layers whose names differ only in numbers, each group under the pattern that matches it, in the order of their first
/// layers.
fn kinds<'a>(choices: &[&'a Choice]) -> Vec<(String, Vec<&'a Choice>)> {
    let mut places = BTreeMap::new();
    let mut kinds: Vec<(String, Vec<&Choice>)> = Vec::new();
    for choice in choices {
        let kind = pattern(&choice.0, true);
        let place = *places.entry(kind.clone()).or_insert_with(|| {
            kinds.push((kind, Vec::new()));
            kinds.len() - 1
        });
        kinds[place].1.push(choice);
    }
    kinds
}

/// A pattern for the module's name; with `any_number`, each number in it matches any number.
fn pattern(module: &str, any_number: bool) -> String {
    let found = PARTS.iter().find_map(|(prefix, pattern)| Some((*pattern, module.strip_prefix(prefix)?)));
    let (prefix, rest) = found.unwrap_or(("", module));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let part =
        |part| if any_number && is_number(part) { r"\d+".to_owned() } else { fancy_regex::escape(part).into_owned() };
    let parts: Vec<String> = rest.split('.').map(part).collect();
    format!("^{prefix}{}$", parts.join(r"\."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{Plan, Recipe, choose};
    use checkpoint::{ConfigFile, QuantizationConfig};

    fn int(bits: u32) -> Option<Scheme> {
        Some(Scheme { bits, group: Some(32), symmetric: true })
    }

    #[test]
    fn layers_of_a_kind_share_a_pattern_unless_they_differ() {
        let layer = |n: usize, name: &str| format!("thinker.model.layers.{n}.{name}");
        let choices = [
            (layer(0, "self_attn.q_proj"), int(4)),
            (layer(1, "self_attn.q_proj"), int(4)),
            (layer(0, "self_attn.o_proj"), int(4)),
            (layer(1, "self_attn.o_proj"), None),
            (layer(0, "mlp.gate"), None),
            ("talker.codec_head".to_owned(), int(8)),
            ("code2wav.upsample.0.1.pwconv1".to_owned(), None),
        ];
        let config = quantization_config(&choices);
        let root = r"re:^((thinker|language_model)\.model\.(language_model\.)?|model\.language_model\.)layers\.";
        let targets = json!([format!(r"{root}\d+\.self_attn\.q_proj$"), format!(r"{root}0\.self_attn\.o_proj$")]);
        assert_eq!(config["config_groups"]["group_0"]["targets"], targets);
        assert_eq!(config["config_groups"]["group_1"]["targets"], json!([r"re:^talker\.codec_head$"]));
        let ignore =
            [r"re:^(thinker\.)?(model\.)?audio_tower\.", r"re:^(thinker\.)?(model\.)?visual\.", r"re:^code2wav\."];
        let ignore: Vec<String> = ignore.into_iter().map(str::to_owned).collect();
        let rest = [format!(r"{root}1\.self_attn\.o_proj$"), format!(r"{root}\d+\.mlp\.gate$")];
        assert_eq!(config["ignore"], json!([ignore, rest.to_vec()].concat()));
    }

    /// The name of a module in the checkpoint, from its name in transformers, whole or the thinker alone.
    fn on_disk(name: &str) -> String {
        let name =
            if name.starts_with("model.") || name == "lm_head" { format!("thinker.{name}") } else { name.to_owned() };
        let renamed = [("audio_tower", "audio_tower"), ("visual", "visual"), ("language_model", "model")];
        let found = renamed.iter().find_map(|(from, to)| {
            Some(format!("thinker.{to}.{}", name.strip_prefix(&format!("thinker.model.{from}."))?))
        });
        found.unwrap_or(name)
    }

    #[test]
    fn names_in_transformers_and_in_vllm_have_the_scheme_of_the_checkpoints_names() {
        let config = qwen3_omni::OmniConfig::read(&testkit::tiny().join("config.json")).unwrap();
        let manifest = config.manifest().unwrap();
        let plans = [
            Plan { recipe: Some(Recipe::Gb24), ..Plan::default() },
            Plan { recipe: Some(Recipe::Gb48), ignore: vec!["thinker.lm_head".into()], ..Plan::default() },
            Plan { bits: Some(4), only: vec![Component::Thinker], ..Plan::default() },
            Plan { bits: Some(8), only: vec![Component::AudioEncoder, Component::VisionEncoder], ..Plan::default() },
        ];
        for plan in plans {
            let choices = choose(&manifest, &plan).unwrap();
            let json = json!({"quantization_config": quantization_config(&choices)});
            let config = QuantizationConfig::of(&ConfigFile::of_json("config.json".as_ref(), json)).unwrap().unwrap();
            let choices: BTreeMap<String, Option<Scheme>> = choices.into_iter().collect();
            for (module, scheme) in &choices {
                assert_eq!(config.scheme_of(module), scheme.as_ref(), "{module}");
            }
            // `named_modules()` of the small checkpoint in transformers 5.23.0: linear layers and routers.
            let (whole, thinker) = (include_str!("transformers_modules.txt"), include_str!("transformers_thinker.txt"));
            let mut linear = 0;
            for name in whole.lines().chain(thinker.lines()) {
                let Some(scheme) = choices.get(&on_disk(name)) else { continue };
                linear += 1;
                assert_eq!(config.scheme_of(name), scheme.as_ref(), "{name}");
                if let Some(rest) = on_disk(name).strip_prefix("thinker.") {
                    let vllm = match rest.starts_with("audio_tower.") || rest.starts_with("visual.") {
                        true => rest.to_owned(),
                        false => format!("language_model.{rest}"),
                    };
                    assert_eq!(config.scheme_of(&vllm), scheme.as_ref(), "{vllm}");
                }
            }
            assert!(linear > 150, "{linear}");
        }
    }
}
