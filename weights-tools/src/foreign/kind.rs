//! Which packing a `quantization_config` names.

use checkpoint::ConfigFault;
use serde_json::Value;

/// A packing that can be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `qweight` packed along the inputs.
    Gptq {
        /// Bits of a value: 4 or 8.
        bits: u32,
        /// Whether stored zero points are one less than those that count.
        zeros_less_one: bool,
        /// Whether the config says that all zero points are the middle of the range.
        symmetric: bool,
    },
    /// `qweight` of 4 bits packed along the outputs, in the order of AutoAWQ's `gemm`.
    Awq,
    /// `weight` in F8_E4M3 with `weight_scale_inv`.
    Fp8 {
        /// Rows and columns that share a scale.
        block: [usize; 2],
    },
}

/// Where tools write the key.
const PLACES: [&str; 4] = ["", "/thinker_config", "/thinker_config/text_config", "/talker_config"];

impl Kind {
    /// The kind that a config names; `None` for those that are read without conversion or by no part of this project.
    pub(super) fn of(config: &Value) -> Option<Result<Self, ConfigFault>> {
        let key = "quantization_config";
        let value = PLACES.iter().find_map(|place| config.pointer(place)?.get(key).filter(|value| !value.is_null()))?;
        let found = match value.get("quant_method")?.as_str()? {
            "gptq" => gptq(value),
            "awq" => awq(value),
            "auto-round" | "intel/auto-round" => auto_round(value),
            "fp8" => fp8(value),
            _ => return None,
        };
        Some(found.map_err(|(at, expected)| {
            let at = if at.is_empty() { "quant_method" } else { at };
            let found = value.get(at).map_or_else(|| "is missing".to_owned(), |found| format!("is {found}"));
            ConfigFault { at: format!("{key}.{at}"), reason: format!("{found}, expected {expected}") }
        }))
    }
}

/// The key that is wrong and what was expected.
type Wrong = (&'static str, &'static str);

fn bits(value: &Value) -> Result<u32, Wrong> {
    match value.get("bits").and_then(Value::as_u64) {
        Some(bits @ (4 | 8)) => Ok(bits as u32),
        _ => Err(("bits", "4 or 8")),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn gptq(value: &Value) -> Result<Kind, Wrong> {
    let zeros_less_one = match text(value, "checkpoint_format") {
        None | Some("gptq") => true,
        Some("gptq_v2") => false,
        Some(_) => return Err(("checkpoint_format", "\"gptq\" or \"gptq_v2\"")),
    };
    let symmetric = value.get("sym").and_then(Value::as_bool).unwrap_or(false);
    Ok(Kind::Gptq { bits: bits(value)?, zeros_less_one, symmetric })
}

fn awq(value: &Value) -> Result<Kind, Wrong> {
    if value.get("bits").or_else(|| value.get("w_bit")).and_then(Value::as_u64) != Some(4) {
        return Err(("bits", "4"));
    }
    if text(value, "version").is_some_and(|version| !version.eq_ignore_ascii_case("gemm")) {
        return Err(("version", "\"gemm\""));
    }
    match value.get("zero_point").and_then(Value::as_bool) {
        Some(false) => Err(("zero_point", "true")),
        _ => Ok(Kind::Awq),
    }
}

fn auto_round(value: &Value) -> Result<Kind, Wrong> {
    if text(value, "data_type").is_some_and(|kind| kind != "int") {
        return Err(("data_type", "\"int\""));
    }
    match text(value, "packing_format") {
        Some("auto_round:auto_gptq") => gptq(value),
        Some("auto_round:auto_awq") => awq(value),
        _ => Err(("packing_format", "\"auto_round:auto_gptq\" or \"auto_round:auto_awq\"")),
    }
}

fn fp8(value: &Value) -> Result<Kind, Wrong> {
    let sizes = value.get("weight_block_size").and_then(Value::as_array);
    let sizes: Option<Vec<usize>> =
        sizes.and_then(|sizes| sizes.iter().map(|size| usize::try_from(size.as_u64()?).ok()).collect());
    match sizes.as_deref() {
        Some([rows, columns]) if *rows > 0 && *columns > 0 => Ok(Kind::Fp8 { block: [*rows, *columns] }),
        _ => Err(("weight_block_size", "two sizes: the rows and the columns of a block")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_are_known_wherever_they_stand_and_others_are_refused_by_name() {
        let gptq4 = Kind::Gptq { bits: 4, zeros_less_one: true, symmetric: true };
        for (value, expected) in [
            (json!({"quant_method": "gptq", "bits": 4, "sym": true}), gptq4),
            (
                json!({"quant_method": "gptq", "bits": 8, "checkpoint_format": "gptq_v2"}),
                Kind::Gptq { bits: 8, zeros_less_one: false, symmetric: false },
            ),
            (
                json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "sym": true}),
                gptq4,
            ),
            (json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4}), Kind::Awq),
            (json!({"quant_method": "awq", "bits": 4, "version": "GEMM"}), Kind::Awq),
            (json!({"quant_method": "fp8", "weight_block_size": [128, 64]}), Kind::Fp8 { block: [128, 64] }),
        ] {
            for place in ["", "/thinker_config", "/thinker_config/text_config"] {
                let mut config = json!({"thinker_config": {"text_config": {}}});
                config.pointer_mut(place).unwrap()["quantization_config"] = value.clone();
                assert_eq!(Kind::of(&config).unwrap().unwrap(), expected, "{value}");
            }
        }
        for (value, named) in [
            (json!({"quant_method": "gptq", "bits": 3}), "`quantization_config.bits` is 3, expected 4 or 8"),
            (
                json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
                "\"marlin\", expected \"gptq\"",
            ),
            (json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), "\"gemv\", expected \"gemm\""),
            (json!({"quant_method": "awq", "bits": 4, "zero_point": false}), "zero_point` is false"),
            (json!({"quant_method": "auto-round", "bits": 4}), "packing_format` is missing"),
            (json!({"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:gptqmodel"}), "gptqmodel"),
            (json!({"quant_method": "fp8"}), "weight_block_size` is missing"),
            (json!({"quant_method": "fp8", "weight_block_size": [0, 128]}), "[0,128]"),
        ] {
            let ConfigFault { at, reason } = Kind::of(&json!({"quantization_config": value})).unwrap().unwrap_err();
            let message = format!("`{at}` {reason}");
            assert!(message.contains(named), "{message}");
        }
        for other in ["compressed-tensors", "bitsandbytes"] {
            assert!(Kind::of(&json!({"quantization_config": {"quant_method": other}})).is_none());
        }
        assert!(Kind::of(&json!({})).is_none());
    }
}
