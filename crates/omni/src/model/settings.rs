//! Settings of a checkpoint that lie in files of their own beside `config.json`.

use std::path::Path;

use media::image::{ImageOptions, PixelBounds};
use omni_core::{Error, Result, SamplingOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::OmniConfig;

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
#[serde(untagged, expecting = "expected a token id or a list of token ids")]
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
    pub(crate) fn read(directory: &Path, model: &OmniConfig) -> Result<Self> {
        let path = directory.join("generation_config.json");
        let mut config: Self = read_optional(&path)?;
        if config.end_ids().is_empty() {
            config.eos_token_id = EndIds::One(model.top.im_end_token_id);
        }
        let rows = model.thinker.text.vocab_size;
        if let Some(id) = config.end_ids().iter().find(|id| **id as usize >= rows) {
            let reason = format!("eos_token_id {id}, but the vocabulary has only {rows} rows");
            return Err(Error::config(format!("{}: {reason}", path.display())));
        }
        config.talker(0).validate("talker").map_err(|e| Error::config(format!("{}: {e}", path.display())))?;
        Ok(config)
    }

    pub(crate) fn talker(&self, seed: u64) -> SamplingOptions {
        SamplingOptions::talker()
            .temperature(self.talker_temperature)
            .top_k(self.talker_top_k)
            .top_p(self.talker_top_p)
            .repetition_penalty(self.talker_repetition_penalty)
            .seed(seed)
    }

    /// Whether `id` ends the text.
    pub(crate) fn ends_text(&self, id: u32) -> bool {
        self.end_ids().contains(&id)
    }

    /// Ids that end a text.
    pub(crate) fn end_ids(&self) -> &[u32] {
        match &self.eos_token_id {
            EndIds::Unnamed => &[],
            EndIds::One(end) => std::slice::from_ref(end),
            EndIds::Several(ends) => ends,
        }
    }

    pub(crate) fn max_codes(&self) -> usize {
        self.talker_max_new_tokens
    }
}

/// The image processor's settings, in the keys of the released file or in those that transformers 5 writes.
#[derive(Debug, Default, Deserialize)]
struct ImageProcessor {
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    #[serde(default)]
    size: Edges,
}

/// Pixel counts, despite their names.
#[derive(Debug, Default, Deserialize)]
struct Edges {
    shortest_edge: Option<usize>,
    longest_edge: Option<usize>,
}

/// The settings of all processors, which transformers 5 saves in one file.
#[derive(Default, Deserialize)]
struct Processors {
    image_processor: Option<ImageProcessor>,
}

/// Reads the bounds of image sizes from `processor_config.json` or else `preprocessor_config.json`; the released values where there
/// are none.
///
/// # Errors
/// [`Error::Config`] if the lower bound exceeds the upper one, or a bound is not a number.
pub fn image_bounds(directory: &Path) -> Result<PixelBounds> {
    let [whole, single] = ["processor_config.json", "preprocessor_config.json"].map(|file| directory.join(file));
    let (path, settings) = match read_optional::<Processors>(&whole)?.image_processor {
        Some(settings) => (whole, settings),
        None => (single.clone(), read_optional::<ImageProcessor>(&single)?),
    };
    let ImageProcessor { min_pixels, max_pixels, size } = settings;
    let released = ImageOptions::default().bounds;
    // As in the reference, the older keys win.
    let min = min_pixels.or(size.shortest_edge).unwrap_or(released.min);
    let max = max_pixels.or(size.longest_edge).unwrap_or(released.max);
    if min > max || max == 0 {
        let reason = format!("at least {min} and at most {max} pixels of a picture contradict each other");
        return Err(Error::config(format!("{}: {reason}", path.display())));
    }
    Ok(PixelBounds { min, max })
}

/// Reads a JSON file; a missing one gives the default.
fn read_optional<T: Default + DeserializeOwned>(path: &Path) -> Result<T> {
    if path.exists() { Ok(checkpoint::read_json(path)?) } else { Ok(T::default()) }
}
