//! Adapters (LoRA) in PEFT's form, merged into the tensors of a checkpoint as they are read.
//!
//! An adapter is a directory with `adapter_config.json` and `adapter_model.safetensors`. For the matrix `W` `[out, in]` of a module it
//! has two factors, `A` `[r, in]` and `B` `[out, r]`, and stands for `W + (α / r) B A` (Hu et al., 2021).

mod change;
mod config;
mod keys;
mod merge;
mod target;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::shard::{Tensor, map_shard};
use crate::weights::buffer::Buffer;
use crate::{CheckpointError, Dtype};
pub(crate) use change::Change;
use config::Settings;
use keys::{Factor, Role, role};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Bytes whose values are checked at a time.
const PIECE: usize = 1 << 20;

/// An opened adapter: settings read, file mapped, names paired and values found to be numbers.
///
/// ```no_run
/// use qwen3_omni_checkpoint::{Adapter, Checkpoint};
///
/// let mut checkpoint = Checkpoint::open("model")?;
/// // Names in the adapter are those on disk here; transformers has others for some modules.
/// checkpoint.add_adapter(Adapter::open("adapter")?, |name| vec![name.to_owned()])?;
/// let merged = checkpoint.contents("thinker.lm_head.weight")?; // in the number type on disk
/// # Ok::<(), qwen3_omni_checkpoint::CheckpointError>(())
/// ```
#[derive(Debug)]
pub struct Adapter {
    path: PathBuf,
    settings: Settings,
    map: Mmap,
    /// Factors by the module's name in the adapter.
    factors: BTreeMap<String, Factors>,
    /// Tensors that replace the checkpoint's, by their names in the adapter.
    whole: BTreeMap<String, Named>,
}

/// A tensor of the adapter under its name in the file.
#[derive(Debug, Clone)]
struct Named {
    key: String,
    tensor: Tensor,
    dtype: Dtype,
}

/// The two factors of a module.
#[derive(Debug)]
struct Factors {
    a: Named,
    b: Named,
    /// Whether they are of a table of embeddings, which PEFT stores transposed.
    is_table: bool,
}

impl Adapter {
    /// The names of an adapter's files: its settings and its tensors.
    pub const FILES: [&str; 2] = [CONFIG, WEIGHTS];

    /// Opens a directory that PEFT, or `qwen3-omni-train`, has written.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] for a file that is not there; [`CheckpointError::Json`] naming the setting that is wrong or that makes the
    /// adapter something else than LoRA; [`CheckpointError::Adapter`] naming the tensor that has no partner, an unknown name, or a value
    /// that is not a number.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let directory = directory.as_ref();
        let settings = Settings::read(&directory.join(CONFIG))?;
        let path = directory.join(WEIGHTS);
        let (map, tensors) = map_shard(&path, 0)?;
        let mut adapter = Self { path, settings, map, factors: BTreeMap::new(), whole: BTreeMap::new() };
        adapter.sort(tensors)?;
        Ok(adapter)
    }

    /// The path of the file with the tensors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The class that was adapted, if PEFT has written it down: the name decides what the names of modules begin at.
    pub fn base_class(&self) -> Option<&str> {
        self.settings.base_class.as_deref()
    }

    /// Pairs the factors of each module.
    fn sort(&mut self, tensors: Vec<(String, Tensor)>) -> Result<(), CheckpointError> {
        let mut pairs: BTreeMap<(String, bool), [Option<Named>; 2]> = BTreeMap::new();
        let mut tensors = tensors;
        // The error is the same whatever the order in the file.
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, tensor) in tensors {
            let named = self.named(key, tensor)?;
            let before = match role(&named.key).map_err(|fault| self.wrong(&fault.at, fault.reason))? {
                Role::Whole(name) => self.whole.insert(name, named.clone()),
                Role::Factor { module, factor, is_table } => {
                    let pair = pairs.entry((module, is_table)).or_default();
                    pair[usize::from(factor == Factor::B)].replace(named.clone())
                }
            };
            if let Some(before) = before {
                return Err(self.wrong(&named.key, format!("and `{}` are the same tensor under two names", before.key)));
            }
        }
        for ((module, is_table), pair) in pairs {
            let factors = match pair {
                [Some(a), Some(b)] => Factors { a, b, is_table },
                [one, other] => {
                    let (has, lacks) = if one.is_some() { ("A", "B") } else { ("B", "A") };
                    let key = one.or(other).map(|named| named.key).unwrap_or_default();
                    let partner = key.replace(&format!("_{has}"), &format!("_{lacks}"));
                    return Err(self.wrong(&key, format!("has no partner: expected `{partner}` beside it")));
                }
            };
            if let Some(before) = self.factors.insert(module, factors) {
                return Err(self.wrong(&before.a.key, "is a factor of a matrix that is also adapted as a table".into()));
            }
        }
        Ok(())
    }

    fn named(&self, key: String, tensor: Tensor) -> Result<Named, CheckpointError> {
        let Some(dtype) = tensor.float_type() else {
            let dtype = format!("{:?}", tensor.dtype);
            return Err(CheckpointError::Dtype {
                name: key,
                path: self.path.clone(),
                dtype,
                expected: "BF16, F16 or F32",
            });
        };
        // Shapes of tensors with values have no product that overflows.
        if tensor.is_empty() {
            return Err(self.wrong(&key, format!("{:?} has no values", tensor.shape)));
        }
        let named = Named { key, tensor, dtype };
        match self.not_finite(&named) {
            Some((index, value)) => {
                Err(self.wrong(&named.key, format!("has {value} as value {index}, expected finite numbers")))
            }
            None => Ok(named),
        }
    }

    /// The first value that is infinite or not a number.
    fn not_finite(&self, named: &Named) -> Option<(usize, f32)> {
        self.bytes(named).chunks(PIECE).enumerate().find_map(|(piece, bytes)| {
            let values = floats(bytes, named.dtype);
            let at = values.iter().position(|value| !value.is_finite())?;
            Some((piece * PIECE / named.dtype.size() + at, values[at]))
        })
    }

    fn bytes(&self, named: &Named) -> &[u8] {
        &self.map[named.tensor.bytes.clone()]
    }

    fn wrong(&self, key: &str, reason: String) -> CheckpointError {
        CheckpointError::Adapter { path: self.path.clone(), name: key.to_owned(), reason }
    }
}

/// Little-endian numbers of a type, as f32.
fn floats(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let mut buffer = Buffer::new(Dtype::F32, bytes.len() / dtype.size());
    buffer.append(bytes, dtype);
    buffer.into_f32()
}
