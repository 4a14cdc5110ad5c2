use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Half a cosine from the peak to the lowest rate.
    #[default]
    Cosine,
    /// A straight line from the peak to the lowest rate.
    Linear,
    /// The peak until the end.
    Constant,
}

/// Learning rate of each step: a linear warm-up to the peak, then a fall to the lowest rate, which stays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Form of the fall.
    #[serde(default)]
    pub kind: ScheduleKind,
    /// Highest rate.
    pub peak: f64,
    /// Rate at the end and after it.
    pub lowest: f64,
    /// Steps of the warm-up.
    pub warm_up: usize,
    /// Steps until the lowest rate.
    pub total: usize,
}

impl Schedule {
    /// Checks that the rates are finite and not negative.
    ///
    /// # Errors
    /// [`Error::Option`] naming the rate.
    pub fn validate(&self) -> Result<()> {
        for (name, rate) in [("peak", self.peak), ("lowest", self.lowest)] {
            if !rate.is_finite() || rate < 0.0 {
                return Err(Error::Option { name, reason: format!("a learning rate of {rate}, expected 0 or more") });
            }
        }
        Ok(())
    }

    /// The rate of a step, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        let Self { kind, peak, lowest, warm_up, total } = *self;
        if step < warm_up {
            return peak * (step + 1) as f64 / warm_up as f64;
        }
        let part = ((step - warm_up) as f64 / total.saturating_sub(warm_up).max(1) as f64).min(1.0);
        match kind {
            ScheduleKind::Cosine => lowest + (peak - lowest) * 0.5 * (1.0 + (std::f64::consts::PI * part).cos()),
            ScheduleKind::Linear => peak + (lowest - peak) * part,
            ScheduleKind::Constant => peak,
        }
    }
}
