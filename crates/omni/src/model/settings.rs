//! Settings of a checkpoint that lie in files of their own beside `config.json`.

use std::path::Path;

use media::image::{ImageOptions, PixelBounds};
use omni_core::{Error, Result, SamplingOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Generation settings of `generation_config.json`; the released values where the file has none.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct GenerationConfig {
    talker_max_new_tokens: usize,
    talker_repetition_penalty: f32,
    talker_temperature: f32,
    talker_top_k: usize,
    talker_top_p: f32,
    eos_token_id: EndIds,
}

/// Ids that end a text: none, one, or several.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
enum EndIds {
    #[default]
    Unnamed,
    One(u32),
    Several(Vec<u32>),
}

impl Default for GenerationConfig {
    fn default() -> Self {
        let SamplingOptions { repetition_penalty, temperature, top_k, top_p, .. } = SamplingOptions::talker();
        Self {
            talker_max_new_tokens: 4096,
            talker_repetition_penalty: repetition_penalty,
            talker_temperature: temperature,
            talker_top_k: top_k,
            talker_top_p: top_p,
            eos_token_id: EndIds::Unnamed,
        }
    }
}

impl GenerationConfig {
    pub(crate) fn read(directory: &Path, im_end: u32) -> Result<Self> {
        let path = directory.join("generation_config.json");
        let mut config: Self = read_optional(&path)?;
        if let EndIds::Unnamed = config.eos_token_id {
            config.eos_token_id = EndIds::One(im_end);
        }
        config.talker(0).validate("talker").map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        Ok(config)
    }

    pub(crate) fn talker(&self, seed: u64) -> SamplingOptions {
        SamplingOptions {
            greedy: false,
            temperature: self.talker_temperature,
            top_k: self.talker_top_k,
            top_p: self.talker_top_p,
            repetition_penalty: self.talker_repetition_penalty,
            seed,
        }
    }

    /// Whether `id` ends the text.
    pub(crate) fn ends_text(&self, id: u32) -> bool {
        match &self.eos_token_id {
            EndIds::Unnamed => false,
            EndIds::One(end) => *end == id,
            EndIds::Several(ends) => ends.contains(&id),
        }
    }

    pub(crate) fn max_codes(&self) -> usize {
        self.talker_max_new_tokens
    }
}

/// Bounds of image sizes in `preprocessor_config.json`; the released values where the file has none.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(crate) struct PreprocessorConfig {
    min_pixels: usize,
    max_pixels: usize,
}

impl Default for PreprocessorConfig {
    fn default() -> Self {
        let PixelBounds { min, max } = ImageOptions::default().bounds;
        Self { min_pixels: min, max_pixels: max }
    }
}

impl PreprocessorConfig {
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("preprocessor_config.json");
        let config: Self = read_optional(&path)?;
        let Self { min_pixels, max_pixels } = config;
        if min_pixels > max_pixels || max_pixels == 0 {
            let reason = format!("{min_pixels} min_pixels and {max_pixels} max_pixels contradict each other");
            return Err(Error::Config(format!("{}: {reason}", path.display())));
        }
        Ok(config)
    }

    pub(crate) fn bounds(self) -> PixelBounds {
        PixelBounds { min: self.min_pixels, max: self.max_pixels }
    }
}

/// Reads a JSON file; a missing one gives the default.
fn read_optional<T: Default + DeserializeOwned>(path: &Path) -> Result<T> {
    if !path.is_file() {
        return Ok(T::default());
    }
    let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
    serde_json::from_str(&text).map_err(|error| Error::Config(format!("{}: {error}", path.display())))
}
