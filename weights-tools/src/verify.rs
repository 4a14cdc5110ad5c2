//! Recomputes golden cases of the reference implementation and compares every tensor; see [`testkit::parity`].

use std::path::PathBuf;

use omni_core::{Dtype, Error, Place, Result};
use qwen3_omni::Device;
use testkit::parity;

pub use testkit::parity::{CaseReport, Check, Outcome};

/// What to verify, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkpoint directory.
    pub model: PathBuf,
    /// The golden directory.
    pub golden: PathBuf,
    /// Only cases whose name starts with one of these; empty for all.
    pub only: Vec<String>,
    /// Where the model runs.
    pub device: Device,
    /// The engine; by default that of host memory on the CPU, and that of tensors elsewhere.
    pub engine: Option<Engine>,
    /// The number type of the computation.
    pub dtype: Dtype,
    /// The reference's own errors in that number type, which bound ours; needed for all but f32.
    pub reference_errors: Option<PathBuf>,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The kernels of host memory.
    Host,
    /// burn's tensors.
    Device,
}

impl Options {
    /// All cases of a directory, in f32 on the CPU.
    pub fn new(model: impl Into<PathBuf>, golden: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            golden: golden.into(),
            only: Vec::new(),
            device: Device::Cpu,
            engine: None,
            dtype: Dtype::F32,
            reference_errors: None,
        }
    }

    /// The same on an open device.
    ///
    /// # Errors
    /// [`Error::Device`] for an absent device, [`Error::Request`] for an engine that does not compute there.
    pub(crate) fn open(&self) -> Result<parity::Options> {
        let place = match (self.device.place(self.dtype)?, self.engine) {
            (Place::Host(device), Some(Engine::Device)) => Place::Device(device),
            (Place::Device(_), Some(Engine::Host)) => {
                let reason = format!("the engine of host memory does not compute on {}", self.device);
                return Err(Error::Request(reason));
            }
            (place, _) => place,
        };
        Ok(parity::Options {
            only: self.only.clone(),
            dtype: self.dtype,
            // GPUs add up in other orders.
            slack: if self.device == Device::Cpu { 1.0 } else { 10.0 },
            reference_errors: self.reference_errors.clone(),
            ..parity::Options::new(&self.model, &self.golden, place)
        })
    }
}

/// Runs every case of the directory, calling `report` after each.
///
/// # Errors
/// If the device, the checkpoint or the golden directory cannot be opened, or a prefix selects no case.
pub fn run(options: &Options, report: impl FnMut(&CaseReport)) -> Result<Vec<CaseReport>> {
    parity::run(&options.open()?, report)
}
