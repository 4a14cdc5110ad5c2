//! Adapters (LoRA) that are merged while a checkpoint is loaded.

use std::path::Path;

use checkpoint::Adapter;
use omni_core::Result;

use super::model_files::OmniCheckpoint;

/// Where the names of a class of transformers begin on disk, by what its name contains; the first that fits.
const CLASSES: [(&str, &str); 5] = [
    ("CodePredictor", "talker.code_predictor."),
    ("Talker", "talker."),
    ("Code2Wav", "code2wav."),
    ("AudioEncoder", "thinker.audio_tower."),
    ("VisionEncoder", "thinker.visual."),
];

/// Modules that transformers 5 has under other names than the checkpoint.
const MOVED: [(&str, &str); 3] = [
    ("thinker.model.language_model.", "thinker.model."),
    ("thinker.model.audio_tower.", "thinker.audio_tower."),
    ("thinker.model.visual.", "thinker.visual."),
];

impl OmniCheckpoint {
    /// Adds an adapter in PEFT's form: its directory has `adapter_config.json` and `adapter_model.safetensors`. What is loaded, or
    /// written by `weights-tools`, has it merged; several adapters add up.
    ///
    /// Modules have the names of the whole model in transformers 4 or 5, or those of the thinker alone; of another part alone, if
    /// PEFT has written its class into the config.
    ///
    /// ```no_run
    /// use qwen3_omni::OmniCheckpoint;
    ///
    /// let mut checkpoint = OmniCheckpoint::open("/models/Qwen3-Omni-30B-A3B-Instruct")?;
    /// checkpoint.add_adapter("tuned/step-000200")?;
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Adapter::open`] and [`checkpoint::Checkpoint::add_adapter`], naming file and tensor or setting.
    pub fn add_adapter(&mut self, directory: impl AsRef<Path>) -> Result<()> {
        let adapter = Adapter::open(directory)?;
        let part = part(adapter.base_class());
        Ok(self.checkpoint_mut().add_adapter(adapter, |name| names(part, name))?)
    }
}

/// Where the names of the adapted class begin, if it is not the whole model.
fn part(class: Option<&str>) -> &'static str {
    let found = CLASSES.iter().find(|(part, _)| class.is_some_and(|class| class.contains(part)));
    found.map_or("thinker.", |(_, prefix)| prefix)
}

/// The names on disk that a name in an adapter may stand for: of the whole model, and of one part.
fn names(part: &str, name: &str) -> Vec<String> {
    let mut names = ["", part].map(|prefix| on_disk(&format!("{prefix}{name}"))).to_vec();
    names.dedup();
    names
}

fn on_disk(name: &str) -> String {
    let moved = MOVED.iter().find_map(|(now, disk)| Some(format!("{disk}{}", name.strip_prefix(now)?)));
    moved.unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_either_transformers_and_of_parts_become_those_on_disk() {
        for (class, name, expected) in [
            (None, "thinker.model.layers.3.mlp.gate", "thinker.model.layers.3.mlp.gate"),
            (None, "thinker.model.language_model.layers.3.mlp.gate", "thinker.model.layers.3.mlp.gate"),
            (None, "model.layers.3.mlp.gate", "thinker.model.layers.3.mlp.gate"),
            (None, "model.language_model.layers.3.mlp.gate", "thinker.model.layers.3.mlp.gate"),
            (
                Some("Qwen3OmniMoeThinkerForConditionalGeneration"),
                "model.visual.merger.ln_q",
                "thinker.visual.merger.ln_q",
            ),
            (None, "model.audio_tower.proj1", "thinker.audio_tower.proj1"),
            (None, "audio_tower.proj1", "thinker.audio_tower.proj1"),
            (None, "lm_head", "thinker.lm_head"),
            (Some("Qwen3OmniMoeTalkerForConditionalGeneration"), "model.norm", "talker.model.norm"),
            (
                Some("Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration"),
                "lm_head.0",
                "talker.code_predictor.lm_head.0",
            ),
            (Some("Qwen3OmniMoeForConditionalGeneration"), "code2wav.decoder.0", "code2wav.decoder.0"),
        ] {
            let names = names(part(class), name);
            assert!(names.iter().any(|name| name == expected), "{name}: {names:?}");
        }
    }
}
