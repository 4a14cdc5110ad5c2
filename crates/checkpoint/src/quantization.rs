//! `quantization_config` of `config.json`: which modules are packed, and how.
//!
//! The supported kind is what `compressed-tensors` calls `pack-quantized`, with integers of 4 or 8 bits and one scale per group
//! of inputs or per output. Anything else is refused by name.

use std::collections::VecDeque;

use fancy_regex::Regex;
use serde_json::Value;

use crate::{CheckpointError, ConfigFault, ConfigFile, Scheme};

const KEY: &str = "quantization_config";
const METHOD: &str = "compressed-tensors";
const FORMAT: &str = "pack-quantized";

/// The contents of `quantization_config`.
#[derive(Debug, Clone)]
pub struct QuantizationConfig {
    groups: Vec<Group>,
    ignore: Vec<Target>,
}

/// One of `config_groups`.
#[derive(Debug, Clone)]
struct Group {
    targets: Vec<Target>,
    scheme: Scheme,
}

#[derive(Debug, Clone)]
enum Target {
    /// A module's full name, or the name of a module class.
    Name(String),
    /// Matched from the beginning of a module's name.
    Pattern(Box<Regex>),
}

/// Finds the key where tools write it, at the top or in the section of the part they quantised, and where that is. The outermost counts.
fn find(config: &Value) -> Option<(String, &Value)> {
    let mut sections = VecDeque::from([(String::new(), config)]);
    while let Some((path, section)) = sections.pop_front() {
        if let Some(found) = section.get(KEY) {
            return Some((path + KEY, found));
        }
        let inner = section.as_object().into_iter().flatten();
        sections.extend(inner.map(|(name, value)| (format!("{path}{name}."), value)));
    }
    None
}

impl QuantizationConfig {
    /// Reads `quantization_config`; `None` if the checkpoint is not quantised.
    ///
    /// # Errors
    /// [`CheckpointError::Quantization`] naming the kind that cannot be read, or the key that is wrong.
    pub fn of(config: &ConfigFile) -> Result<Option<Self>, CheckpointError> {
        let Some((at, value)) = find(config.json()) else { return Ok(None) };
        Self::parse(value).map(Some).map_err(|fault| {
            let ConfigFault { at, reason } = fault.within(&at);
            CheckpointError::Quantization { path: config.path().to_owned(), at, reason }
        })
    }

    /// The scheme of a module's weights, by its name, else by a pattern, else by its class; `None` if they are not packed.
    pub fn scheme_of(&self, module: &str) -> Option<&Scheme> {
        (!self.ignore.iter().any(|target| target.names(module))).then(|| self.scheme_on_disk(module)).flatten()
    }

    /// The scheme of a module without regard to `ignore`: for a module that is packed on disk.
    pub fn scheme_on_disk(&self, module: &str) -> Option<&Scheme> {
        let by = |matches: fn(&Target, &str) -> bool| {
            self.groups.iter().find(|group| group.targets.iter().any(|target| matches(target, module)))
        };
        let group = by(|target, module| matches!(target, Target::Name(name) if name == module));
        let group = group.or_else(|| by(Target::names)).or_else(|| by(|target, _| target.is_class()));
        group.map(|group| &group.scheme)
    }

    fn parse(value: &Value) -> Result<Self, ConfigFault> {
        check_kind(value)?;
        let groups = value.get("config_groups").and_then(Value::as_object);
        let groups = groups.ok_or_else(|| wrong("config_groups", value.get("config_groups"), "an object of groups"))?;
        let format = value.get("format").and_then(Value::as_str);
        let parsed = groups.iter().map(|(name, group)| {
            Group::parse(group, format).map_err(|fault| fault.within(&format!("config_groups.{name}")))
        });
        let groups = parsed.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { groups, ignore: targets(value, "ignore")? })
    }
}

/// Refuses every kind of quantisation but the supported one.
fn check_kind(value: &Value) -> Result<(), ConfigFault> {
    let advice = match value.get("quant_method").and_then(Value::as_str) {
        Some("gptq" | "awq" | "fp8" | "auto-round" | "intel/auto-round") => {
            "; `weights-tools convert DIR OUT` turns most checkpoints of this kind into one that is read"
        }
        _ => "",
    };
    let expected = format!("\"{METHOD}\" with format \"{FORMAT}\"{advice}");
    expect_text(value, "quant_method", |name| name == METHOD, &expected)?;
    // With groups of several formats, each names its own.
    expect_text(value, "format", |name| name == FORMAT || name == "mixed-precision", &format!("\"{FORMAT}\""))?;
    expect_null(value, "kv_cache_scheme", "null: a quantised KV cache is not read")?;
    let sparsity = value.get("sparsity_config").and_then(|config| config.get("format")).and_then(Value::as_str);
    match sparsity {
        None | Some("dense") => Ok(()),
        Some(other) => Err(wrong("sparsity_config.format", Some(&other.into()), "\"dense\"")),
    }
}

impl Group {
    fn parse(group: &Value, format: Option<&str>) -> Result<Self, ConfigFault> {
        if !group.is_object() {
            return Err(wrong("", Some(group), "an object with `targets` and `weights`"));
        }
        let own = group.get("format").and_then(Value::as_str).or(format);
        if own != Some(FORMAT) {
            return Err(wrong("format", own.map(Value::from).as_ref(), &format!("\"{FORMAT}\"")));
        }
        expect_null(group, "input_activations", "null: only weights may be quantised, not activations")?;
        expect_null(group, "output_activations", "null: only weights may be quantised, not activations")?;
        let weights = group.get("weights").unwrap_or(&Value::Null);
        let scheme = scheme(weights).map_err(|fault| fault.within("weights"))?;
        Ok(Self { targets: targets(group, "targets")?, scheme })
    }
}

fn scheme(weights: &Value) -> Result<Scheme, ConfigFault> {
    if !weights.is_object() {
        return Err(wrong("", Some(weights), "an object with `num_bits` and `strategy`"));
    }
    if let Some(kind) = weights.get("type").filter(|kind| *kind != "int") {
        return Err(wrong("type", Some(kind), "\"int\""));
    }
    if let Some(dynamic) = weights.get("dynamic").filter(|value| !matches!(value, Value::Bool(false) | Value::Null)) {
        return Err(wrong("dynamic", Some(dynamic), "false"));
    }
    let bits = match weights.get("num_bits").and_then(Value::as_u64) {
        Some(bits @ (4 | 8)) => bits as u32,
        _ => return Err(wrong("num_bits", weights.get("num_bits"), "4 or 8")),
    };
    let symmetric = weights.get("symmetric").and_then(Value::as_bool).unwrap_or(true);
    Ok(Scheme { bits, group: group_size(weights)?, symmetric })
}

fn group_size(weights: &Value) -> Result<Option<usize>, ConfigFault> {
    let size = weights.get("group_size").and_then(Value::as_i64).filter(|size| *size != -1);
    match (weights.get("strategy").and_then(Value::as_str), size) {
        // Kernels read whole words of one group.
        (Some("group") | None, Some(size)) if size > 0 && size % 8 == 0 => Ok(Some(size as usize)),
        (Some("group") | None, Some(_)) => Err(wrong("group_size", weights.get("group_size"), "a multiple of 8")),
        (Some("group"), None) => Err(wrong("group_size", weights.get("group_size"), "the inputs per scale")),
        (Some("channel"), None) => Ok(None),
        (Some("channel"), Some(_)) => {
            Err(wrong("group_size", weights.get("group_size"), "null with strategy \"channel\""))
        }
        (None, None) if weights.get("group_size").is_some_and(|size| *size == -1) => Ok(None),
        (_, _) => Err(wrong("strategy", weights.get("strategy"), "\"group\" or \"channel\"")),
    }
}

fn targets(value: &Value, key: &str) -> Result<Vec<Target>, ConfigFault> {
    let list = match value.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        other => return Err(wrong(key, other, "a list of names and `re:` patterns")),
    };
    let one = |target: &Value| match target.as_str() {
        Some(name) => Target::parse(key, name),
        None => Err(wrong(key, Some(target), "a name or a `re:` pattern")),
    };
    list.iter().map(one).collect()
}

impl Target {
    fn parse(key: &str, name: &str) -> Result<Self, ConfigFault> {
        let Some(pattern) = name.strip_prefix("re:") else { return Ok(Target::Name(name.to_owned())) };
        let regex = Regex::new(&format!("^(?:{pattern})"));
        let regex = regex.map_err(|error| ConfigFault {
            at: key.to_owned(),
            reason: format!("the pattern \"{name}\" cannot be read: {error}"),
        })?;
        Ok(Target::Pattern(Box::new(regex)))
    }

    fn names(&self, module: &str) -> bool {
        match self {
            Target::Name(name) => name == module,
            // A pattern that exceeds its limits on a name does not match it.
            Target::Pattern(pattern) => pattern.is_match(module).unwrap_or(false),
        }
    }

    /// Whether this is `Linear`, the class of every linear layer in the reference.
    fn is_class(&self) -> bool {
        matches!(self, Target::Name(name) if name == "Linear")
    }
}

fn expect_text(value: &Value, key: &str, good: impl Fn(&str) -> bool, expected: &str) -> Result<(), ConfigFault> {
    let found = value.get(key);
    match found.and_then(Value::as_str).is_some_and(good) {
        true => Ok(()),
        false => Err(wrong(key, found, expected)),
    }
}

fn expect_null(value: &Value, key: &str, expected: &str) -> Result<(), ConfigFault> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(ConfigFault { at: key.to_owned(), reason: format!("is set, expected {expected}") }),
    }
}

fn wrong(key: &str, found: Option<&Value>, expected: &str) -> ConfigFault {
    let found = found.map_or_else(|| "is missing".to_owned(), |value| format!("is {value}"));
    ConfigFault { at: key.to_owned(), reason: format!("{found}, expected {expected}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example() -> Value {
        let text = std::fs::read(testkit::fixtures().join("quantized/config_examples.json")).unwrap();
        let mut json: Value = serde_json::from_slice(&text).unwrap();
        json["quantization_config"].take()
    }

    fn parse(edit: impl FnOnce(&mut Value)) -> Result<QuantizationConfig, String> {
        let mut value = example();
        edit(&mut value);
        QuantizationConfig::parse(&value).map_err(|fault| format!("`{}` {}", fault.at, fault.reason))
    }

    #[test]
    fn the_packages_example_targets_linear_layers_and_ignores_some() {
        let config = parse(|_| {}).unwrap();
        let scheme = Scheme { bits: 4, group: Some(32), symmetric: true };
        for packed in ["thinker.model.layers.0.self_attn.q_proj", "thinker.model.layers.7.mlp.experts.3.up_proj"] {
            assert_eq!(config.scheme_of(packed), Some(&scheme), "{packed}");
        }
        for plain in ["thinker.lm_head", "thinker.model.layers.3.mlp.gate", "thinker.visual.blocks.0.attn.qkv"] {
            assert_eq!(config.scheme_of(plain), None, "{plain}");
            assert_eq!(config.scheme_on_disk(plain), Some(&scheme), "{plain}");
        }
    }

    #[test]
    fn names_come_before_patterns_and_patterns_before_classes() {
        let group = |targets: Value, bits: u32| json!({"targets": targets, "weights": {"num_bits": bits, "type": "int", "strategy": "channel", "group_size": null}});
        let config = parse(|value| {
            value["config_groups"] = json!({
                "a": group(json!(["Linear"]), 8),
                "b": group(json!([r"re:.*(?<!code_predictor)\.model\.layers\.\d+\.self_attn\..*"]), 4),
                "c": group(json!(["talker.model.layers.0.self_attn.q_proj"]), 8),
            });
        })
        .unwrap();
        let bits = |name: &str| config.scheme_of(name).unwrap().bits;
        assert_eq!(bits("talker.model.layers.0.self_attn.q_proj"), 8);
        assert_eq!(bits("talker.model.layers.0.self_attn.k_proj"), 4);
        assert_eq!(bits("talker.code_predictor.model.layers.0.self_attn.k_proj"), 8);
        // Patterns match from the beginning, as those of `compressed-tensors` do.
        assert_eq!(bits("x.self_attn.k_proj"), 8);
    }

    #[test]
    fn other_kinds_are_named() {
        let group = |value: &mut Value, key: &str, to: Value| value["config_groups"]["group_0"]["weights"][key] = to;
        let refused = |edit: &dyn Fn(&mut Value)| parse(|value| edit(value)).unwrap_err();
        for method in ["fp8", "awq", "gptq", "auto-round", "bitsandbytes", "mxfp4", "modelopt"] {
            let message = refused(&|value| value["quant_method"] = json!(method));
            assert!(message.contains(method) && message.contains("pack-quantized"), "{message}");
            let converted = ["fp8", "awq", "gptq", "auto-round"].contains(&method);
            assert_eq!(message.contains("weights-tools convert"), converted, "{message}");
        }
        for format in ["float-quantized", "int-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "marlin-24"]
        {
            let message = refused(&|value| value["format"] = json!(format));
            assert!(message.contains(format) && message.contains("\"pack-quantized\""), "{message}");
            let message = refused(&|value| value["config_groups"]["group_0"]["format"] = json!(format));
            assert!(message.contains(format) && message.contains("config_groups.group_0.format"), "{message}");
        }
        for (key, to, named) in [
            ("num_bits", json!(3), "is 3, expected 4 or 8"),
            ("type", json!("float"), "\"float\""),
            ("strategy", json!("block"), "\"block\""),
            ("strategy", json!("tensor_group"), "\"tensor_group\""),
            ("group_size", json!(12), "12, expected a multiple of 8"),
            ("group_size", json!(null), "null"),
            ("dynamic", json!(true), "true"),
        ] {
            let message = refused(&|value| group(value, key, to.clone()));
            assert!(message.contains(named) && message.contains(&format!("weights.{key}")), "{message}");
        }
        let activations = json!({"num_bits": 8, "type": "float", "dynamic": true});
        let message = refused(&|value| value["config_groups"]["group_0"]["input_activations"] = activations.clone());
        assert!(message.contains("input_activations") && message.contains("activations"), "{message}");
        let message = refused(&|value| value["kv_cache_scheme"] = json!({"num_bits": 8}));
        assert!(message.contains("kv_cache_scheme"), "{message}");
        let message = refused(&|value| value["ignore"] = json!(["re:(unclosed"]));
        assert!(message.contains("re:(unclosed"), "{message}");
        let message = refused(&|value| value["config_groups"] = json!({"W4A16": ["Linear"]}));
        assert!(message.contains("config_groups.W4A16"), "{message}");
        let message = refused(&|value| drop(value.as_object_mut().unwrap().remove("quant_method")));
        assert!(message.contains("quant_method` is missing"), "{message}");
    }
}
