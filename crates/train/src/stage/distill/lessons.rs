//! Batches that a teacher judges.

use burn::tensor::Device;

use crate::data::{Batch, Location};
use crate::model::Sample;

/// A batch of conversations whose learned tokens a teacher judges.
#[derive(Debug, Clone)]
pub struct Lessons {
    /// The conversations.
    pub samples: Vec<Sample>,
    /// Where each came from.
    pub places: Vec<Location>,
}

/// Makes lessons from lines with given answers.
pub fn lessons(batch: Batch, device: &Device) -> Lessons {
    let places = batch.items.iter().map(|item| item.line.location.clone()).collect();
    Lessons { samples: batch.to_samples(device), places }
}
