//! Hands weights to models by name, for the place where a model computes.

pub(crate) mod buffer;
mod draw;
mod record;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor};
use omni_core::{Dtype, Error, Place, Result};

use buffer::Buffer;
use draw::{Packing, hash, xorshift};
pub use record::record;

use crate::arena::Arena;
use crate::random::{RandomCheckpoint, random_range};
use crate::stored::Bytes;
use crate::{Checkpoint, CheckpointError, Manifest, PackedTensors, Scheme, StoredMatrix, StoredTensor, TensorKind};

/// Progress of loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Tensors read so far.
    pub tensors: usize,
    /// Bytes read from disk, or drawn, so far.
    pub bytes: usize,
}

/// Called after each tensor (each layer of experts counts as one call).
pub type ProgressFn<'a> = dyn FnMut(LoadProgress) + 'a;

/// The id of the parameter that holds the tensor of this name, the same in every process: by it, gradients and optimiser state are
/// found under the names on disk.
pub fn param_id(name: &str) -> ParamId {
    ParamId::from(hash(name))
}

/// Weights by name, for the place where a model computes.
///
/// Names are relative: [`Weights::at`] descends into a module. `[out, in]` matrices keep their layout on disk.
///
/// In host memory, matrices keep the number type they are stored in ([`Weights::matrix`]); everything else is f32. The number
/// type of the computation decides there the precision of GEMMs beyond a few rows: bf16 rounds both operands, where the processor
/// has instructions for that, and converts matrices stored in f32 to bf16.
#[derive(Clone)]
pub struct Weights<'a> {
    source: Source<'a>,
    place: Place,
    dtype: Dtype,
    prefix: String,
    done: Rc<Cell<LoadProgress>>,
    /// Memory for matrices that cannot stay in a file.
    arena: Rc<RefCell<Arena>>,
    progress: Option<Rc<RefCell<Box<ProgressFn<'a>>>>>,
}

impl std::fmt::Debug for Weights<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Source<'a> {
    Disk(&'a Checkpoint),
    Random {
        packing: Packing,
        seed: u64,
    },
    /// No weights: up to `most` requests are recorded.
    Record {
        manifest: Rc<RefCell<Manifest>>,
        most: usize,
    },
}

impl<'a> Weights<'a> {
    /// Creates weights read from a checkpoint. Call [`Checkpoint::check`] first.
    pub fn new(checkpoint: &'a Checkpoint, place: &Place, dtype: Dtype) -> Self {
        Self::from_source(Source::Disk(checkpoint), place, dtype)
    }

    /// Creates random weights of any name and shape, for benchmarks and tests without a checkpoint.
    ///
    /// Values are uniform, scaled so that activations stay in range ([`crate::random_range`]).
    pub fn random(place: &Place, dtype: Dtype) -> Self {
        Self::from_source(Source::Random { packing: Packing::All(None), seed: 0 }, place, dtype)
    }

    /// Creates random weights whose matrices are packed by a scheme; see [`Weights::random`].
    pub fn random_packed(place: &Place, dtype: Dtype, scheme: Scheme) -> Self {
        Self::from_source(Source::Random { packing: Packing::All(Some(scheme)), seed: 0 }, place, dtype)
    }

    /// Creates random weights for a checkpoint of which only the config exists, packed where the config says so. Whatever is not
    /// packed is drawn on the device.
    ///
    /// Seeds the device's generator: the same seed gives the same weights on the same device, if nothing else draws there
    /// meanwhile.
    pub fn drawn(checkpoint: &RandomCheckpoint, place: &Place, dtype: Dtype, seed: u64) -> Self {
        place.device().seed(seed);
        let packing = Packing::Modules(Rc::new(checkpoint.packed.clone()));
        Self::from_source(Source::Random { packing, seed }, place, dtype)
    }

    /// Whether a model loaded from here only records its tensors and cannot compute.
    pub fn is_recording(&self) -> bool {
        matches!(self.source, Source::Record { .. })
    }

    fn from_source(source: Source<'a>, place: &Place, dtype: Dtype) -> Self {
        let done = Rc::new(Cell::new(LoadProgress { tensors: 0, bytes: 0 }));
        let (prefix, arena) = (String::new(), Rc::default());
        Self { source, place: place.clone(), dtype, prefix, done, arena, progress: None }
    }

    /// Reports progress to `callback`.
    #[must_use]
    pub fn with_progress(mut self, callback: impl FnMut(LoadProgress) + 'a) -> Self {
        self.progress = Some(Rc::new(RefCell::new(Box::new(callback))));
        self
    }

    /// The same source, one module further down: `weights.at("model").at("layers.0")`.
    #[must_use]
    pub fn at(&self, module: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{module}.", self.prefix), ..self.clone() }
    }

    /// The name of this module.
    pub fn module(&self) -> &str {
        self.prefix.trim_end_matches('.')
    }

    /// Where the model computes.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The device that tensors are created on.
    pub fn device(&self) -> &Device {
        self.place.device()
    }

    /// The number type of tensors: f32 in host memory, that of the computation elsewhere.
    pub fn tensor_dtype(&self) -> Dtype {
        if self.place.is_host() { Dtype::F32 } else { self.dtype }
    }

    /// The number type of the computation.
    pub fn compute_dtype(&self) -> Dtype {
        self.dtype
    }

    /// Reads one tensor as f32 values in host memory.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let name = format!("{}{name}", self.prefix);
        let elements = shape.iter().product();
        let values = match &self.source {
            Source::Disk(checkpoint) => {
                let mut buffer = Buffer::new(Dtype::F32, elements);
                self.read(checkpoint, &name, shape, &mut buffer)?;
                buffer.into_f32()
            }
            Source::Random { seed, .. } => {
                let (low, high) = random_range(&name, shape);
                let mut random = xorshift(seed ^ hash(&name));
                self.count(4 * elements);
                let uniform = move || (random() >> 40) as f32 / (1 << 24) as f32;
                std::iter::repeat_with(uniform).take(elements).map(|x| low + (high - low) * x).collect()
            }
            Source::Record { .. } => {
                self.note(&name, shape, TensorKind::Values)?;
                vec![0.0; elements]
            }
        };
        self.report();
        Ok(values)
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// [`Error::Weights`] if it is absent, has another shape, or a number type that cannot be read.
    pub fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>> {
        let name = format!("{}{name}", self.prefix);
        let tensor = match &self.source {
            Source::Disk(checkpoint) => {
                let mut buffer = Buffer::new(self.tensor_dtype(), shape.iter().product());
                self.read(checkpoint, &name, &shape, &mut buffer)?;
                buffer.upload(shape, self.device(), self.tensor_dtype())
            }
            Source::Random { .. } => self.draw(shape, random_range(&name, &shape)),
            Source::Record { .. } => {
                self.note(&name, &shape, TensorKind::Values)?;
                Tensor::zeros(shape, self.device())
            }
        };
        self.report();
        Ok(tensor)
    }

    /// Reads one tensor as a parameter of a module, trainable on an autodiff device; its id is the [`param_id`] of its name.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn param<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Param<Tensor<D>>> {
        if self.is_recording() {
            self.note(&format!("{}{name}", self.prefix), &shape, TensorKind::Values)?;
            return Ok(self.unallocated(shape));
        }
        Ok(self.parameter(name, self.tensor(name, shape)?))
    }

    /// Reads `weight` of this module, the matrix of a linear layer or a table, as a parameter `[out, in]`. A weight with more
    /// axes, `[out, …]`, becomes a matrix whose inputs are all axes but the first.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn matrix_param<const D: usize>(&self, shape: [usize; D], kind: TensorKind) -> Result<Param<Tensor<2>>> {
        if self.is_recording() {
            self.note(&format!("{}weight", self.prefix), &shape, kind)?;
            return Ok(self.unallocated(flat(shape)));
        }
        let values = self.tensor("weight", shape)?.reshape(flat(shape));
        Ok(self.parameter("weight", values))
    }

    fn parameter<const D: usize>(&self, name: &str, values: Tensor<D>) -> Param<Tensor<D>> {
        // Parameters are leaves of the graph, and a reshaped tensor is none.
        let values = if self.device().is_autodiff() { values.detach().require_grad() } else { values };
        Param::initialized(param_id(&format!("{}{name}", self.prefix)), values)
    }

    /// Makes a parameter that takes no memory unless it is read.
    fn unallocated<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        let zeros = move |device: &Device, _| Tensor::zeros(shape, device);
        Param::uninitialized(ParamId::new(), zeros, self.device().clone(), false, Shape::from(shape))
    }

    /// Reads `weight` of this module, the matrix of a linear layer, to host memory as it is stored, packed or not.
    ///
    /// A weight with more axes, `[out, …]`, becomes a matrix whose inputs are all axes but the first.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`], and what is wrong with a packed layer.
    pub fn matrix<const D: usize>(&self, shape: [usize; D]) -> Result<StoredMatrix> {
        let flat = flat(shape);
        let matrix = match &self.source {
            Source::Disk(checkpoint) => self.stored(checkpoint, &shape, flat)?,
            Source::Random { packing, seed } => {
                let seed = seed ^ hash(&self.prefix);
                self.draw_matrix(flat, packing.of(self.module()).filter(|_| D == 2), seed)
            }
            Source::Record { .. } => {
                self.note(&format!("{}weight", self.prefix), &shape, TensorKind::Linear)?;
                StoredMatrix::f32(flat, Bytes::copied(&vec![0; 4 * flat[0] * flat[1]]))
            }
        };
        self.report();
        Ok(matrix)
    }

    /// Makes a matrix `[out, in]` in host memory from rearranged values, in the number type that matrices have there.
    ///
    /// # Panics
    /// If the number of values is not `out * in`.
    pub fn matrix_of(&self, values: &[f32], shape: [usize; 2]) -> StoredMatrix {
        assert_eq!(values.len(), shape[0] * shape[1], "values of a matrix {shape:?}");
        let mut buffer = Buffer::new(self.matrix_type(), values.len());
        buffer.extend_from_f32(values);
        buffer.matrix(shape, &mut self.arena.borrow_mut())
    }

    /// Whether the matrix of this module's linear layer is packed on disk.
    pub fn is_packed(&self) -> bool {
        match &self.source {
            Source::Disk(checkpoint) => checkpoint.tensors().contains_key(&format!("{}weight_packed", self.prefix)),
            Source::Random { packing, .. } => packing.of(self.module()).is_some(),
            Source::Record { .. } => false,
        }
    }

    fn stored(&self, checkpoint: &Checkpoint, on_disk: &[usize], shape: [usize; 2]) -> Result<StoredMatrix> {
        if let Some(packed) = checkpoint.packed(self.module(), shape)? {
            return Ok(self.stored_packed(checkpoint, shape, packed));
        }
        let name = format!("{}weight", self.prefix);
        let stored = checkpoint.tensors().get(&name).filter(|tensor| tensor.shape == on_disk);
        // Read in place where the stored type and alignment allow it.
        match stored.map(|tensor| (tensor, tensor.float_type())) {
            Some((tensor, Some(Dtype::Bf16))) => {
                self.count(tensor.len());
                Ok(StoredMatrix::bf16(shape, self.in_place(checkpoint, &name, tensor)?))
            }
            Some((tensor, Some(Dtype::F32))) if self.matrix_type() == Dtype::F32 => {
                self.count(tensor.len());
                Ok(StoredMatrix::f32(shape, self.in_place(checkpoint, &name, tensor)?))
            }
            _ => {
                let mut buffer = Buffer::new(self.matrix_type(), shape.iter().product());
                self.read(checkpoint, &name, on_disk, &mut buffer)?;
                Ok(buffer.matrix(shape, &mut self.arena.borrow_mut()))
            }
        }
    }

    /// The bytes of a tensor where they lie in the file, or in memory if an adapter changes them.
    fn in_place(&self, checkpoint: &Checkpoint, name: &str, tensor: &StoredTensor) -> Result<Bytes> {
        match checkpoint.contents(name)? {
            Cow::Borrowed(_) => Ok(checkpoint.shared(tensor)),
            Cow::Owned(merged) => Ok(Bytes::kept(&merged, &mut self.arena.borrow_mut())),
        }
    }

    /// The number type of matrices in host memory that cannot stay as they are stored.
    fn matrix_type(&self) -> Dtype {
        if self.dtype == Dtype::Bf16 { Dtype::Bf16 } else { Dtype::F32 }
    }

    fn stored_packed(&self, checkpoint: &Checkpoint, shape: [usize; 2], packed: PackedTensors) -> StoredMatrix {
        let PackedTensors { bits, group, words, scales, zeros, group_of_input } = packed;
        self.count(words.len() + scales.len());
        let half = scales.float_type() == Some(Dtype::Bf16);
        let scale_bytes = match scales.float_type() {
            Some(Dtype::Bf16 | Dtype::F32) => checkpoint.shared(scales),
            stored => {
                let mut buffer = Buffer::new(Dtype::F32, scales.shape.iter().product());
                buffer.append(checkpoint.bytes(scales), stored.unwrap_or_default());
                buffer.bytes(&mut self.arena.borrow_mut())
            }
        };
        let words = checkpoint.shared(words);
        let sizes = [bits as usize, group];
        let matrix = StoredMatrix::packed(shape, sizes, words, (scale_bytes, half), zeros);
        match group_of_input {
            // Groups that are not neighbouring inputs: no kernel reads them in place.
            Some(groups) => self.unordered(&matrix, &groups),
            None => matrix,
        }
    }

    /// Dequantises a packed matrix whose inputs are in no order of groups.
    fn unordered(&self, matrix: &StoredMatrix, group_of_input: &[u32]) -> StoredMatrix {
        let shape = matrix.shape();
        let mut buffer = Buffer::new(self.matrix_type(), shape[0] * shape[1]);
        let mut row = vec![0.0; shape[1]];
        for output in 0..shape[0] {
            matrix.weight().row_with_groups(output, group_of_input, &mut row);
            buffer.extend_from_f32(&row);
        }
        buffer.matrix(shape, &mut self.arena.borrow_mut())
    }

    /// Reads the matrices of all experts of a layer into one tensor `[E, sum of rows, columns]`.
    ///
    /// For each expert `e`, the matrices `experts.{e}.{part}.weight`, each `[rows, columns]`, are stacked along the rows.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn experts(&self, experts: usize, parts: &[&str], [rows, columns]: [usize; 2]) -> Result<Tensor<3>> {
        let shape = [experts, parts.len() * rows, columns];
        let tensor = match &self.source {
            Source::Disk(checkpoint) => {
                let mut buffer = Buffer::new(self.tensor_dtype(), shape.iter().product());
                for expert in 0..experts {
                    for part in parts {
                        let name = format!("{}experts.{expert}.{part}.weight", self.prefix);
                        self.read(checkpoint, &name, &[rows, columns], &mut buffer)?;
                    }
                }
                buffer.upload(shape, self.device(), self.tensor_dtype())
            }
            Source::Random { .. } => self.draw(shape, random_range("weight", &[rows, columns])),
            Source::Record { .. } => {
                for (expert, part) in (0..experts).flat_map(|e| parts.iter().map(move |part| (e, part))) {
                    let name = format!("{}experts.{expert}.{part}.weight", self.prefix);
                    self.note(&name, &[rows, columns], TensorKind::Linear)?;
                }
                Tensor::zeros(shape, self.device())
            }
        };
        self.report();
        Ok(tensor)
    }

    fn draw<const D: usize>(&self, shape: [usize; D], range: (f32, f32)) -> Tensor<D> {
        self.count(shape.iter().product::<usize>() * self.tensor_dtype().size());
        draw::tensor(shape, range, self.device(), self.tensor_dtype())
    }

    fn draw_matrix(&self, shape: [usize; 2], scheme: Option<&Scheme>, seed: u64) -> StoredMatrix {
        let arena = &mut self.arena.borrow_mut();
        let (matrix, bytes) = match scheme {
            Some(scheme) => draw::packed_matrix(shape, scheme, seed, arena),
            None => {
                let matrix = draw::matrix(shape, self.matrix_type(), seed, arena);
                (matrix, shape[0] * shape[1] * self.matrix_type().size())
            }
        };
        self.count(bytes);
        matrix
    }

    fn read(&self, checkpoint: &Checkpoint, name: &str, shape: &[usize], buffer: &mut Buffer) -> Result<()> {
        let tensor = checkpoint.tensors().get(name);
        let tensor =
            tensor.ok_or_else(|| Error::weights(format!("tensor `{name}` {shape:?} is not in the checkpoint")))?;
        if tensor.shape != shape {
            return Err(Error::weights(format!("tensor `{name}`: expected {shape:?}, found {:?}", tensor.shape)));
        }
        let dtype = tensor.float_type().ok_or_else(|| -> CheckpointError { checkpoint.unreadable(name, tensor) })?;
        buffer.append(&checkpoint.contents(name)?, dtype);
        self.count(tensor.len());
        Ok(())
    }

    fn count(&self, read: usize) {
        let LoadProgress { tensors, bytes } = self.done.get();
        self.done.set(LoadProgress { tensors: tensors + 1, bytes: bytes + read });
    }

    fn report(&self) {
        if let Some(callback) = &self.progress {
            (callback.borrow_mut())(self.done.get());
        }
    }
}

/// Joins all axes but the first.
fn flat<const D: usize>(shape: [usize; D]) -> [usize; 2] {
    [shape[0], shape[1..].iter().product()]
}
