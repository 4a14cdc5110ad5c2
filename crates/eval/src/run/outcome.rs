//! What became of an item of a suite.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::score::Score;

/// What became of an item: a line of the file of items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its id.
    pub id: String,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The right answer.
    pub expected: Value,
    /// The answer: what was heard, or what the model wrote.
    pub answer: String,
    /// Whether the answer was cut off at the most tokens, or where the context was full.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut_off: bool,
    /// How good it is.
    pub score: Score,
    /// Seconds that it took, in the company of other items.
    pub seconds: f64,
    /// Seconds of sound that were heard or spoken.
    pub sound_seconds: f64,
}

/// What became of all items.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcomes {
    /// The outcome of each item, in the order of the items.
    pub all: Vec<Outcome>,
    /// Items that were asked now; the others were done before.
    pub new_items: usize,
    /// Seconds of sound of these.
    pub sound_seconds: f64,
    /// Time that these took.
    pub elapsed: Duration,
}
