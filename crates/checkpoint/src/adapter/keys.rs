//! The names of an adapter's tensors.

use crate::ConfigFault;

/// What a tensor of an adapter is, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// A factor of the matrix of this module.
    Factor { module: String, factor: Factor, is_table: bool },
    /// A tensor of this name that takes the place of the checkpoint's.
    Whole(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Factor {
    A,
    B,
}

/// What PEFT puts before every name.
const PREFIX: &str = "base_model.model.";
/// The name an adapter has in a program, which some tools leave in the names of its tensors.
const DEFAULT: &str = "default.";

/// Reads a name.
///
/// # Errors
/// [`ConfigFault`] at that name, for one that is no part of a LoRA adapter.
pub(super) fn role(key: &str) -> Result<Role, ConfigFault> {
    let refuse = |reason: String| Err(ConfigFault { at: key.to_owned(), reason });
    let name = key.strip_prefix(PREFIX).unwrap_or(key);
    for (marker, factor, is_table) in [
        (".lora_A", Factor::A, false),
        (".lora_B", Factor::B, false),
        (".lora_embedding_A", Factor::A, true),
        (".lora_embedding_B", Factor::B, true),
    ] {
        let Some((module, end)) = name.rsplit_once(marker) else { continue };
        // Tables of embeddings are parameters, without `.weight`.
        let tail = if is_table { Some(end) } else { end.strip_suffix(".weight") };
        // One part more is the adapter's name.
        let is_name = |tail: &str| tail.is_empty() || tail.strip_prefix('.').is_some_and(|name| !name.contains('.'));
        return match tail.filter(|tail| is_name(tail)) {
            Some(_) => Ok(Role::Factor { module: module.to_owned(), factor, is_table }),
            None => {
                let expected = if is_table { marker.to_owned() } else { format!("{marker}.weight") };
                refuse(format!("is no factor that is read; expected a name that ends with `{expected}`"))
            }
        };
    }
    if name.contains(".lora_magnitude_vector") {
        return refuse("belongs to DoRA, which is not merged here; PEFT's `merge_and_unload` does it".to_owned());
    }
    if name.contains(".lora_") {
        return refuse("is no part of an adapter that is read; expected lora_A, lora_B and whole tensors".to_owned());
    }
    Ok(Role::Whole(whole(name)))
}

/// The name of a tensor that stands in a wrapper's module.
fn whole(name: &str) -> String {
    match name.split_once(".modules_to_save.") {
        Some((module, parameter)) => format!("{module}.{}", parameter.strip_prefix(DEFAULT).unwrap_or(parameter)),
        None => name.replace(".base_layer.", "."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_peft_and_other_tools_write_them() {
        let factor = |module: &str, factor, is_table| Role::Factor { module: module.into(), factor, is_table };
        let whole = |name: &str| Role::Whole(name.into());
        for (key, expected) in [
            ("base_model.model.thinker.lm_head.lora_A.weight", factor("thinker.lm_head", Factor::A, false)),
            ("base_model.model.thinker.lm_head.lora_B.default.weight", factor("thinker.lm_head", Factor::B, false)),
            ("thinker.lm_head.lora_B.weight", factor("thinker.lm_head", Factor::B, false)),
            ("base_model.model.model.embed_tokens.lora_embedding_A", factor("model.embed_tokens", Factor::A, true)),
            ("model.embed_tokens.lora_embedding_B.default", factor("model.embed_tokens", Factor::B, true)),
            (
                "base_model.model.m.mlp.experts.base_layer.lora_A.weight",
                factor("m.mlp.experts.base_layer", Factor::A, false),
            ),
            ("base_model.model.lm_head.weight", whole("lm_head.weight")),
            ("base_model.model.lm_head.base_layer.weight", whole("lm_head.weight")),
            ("base_model.model.lm_head.modules_to_save.weight", whole("lm_head.weight")),
            ("base_model.model.visual.modules_to_save.default.norm.bias", whole("visual.norm.bias")),
        ] {
            assert_eq!(role(key).unwrap(), expected, "{key}");
        }
    }

    #[test]
    fn names_of_other_things_are_refused() {
        for key in [
            "lm_head.lora_A.bias",
            "lm_head.lora_B.my.name.weight",
            "lm_head.lora_embedding_A.a.b",
            "lm_head.lora_magnitude_vector",
            "lm_head.lora_E",
        ] {
            assert!(role(key).is_err(), "{key}");
        }
    }
}
