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

    /// Copies the trained parameters to all replicas before a step. After an error the trainer has fewer replicas: the run is over.
    pub(super) fn update_replicas(&mut self, step: usize) -> Result<()> {
        // Taken out, so that a model holds nothing of the last step but what is not replaced yet.
        for Replica { mut objective, model, device } in std::mem::take(&mut self.replicas) {
            let model = self.names.copy_trained(&self.model, model, &mut |values| values.to_device(&device))?;
            objective.before_step(step);
            self.replicas.push(Replica { objective, model, device });
        }
        Ok(())
    }
}
