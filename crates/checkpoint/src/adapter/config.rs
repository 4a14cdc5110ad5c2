//! `adapter_config.json`: which scale belongs to which module, and what is not a plain LoRA.

use std::path::{Path, PathBuf};

use fancy_regex::Regex;
use serde_json::Value;

use crate::{CheckpointError, ConfigFault, ConfigFile};

/// The settings of an adapter that decide its values.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) path: PathBuf,
    rank: usize,
    alpha: f64,
    /// Whether `α` is divided by the square root of the rank.
    root: bool,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    /// The class that was adapted, if the file names it.
    pub(super) base_class: Option<String>,
}

/// Keys that make an adapter something else than added products of two factors, with the only value that does not.
const PLAIN: [(&str, &str, &str); 13] = [
    ("peft_type", "\"LORA\"", "other kinds of adapters are not read"),
    ("bias", "\"none\"", "biases are not adapted"),
    ("lora_bias", "false", "factors have no biases"),
    ("fan_in_fan_out", "false", "matrices are [out, in]"),
    ("use_dora", "false", "DoRA is not merged here; PEFT's `merge_and_unload` does it"),
    ("use_qalora", "false", "QA-LoRA is not read"),
    ("use_bdlora", "false", "factors of blocks are not read"),
    ("layer_replication", "null", "layers are not repeated"),
    ("trainable_token_indices", "null", "rows of an embedding are not replaced"),
    ("alora_invocation_tokens", "null", "an adapter is merged for all tokens"),
    ("arrow_config", "null", "adapters are not routed"),
    ("kasa_config", "null", "KaSA is not read"),
    ("monteclora_config", "null", "MonteCLoRA is not read"),
];

/// Ways to begin that leave the weights of the model as they are. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) move a part of them
/// into the factors, which are then no difference from the checkpoint.
const HARMLESS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

impl Settings {
    pub(super) fn read(path: &Path) -> Result<Self, CheckpointError> {
        Self::of(&ConfigFile::read(path)?).map_err(|fault| fault.in_file(path))
    }

    fn of(file: &ConfigFile) -> Result<Self, ConfigFault> {
        check_plain(file)?;
        check_start(file.get("init_lora_weights"))?;
        let class = file.get("auto_mapping.base_model_class").and_then(Value::as_str);
        Ok(Self {
            path: file.path().to_owned(),
            rank: rank("r", file.get("r"))?,
            alpha: alpha("lora_alpha", file.get("lora_alpha"))?,
            root: flag(file, "use_rslora")?,
            ranks: patterns(file, "rank_pattern", rank)?,
            alphas: patterns(file, "alpha_pattern", alpha)?,
            base_class: class.map(str::to_owned),
        })
    }

    /// The rank of a module's factors.
    pub(super) fn rank(&self, module: &str) -> usize {
        first(&self.ranks, module).unwrap_or(self.rank)
    }

    /// What the product of a module's factors is multiplied by.
    pub(super) fn scale(&self, module: &str) -> f32 {
        let (alpha, rank) = (first(&self.alphas, module).unwrap_or(self.alpha), self.rank(module) as f64);
        (alpha / if self.root { rank.sqrt() } else { rank }) as f32
    }
}

/// The value of the first pattern that matches the end of a module's name.
fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    // A pattern that exceeds its limits on a name does not match it.
    patterns.iter().find(|(pattern, _)| pattern.is_match(module).unwrap_or(false)).map(|(_, value)| *value)
}

fn check_plain(file: &ConfigFile) -> Result<(), ConfigFault> {
    PLAIN.iter().try_for_each(|(key, plain, why)| match file.get(key).map(Value::to_string) {
        Some(found) if found != *plain && !(*plain == "null" && found == "false") => {
            Err(fault(key, format!("is {found}, expected {plain}: {why}")))
        }
        None if *key == "peft_type" => Err(fault(key, format!("missing, expected {plain}"))),
        _ => Ok(()),
    })
}

fn check_start(start: Option<&Value>) -> Result<(), ConfigFault> {
    match start {
        Some(Value::String(name)) if !HARMLESS.contains(&name.as_str()) => {
            let advice = "this initialisation changes the model's own weights; PEFT turns such an adapter into a plain one \
                          when it is saved with `path_initial_model_for_weight_conversion`";
            Err(fault("init_lora_weights", format!("is \"{name}\": {advice}")))
        }
        _ => Ok(()),
    }
}

/// The patterns of a table, in the order in which PEFT tries them.
fn patterns<T>(
    file: &ConfigFile,
    key: &str,
    read: fn(&str, Option<&Value>) -> Result<T, ConfigFault>,
) -> Result<Vec<(Regex, T)>, ConfigFault> {
    let table = match file.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Object(table)) => table,
        Some(other) => return Err(fault(key, format!("is {other}, expected an object of patterns"))),
    };
    let one = |(pattern, value): (&String, &Value)| {
        let at = format!("{key}.{pattern}");
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
        let regex = regex.map_err(|error| fault(&at, format!("this pattern cannot be read: {error}")))?;
        Ok((regex, read(&at, Some(value))?))
    };
    table.iter().map(one).collect()
}

fn rank(at: &str, value: Option<&Value>) -> Result<usize, ConfigFault> {
    let rank = value.and_then(Value::as_u64).and_then(|rank| usize::try_from(rank).ok());
    rank.filter(|rank| *rank > 0).ok_or_else(|| wrong(at, value, "a whole number above 0"))
}

fn alpha(at: &str, value: Option<&Value>) -> Result<f64, ConfigFault> {
    value.and_then(Value::as_f64).ok_or_else(|| wrong(at, value, "a number"))
}

fn flag(file: &ConfigFile, key: &str) -> Result<bool, ConfigFault> {
    match file.get(key) {
        None => Ok(false),
        value => value.and_then(Value::as_bool).ok_or_else(|| wrong(key, value, "true or false")),
    }
}

fn wrong(at: &str, value: Option<&Value>, expected: &str) -> ConfigFault {
    let found = value.map_or_else(|| "missing".to_owned(), |value| format!("is {value}"));
    fault(at, format!("{found}, expected {expected}"))
}

fn fault(at: &str, reason: String) -> ConfigFault {
    ConfigFault { at: at.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(change: Value) -> Result<Settings, ConfigFault> {
        let mut config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "use_dora": false});
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Settings::of(&ConfigFile::of_json("adapter_config.json".as_ref(), config))
    }

    #[test]
    fn patterns_match_whole_names_from_a_dot_on_and_the_first_decides() {
        let ranks = json!({"layers.1.self_attn.q_proj": 4, r"q_proj|o_proj": 2, r".*\.gate_up_proj": 16});
        let settings = settings(json!({"rank_pattern": ranks, "alpha_pattern": {"o_proj": 3.5}})).unwrap();
        for (module, rank, scale) in [
            ("model.layers.1.self_attn.q_proj", 4, 4.0),
            ("layers.1.self_attn.q_proj", 4, 4.0),
            ("model.layers.2.self_attn.q_proj", 2, 8.0),
            ("model.my_layers.1.self_attn.o_proj", 2, 1.75),
            ("model.layers.1.self_attn.kq_proj", 8, 2.0),
            ("model.layers.1.self_attn.q_proj.inner", 8, 2.0),
            ("model.layers.1.mlp.experts.gate_up_proj", 16, 1.0),
        ] {
            assert_eq!((settings.rank(module), settings.scale(module)), (rank, scale), "{module}");
        }
    }

    #[test]
    fn the_scale_may_be_by_the_root_of_the_rank() {
        assert_eq!(settings(json!({})).unwrap().scale("q_proj"), 2.0);
        let settings = settings(json!({"use_rslora": true, "rank_pattern": {"k_proj": 16}})).unwrap();
        assert!((settings.scale("q_proj") - 16.0 / 8f32.sqrt()).abs() < 1e-6);
        assert_eq!(settings.scale("k_proj"), 4.0);
    }

    #[test]
    fn what_is_no_plain_adapter_is_refused_by_its_key() {
        for (key, value) in [
            ("peft_type", json!("LOHA")),
            ("peft_type", Value::Null),
            ("r", json!(0)),
            ("r", Value::Null),
            ("lora_alpha", json!("16")),
            ("bias", json!("lora_only")),
            ("lora_bias", json!(true)),
            ("fan_in_fan_out", json!(true)),
            ("use_dora", json!(true)),
            ("use_qalora", json!(true)),
            ("use_bdlora", json!({"target_modules_bd_a": []})),
            ("use_rslora", json!("yes")),
            ("layer_replication", json!([[0, 4], [2, 5]])),
            ("trainable_token_indices", json!([1, 2])),
            ("alora_invocation_tokens", json!([3])),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("init_lora_weights", json!("olora")),
            ("rank_pattern", json!(["q_proj"])),
            ("rank_pattern", json!({"q_proj": 0})),
            ("alpha_pattern", json!({"(": 1})),
        ] {
            let fault = settings(json!({key: value})).unwrap_err();
            assert!(fault.at.starts_with(key), "{key}: {value}: {fault:?}");
            assert!(fault.reason.contains("expected") || key.contains("init") || key.contains("alpha"), "{fault:?}");
        }
        for (key, value) in [("init_lora_weights", json!("gaussian")), ("init_lora_weights", json!(false))] {
            settings(json!({key: value})).unwrap();
        }
    }
}
