//! The parts of the model that can be loaded separately, identified by the names of their tensors.

use std::fmt;

/// A part of the model that can be loaded without the others.
///
/// ```
/// use qwen3_omni::Component;
///
/// assert_eq!(Component::of("talker.code_predictor.model.norm.weight"), Some(Component::CodePredictor));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// `thinker.model`, `thinker.lm_head`.
    Thinker,
    /// `thinker.audio_tower`.
    AudioEncoder,
    /// `thinker.visual`.
    VisionEncoder,
    /// `talker` without the code predictor.
    Talker,
    /// `talker.code_predictor`.
    CodePredictor,
    /// `code2wav`.
    Code2Wav,
}

impl Component {
    /// All parts, in pipeline order.
    pub const ALL: [Component; 6] = [
        Component::AudioEncoder,
        Component::VisionEncoder,
        Component::Thinker,
        Component::Talker,
        Component::CodePredictor,
        Component::Code2Wav,
    ];

    /// The name shown to users.
    pub fn name(self) -> &'static str {
        match self {
            Component::Thinker => "thinker",
            Component::AudioEncoder => "audio encoder",
            Component::VisionEncoder => "vision encoder",
            Component::Talker => "talker",
            Component::CodePredictor => "code predictor",
            Component::Code2Wav => "code2wav",
        }
    }

    /// The part a tensor belongs to, by its name's prefix.
    pub fn of(tensor: &str) -> Option<Component> {
        let prefixes = [
            ("thinker.audio_tower.", Component::AudioEncoder),
            ("thinker.visual.", Component::VisionEncoder),
            ("thinker.", Component::Thinker),
            ("talker.code_predictor.", Component::CodePredictor),
            ("talker.", Component::Talker),
            ("code2wav.", Component::Code2Wav),
        ];
        prefixes.iter().find(|(prefix, _)| tensor.starts_with(prefix)).map(|(_, component)| *component)
    }

    /// Whether the part makes speech: a checkpoint without audio output has none of these.
    pub fn speaks(self) -> bool {
        matches!(self, Component::Talker | Component::CodePredictor | Component::Code2Wav)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
