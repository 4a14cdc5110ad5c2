use std::cell::{Cell, RefCell};
use std::rc::Rc;

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use half::{bf16, f16};
use omni_core::{Dtype, Error, Result};

use crate::{Checkpoint, CheckpointError};

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Tensors read so far.
    pub tensors: usize,
    /// Bytes read from disk so far.
    pub bytes: usize,
}

/// Called after each tensor (each layer of experts counts as one call).
pub type ProgressFn<'a> = dyn FnMut(LoadProgress) + 'a;

/// Hands tensors to the models, by name, on a device and in the number type of the computation.
///
/// The names are relative: [`Weights::at`] descends into a module. `[out, in]` matrices stay as they lie on disk.
#[derive(Clone)]
pub struct Weights<'a> {
    source: Source<'a>,
    device: Device,
    dtype: Dtype,
    prefix: String,
    done: Rc<Cell<LoadProgress>>,
    progress: Option<Rc<RefCell<Box<ProgressFn<'a>>>>>,
}

#[derive(Clone)]
enum Source<'a> {
    Disk(&'a Checkpoint),
    Random,
}

impl<'a> Weights<'a> {
    /// Tensors of a checkpoint. Call [`Checkpoint::check`] first.
    pub fn new(checkpoint: &'a Checkpoint, device: &Device, dtype: Dtype) -> Self {
        Self::from_source(Source::Disk(checkpoint), device, dtype)
    }

    /// Random tensors of whatever name and shape is asked for, for benchmarks and tests without a checkpoint.
    ///
    /// Values are uniform, scaled so that activations stay in range; vectors lie around 1.
    pub fn random(device: &Device, dtype: Dtype) -> Self {
        Self::from_source(Source::Random, device, dtype)
    }

    fn from_source(source: Source<'a>, device: &Device, dtype: Dtype) -> Self {
        let done = Rc::new(Cell::new(LoadProgress { tensors: 0, bytes: 0 }));
        Self { source, device: device.clone(), dtype, prefix: String::new(), done, progress: None }
    }

    /// Reports progress to `callback`.
    pub fn with_progress(mut self, callback: impl FnMut(LoadProgress) + 'a) -> Self {
        self.progress = Some(Rc::new(RefCell::new(Box::new(callback))));
        self
    }

    /// The same source, one module further down: `weights.at("model").at("layers.0")`.
    pub fn at(&self, module: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{module}.", self.prefix), ..self.clone() }
    }

    /// The device tensors are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number type tensors are made in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// One tensor.
    ///
    /// # Errors
    /// [`Error::Weights`] if it is absent, has another shape, or a number type that cannot be read.
    pub fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>> {
        let name = format!("{}{name}", self.prefix);
        let tensor = match self.source {
            Source::Disk(checkpoint) => {
                let mut buffer = Buffer::new(self.dtype, shape.iter().product());
                self.read(checkpoint, &name, &shape, &mut buffer)?;
                buffer.upload(shape, &self.device, self.dtype)
            }
            Source::Random => self.draw(shape),
        };
        self.report();
        Ok(tensor)
    }

    /// Matrices of all experts of a layer, packed to `[E, sum of rows, columns]`.
    ///
    /// For each expert `e` the matrices `experts.{e}.{part}.weight`, each `[rows, columns]`, are laid below one another.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn experts(&self, experts: usize, parts: &[&str], [rows, columns]: [usize; 2]) -> Result<Tensor<3>> {
        let shape = [experts, parts.len() * rows, columns];
        let tensor = match self.source {
            Source::Disk(checkpoint) => {
                let mut buffer = Buffer::new(self.dtype, shape.iter().product());
                for expert in 0..experts {
                    for part in parts {
                        let name = format!("{}experts.{expert}.{part}.weight", self.prefix);
                        self.read(checkpoint, &name, &[rows, columns], &mut buffer)?;
                    }
                }
                buffer.upload(shape, &self.device, self.dtype)
            }
            Source::Random => self.draw(shape),
        };
        self.report();
        Ok(tensor)
    }

    fn read(&self, checkpoint: &Checkpoint, name: &str, shape: &[usize], buffer: &mut Buffer) -> Result<()> {
        let tensor = checkpoint.tensors().get(name);
        let tensor =
            tensor.ok_or_else(|| Error::Weights(format!("tensor `{name}` {shape:?} is not in the checkpoint")))?;
        if tensor.shape != shape {
            return Err(Error::Weights(format!("tensor `{name}`: expected {shape:?}, found {:?}", tensor.shape)));
        }
        let dtype = tensor.float_type().ok_or_else(|| -> CheckpointError { checkpoint.unreadable(name, tensor) })?;
        buffer.append(checkpoint.bytes(tensor), dtype);
        let LoadProgress { tensors, bytes } = self.done.get();
        self.done.set(LoadProgress { tensors: tensors + 1, bytes: bytes + tensor.len() });
        Ok(())
    }

    fn draw<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let (low, high) = match D {
            1 => (0.5, 1.5),
            _ => {
                let bound = (3.0 / shape[D - 1] as f64).sqrt();
                (-bound, bound)
            }
        };
        Tensor::random(shape, Distribution::Uniform(low, high), (&self.device, self.dtype.into()))
    }

    fn report(&self) {
        if let Some(callback) = &self.progress {
            (callback.borrow_mut())(self.done.get());
        }
    }
}

/// Host memory of one tensor (or one layer's experts) in the number type of the computation.
enum Buffer {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Buffer {
    fn new(dtype: Dtype, elements: usize) -> Self {
        match dtype {
            Dtype::F32 => Buffer::F32(Vec::with_capacity(elements)),
            Dtype::Bf16 => Buffer::Bf16(Vec::with_capacity(elements)),
            Dtype::F16 => Buffer::F16(Vec::with_capacity(elements)),
        }
    }

    fn append(&mut self, bytes: &[u8], stored: Dtype) {
        match self {
            Buffer::F32(out) => extend(out, bytes, stored, |x| x, bf16::to_f32, f16::to_f32),
            Buffer::Bf16(out) => extend(out, bytes, stored, bf16::from_f32, |x| x, |x| bf16::from_f32(x.to_f32())),
            Buffer::F16(out) => extend(out, bytes, stored, f16::from_f32, |x| f16::from_f32(x.to_f32()), |x| x),
        }
    }

    fn upload<const D: usize>(self, shape: [usize; D], device: &Device, dtype: Dtype) -> Tensor<D> {
        let data = match self {
            Buffer::F32(values) => TensorData::new(values, shape),
            Buffer::Bf16(values) => TensorData::new(values, shape),
            Buffer::F16(values) => TensorData::new(values, shape),
        };
        Tensor::from_data(data, (device, dtype.into()))
    }
}

/// Appends little-endian numbers of the stored type, converted.
fn extend<T>(
    out: &mut Vec<T>,
    bytes: &[u8],
    stored: Dtype,
    from_f32: impl Fn(f32) -> T,
    from_bf16: impl Fn(bf16) -> T,
    from_f16: impl Fn(f16) -> T,
) {
    let (fours, _) = bytes.as_chunks::<4>();
    let (twos, _) = bytes.as_chunks::<2>();
    match stored {
        Dtype::F32 => out.extend(fours.iter().map(|b| from_f32(f32::from_le_bytes(*b)))),
        Dtype::Bf16 => out.extend(twos.iter().map(|b| from_bf16(bf16::from_le_bytes(*b)))),
        Dtype::F16 => out.extend(twos.iter().map(|b| from_f16(f16::from_le_bytes(*b)))),
    }
}
