//! How the turns of a session are told apart.

use serde_json::{Value, json};

use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// The settings under `audio.input.turn_detection`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TurnDetection {
    kind: Kind,
    threshold: f64,
    prefix_padding_ms: u64,
    silence_duration_ms: u64,
    pub(super) create_response: bool,
    pub(super) interrupt_response: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Server,
    /// A name of OpenAI's for a detector that understands sentences. Served by the same one, which waits as long as the eagerness says.
    Semantic(Eagerness),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Eagerness {
    Low,
    Medium,
    High,
    Auto,
}

const EAGERNESS: [(&str, Eagerness); 4] =
    [("low", Eagerness::Low), ("medium", Eagerness::Medium), ("high", Eagerness::High), ("auto", Eagerness::Auto)];

impl Default for TurnDetection {
    fn default() -> Self {
        Self {
            kind: Kind::Server,
            threshold: 0.5,
            prefix_padding_ms: 300,
            silence_duration_ms: 500,
            create_response: true,
            interrupt_response: true,
        }
    }
}

impl TurnDetection {
    /// Merges what a client sent into the present settings.
    pub(super) fn merge(present: Option<&Self>, fields: &Fields) -> ApiResult<Self> {
        let mut merged = present.cloned().unwrap_or_default();
        if let Some(semantic) = fields.one_of("type", &[("server_vad", false), ("semantic_vad", true)])? {
            merged.kind = match (semantic, merged.kind) {
                (true, Kind::Server) => Kind::Semantic(Eagerness::Auto),
                (true, kind) => kind,
                (false, _) => Kind::Server,
            };
        }
        // The other type takes no eagerness, and stays what it is.
        if let Some(eagerness) = fields.one_of("eagerness", &EAGERNESS)?
            && matches!(merged.kind, Kind::Semantic(_))
        {
            merged.kind = Kind::Semantic(eagerness);
        }
        merged.threshold = fields.number("threshold", 0.0..=1.0)?.unwrap_or(merged.threshold);
        let time = |field: &str, present: u64| {
            fields.integer(field, 0..=60_000).map(|time| time.map_or(present, |time| time as u64))
        };
        merged.prefix_padding_ms = time("prefix_padding_ms", merged.prefix_padding_ms)?;
        merged.silence_duration_ms = time("silence_duration_ms", merged.silence_duration_ms)?;
        merged.create_response = fields.flag("create_response")?.unwrap_or(merged.create_response);
        merged.interrupt_response = fields.flag("interrupt_response")?.unwrap_or(merged.interrupt_response);
        if fields.get("idle_timeout_ms").is_some() {
            return Err(ApiError::unsupported(fields.name("idle_timeout_ms"), "the server asks nothing by itself"));
        }
        Ok(merged)
    }

    pub(super) fn threshold(&self) -> f32 {
        self.threshold as f32
    }

    pub(super) fn padding_ms(&self) -> u64 {
        self.prefix_padding_ms
    }

    /// Silence that ends a turn.
    pub(super) fn silence_ms(&self) -> u64 {
        match self.kind {
            Kind::Server => self.silence_duration_ms,
            Kind::Semantic(Eagerness::Low) => 1000,
            Kind::Semantic(Eagerness::Medium | Eagerness::Auto) => 600,
            Kind::Semantic(Eagerness::High) => 350,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let (create, interrupt) = (self.create_response, self.interrupt_response);
        match self.kind {
            Kind::Server => json!({
                "type": "server_vad",
                "threshold": self.threshold,
                "prefix_padding_ms": self.prefix_padding_ms,
                "silence_duration_ms": self.silence_duration_ms,
                "create_response": create,
                "interrupt_response": interrupt,
                "idle_timeout_ms": null,
            }),
            Kind::Semantic(eagerness) => {
                let name = EAGERNESS.iter().find(|(_, value)| *value == eagerness).map(|(name, _)| *name);
                json!({"type": "semantic_vad", "eagerness": name, "create_response": create, "interrupt_response": interrupt})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(present: Option<&TurnDetection>, value: Value) -> ApiResult<TurnDetection> {
        TurnDetection::merge(present, &Fields::at(&value, "turn_detection").unwrap())
    }

    #[test]
    fn what_is_not_said_stays() {
        let first = merged(None, json!({"silence_duration_ms": 700, "create_response": false})).unwrap();
        let second = merged(Some(&first), json!({"type": "server_vad", "threshold": 0.3})).unwrap();
        assert_eq!((second.silence_ms(), second.create_response, second.threshold), (700, false, 0.3));
        let semantic = merged(Some(&second), json!({"type": "semantic_vad", "eagerness": "high"})).unwrap();
        assert_eq!((semantic.silence_ms(), semantic.to_json()["type"].as_str()), (350, Some("semantic_vad")));
        for server in [json!({"type": "server_vad"}), json!({"type": "server_vad", "eagerness": "high"})] {
            let server = merged(Some(&semantic), server).unwrap();
            assert_eq!((server.silence_ms(), server.to_json()["type"].as_str()), (700, Some("server_vad")));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, param) in [
            (json!({"type": "none"}), "turn_detection.type"),
            (json!({"threshold": 2}), "turn_detection.threshold"),
            (json!({"silence_duration_ms": -1}), "turn_detection.silence_duration_ms"),
            (json!({"idle_timeout_ms": 5000}), "turn_detection.idle_timeout_ms"),
        ] {
            assert_eq!(merged(None, value).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
