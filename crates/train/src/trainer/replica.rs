//! Models on other devices, which compute with the parameters of the trainer.

use burn::module::Module;
use burn::tensor::Device;

use super::{Objective, Trainer};
use crate::Result;

/// An objective and its model on another device.
#[derive(Debug)]
pub(super) struct Replica<O: Objective> {
    pub(super) objective: O,
    pub(super) model: O::Model,
    /// One without gradients.
    pub(super) device: Device,
}

impl<O: Objective> Trainer<O> {
    /// The device of the parameters, one without gradients.
    pub(super) fn device(&self) -> Option<Device> {
        self.model.devices().first().map(|device| device.clone().inner())
    }

    /// Copies the trained parameters to all replicas before a step.
    pub(super) fn update_replicas(&mut self, step: usize) -> Result<()> {
        if self.replicas.is_empty() {
            return Ok(());
        }
        let values = self.names.trained_values(&self.model);
        for replica in &mut self.replicas {
            let copied = values.iter().map(|(name, value)| (name.clone(), value.clone().to_device(&replica.device)));
            replica.model = self.names.with_values(replica.model.clone(), copied.collect())?;
            replica.objective.before_step(step);
        }
        Ok(())
    }
}
