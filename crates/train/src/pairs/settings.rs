//! Settings of pairs of speeches.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How pairs are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairSettings {
    /// Times that each text is spoken.
    pub samples: usize,
    /// Least difference of the word error rates of a pair.
    pub margin: f64,
    /// How many times as long as the other one speech of a pair may be. Sums of log-probabilities compare poorly across lengths.
    pub longest: f64,
    /// Language of lines without a key `language`, as a code of ISO 639; it decides how texts are normalised.
    pub language: String,
    /// Voice of lines without one.
    pub speaker: Option<String>,
    /// Temperature of the first codes; the checkpoint's own settings if there is none.
    pub temperature: Option<f32>,
    /// Most frames of a speech.
    pub max_codes: Option<usize>,
    /// Decides what is drawn at random.
    pub seed: u64,
}

impl Default for PairSettings {
    fn default() -> Self {
        Self {
            samples: 4,
            margin: 0.1,
            longest: 2.0,
            language: "en".into(),
            speaker: None,
            temperature: None,
            max_codes: None,
            seed: 0,
        }
    }
}

impl PairSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Option`] naming a setting without sense.
    pub fn validate(&self) -> Result<()> {
        let refuse = |name, reason: String| Err(Error::Option { name, reason });
        if self.samples < 2 {
            return refuse("samples", format!("{}, expected 2 or more", self.samples));
        }
        if !(self.margin > 0.0 && self.margin.is_finite()) {
            return refuse("margin", format!("{}, expected a number above 0", self.margin));
        }
        match self.longest >= 1.0 {
            true => Ok(()),
            false => refuse("longest", format!("{}, expected 1 or more", self.longest)),
        }
    }
}
