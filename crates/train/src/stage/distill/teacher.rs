use std::fmt::Debug;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor};
use checkpoint::Checkpoint;
use moe_thinker::ThinkerConfig;
use omni_core::Dtype;

use super::lessons::Lessons;
use super::vocabulary::{Vocabulary, refuse_other};
use crate::loss::top_k;
use crate::model::{Sample, ThinkerModel};
use crate::{Error, Result};

/// A source of logits that a student learns to imitate; any model with the student's vocabulary can be one.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use qwen3_omni_train::stage::{Lessons, Teacher, TeacherLogits};
///
/// /// Finds every token of a vocabulary of a thousand equally likely.
/// #[derive(Debug)]
/// struct Undecided;
///
/// impl Teacher for Undecided {
///     fn logits(&self, lessons: &Lessons) -> qwen3_omni_train::Result<TeacherLogits> {
///         let rows = lessons.samples.iter().map(|sample| sample.learned()).sum();
///         Ok(TeacherLogits { logits: Tensor::zeros([rows, 1000], &Device::default()), ids: None })
///     }
/// }
/// ```
pub trait Teacher: Debug + Send + Sync {
    /// Logits of all rows that carry loss, one conversation after another.
    ///
    /// # Errors
    /// [`Error::Data`] or [`Error::Batch`] for a conversation that the teacher cannot judge.
    fn logits(&self, lessons: &Lessons) -> Result<TeacherLogits>;

    /// Whether it can judge answers that it has not seen before.
    fn knows_new_answers(&self) -> bool {
        true
    }
}

/// What a teacher gives.
#[derive(Debug, Clone)]
pub struct TeacherLogits {
    /// Logits of the whole vocabulary, `[rows, V]`, or of some ids, `[rows, k]`.
    pub logits: Tensor<2>,
    /// Which ids these are, `[rows, k]`; `None` for all.
    pub ids: Option<Tensor<2, Int>>,
}

impl TeacherLogits {
    /// Ids and logits of the `k` best of each row, `[rows, k]` each; a teacher who gives some ids must give as many.
    ///
    /// # Errors
    /// [`Error::Option`] for more than there are, or 0.
    pub fn best(self, k: usize) -> Result<(Tensor<2, Int>, Tensor<2>)> {
        let [_, width] = self.logits.dims();
        match self.ids {
            Some(_) if k != width => Err(other_top_k(k, format!("{width}, as many as are stored"))),
            Some(ids) => Ok((ids, self.logits)),
            None if k == 0 || k > width => Err(other_top_k(k, format!("1 to {width}, the vocabulary"))),
            None => Ok(top_k(self.logits, k)),
        }
    }
}

/// Refuses more logits of a row than a checkpoint gives, without loading it.
pub(super) fn check_top_k(checkpoint: &Checkpoint, k: usize) -> Result<()> {
    let vocabulary = checkpoint.config().section::<ThinkerConfig>()?.text.vocab_size;
    match k == 0 || k > vocabulary {
        true => Err(other_top_k(k, format!("1 to {vocabulary}, the vocabulary"))),
        false => Ok(()),
    }
}

fn other_top_k(k: usize, expected: String) -> Error {
    Error::Option { name: "top_k", reason: format!("{k}, expected {expected}") }
}

/// Another checkpoint, of any size, with the student's vocabulary.
#[derive(Debug)]
pub struct CheckpointTeacher {
    model: ThinkerModel,
}

impl CheckpointTeacher {
    /// Loads a checkpoint that is to teach another one; `device` is one without gradients.
    ///
    /// # Errors
    /// The errors of the checkpoint, and [`Error::Option`] naming the first id that means something else to the student.
    pub fn open(directory: &Path, student: &Path, device: &Device, dtype: Dtype) -> Result<Self> {
        refuse_other(&Vocabulary::open(student)?, &Vocabulary::open(directory)?)?;
        Self::load(directory, device, dtype)
    }

    /// Loads a checkpoint of which the `k` best logits are to be stored.
    ///
    /// # Errors
    /// The errors of the checkpoint, and [`Error::Option`] for a `k` beyond the vocabulary, or 0.
    pub fn to_store(directory: &Path, k: usize, device: &Device, dtype: Dtype) -> Result<Self> {
        check_top_k(&Checkpoint::open(directory)?, k)?;
        Self::load(directory, device, dtype)
    }

    fn load(directory: &Path, device: &Device, dtype: Dtype) -> Result<Self> {
        Ok(Self { model: ThinkerModel::from_checkpoint(&Checkpoint::open(directory)?, device, dtype)? })
    }
}

impl Teacher for CheckpointTeacher {
    fn logits(&self, lessons: &Lessons) -> Result<TeacherLogits> {
        let samples: Vec<Sample> = lessons.samples.iter().map(Sample::inner).collect();
        Ok(TeacherLogits { logits: self.model.forward(&samples, false)?.logits, ids: None })
    }
}
