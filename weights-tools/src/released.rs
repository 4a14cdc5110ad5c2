//! The released model, as far as its config tells.

use std::path::Path;

use checkpoint::{ConfigFile, MemoryEstimate, QuantizationConfig, RandomCheckpoint};
use omni_core::{Dtype, Error, PlaceKind, Result};
use qwen3_omni::OmniConfig;
use serde_json::Value;

use crate::quantize::{Plan, Recipe, choose, quantised_config};

/// The `config.json` of the released model, from which the released names and shapes follow.
pub const RELEASED: &str = include_str!("released_config.json");

/// The config of the released Instruct checkpoint.
///
/// # Errors
/// None, as long as the built-in file is whole.
pub fn config() -> Result<OmniConfig> {
    Ok(OmniConfig::of(&file(json()?))?)
}

/// Estimates the memory of the released weights in bf16, or quantised by a recipe, on a device of its own. On the CPU most of it is
/// mapped from the files.
///
/// # Errors
/// None, as long as the built-in file is whole.
pub fn memory_estimate(recipe: Option<Recipe>) -> Result<MemoryEstimate> {
    let (json, manifest) = (json()?, config()?.manifest()?);
    let plan = Plan { recipe, ..Plan::default() };
    let json = match recipe {
        Some(_) => quantised_config(&json, &choose(&manifest, &plan)?, Dtype::Bf16),
        None => json,
    };
    let weights = RandomCheckpoint::new(manifest, QuantizationConfig::of(&file(json))?.as_ref());
    Ok(weights.memory_estimate(|_| true, PlaceKind::Device, Dtype::Bf16))
}

fn json() -> Result<Value> {
    let bad =
        |error: serde_json::Error| Error::config(format!("the built-in released config: {error}")).caused_by(error);
    serde_json::from_str(RELEASED).map_err(bad)
}

fn file(json: Value) -> ConfigFile {
    ConfigFile::of_json(Path::new("released_config.json"), json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_take_what_the_book_says() {
        let gigabytes = |recipe| memory_estimate(recipe).unwrap().total() as f64 / 1e9;
        let all = [Some(Recipe::Gb24), Some(Recipe::Gb48), Some(Recipe::Gb80), None].map(gigabytes);
        for (found, told) in all.iter().zip([21.4, 37.5, 67.3, 70.5]) {
            assert!((found - told).abs() < 0.3, "{all:?}");
        }
    }
}
