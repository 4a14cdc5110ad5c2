//! Lines that are computed together.

use burn::tensor::Device;

use super::line::Line;
use super::sample::ReadSample;
use crate::model::Sample;

/// One line of a batch.
#[derive(Debug)]
pub struct BatchItem {
    /// The source, in the order in which they were given.
    pub source: usize,
    /// The line.
    pub line: Line,
    /// The line as the model reads it.
    pub sample: ReadSample,
    /// The same with the rejected answer, if [`BatchOptions::rejected`](super::BatchOptions::rejected) asks for it.
    pub rejected: Option<ReadSample>,
}

/// Lines that are computed together.
#[derive(Debug)]
pub struct Batch {
    /// The lines.
    pub items: Vec<BatchItem>,
}

impl Batch {
    /// Number of tokens, those of rejected answers included.
    pub fn tokens(&self) -> usize {
        let all = |item: &BatchItem| item.sample.ids.len() + item.rejected.as_ref().map_or(0, |read| read.ids.len());
        self.items.iter().map(all).sum()
    }

    /// Number of tokens that are learned.
    pub fn learned(&self) -> usize {
        self.items.iter().map(|item| item.sample.learned()).sum()
    }

    /// Where the lines stand, as `file:line, …`.
    pub fn origin(&self) -> String {
        let places: Vec<String> = self.items.iter().map(|item| item.line.location.to_string()).collect();
        places.join(", ")
    }

    /// Puts the samples on a device; rejected answers are left out.
    pub fn to_samples(self, device: &Device) -> Vec<Sample> {
        self.items.into_iter().map(|item| item.sample.to_sample(device)).collect()
    }
}
