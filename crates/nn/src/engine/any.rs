//! The engine of a loaded model: one of the two.

use checkpoint::Weights;
use omni_core::{Dtype, Place};

use super::device::DeviceEngine;
use super::host::HostEngine;

/// The engine a model was loaded for.
#[derive(Debug, Clone)]
pub enum AnyEngine {
    /// Computes in host memory.
    Host(HostEngine),
    /// Computes on a device.
    Device(DeviceEngine),
}

impl AnyEngine {
    /// The engine of the place and number type that weights are loaded for.
    pub fn of(weights: &Weights) -> Self {
        match weights.place() {
            Place::Host(device) => AnyEngine::Host(HostEngine::new(device, weights.compute_dtype() != Dtype::F32)),
            Place::Device(device) => AnyEngine::Device(DeviceEngine::new(device, weights.tensor_dtype())),
        }
    }

    /// The device of tensors that cross crate borders, and their number type.
    pub fn tensors(&self) -> (burn::tensor::Device, Dtype) {
        match self {
            AnyEngine::Host(engine) => (engine.device().clone(), Dtype::F32),
            AnyEngine::Device(engine) => (engine.device().clone(), engine.dtype()),
        }
    }

    /// Whether a batch of runs reads each weight once without changing the results of any run.
    pub fn batches(&self) -> bool {
        matches!(self, AnyEngine::Host(_))
    }
}

/// Runs code that is generic over [`Engine`](crate::Engine) on the engine a model was loaded for:
/// `on_engine!(self.engine, |e| self.run(e, …))`.
#[macro_export]
macro_rules! on_engine {
    ($engine:expr, |$e:ident| $body:expr) => {
        match &$engine {
            $crate::AnyEngine::Host($e) => $crate::Engine::call($e, || $body),
            $crate::AnyEngine::Device($e) => $crate::Engine::call($e, || $body),
        }
    };
}
