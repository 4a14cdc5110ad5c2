use std::fmt;
use std::path::PathBuf;

use safetensors::SafeTensorError;

/// What can be wrong with a checkpoint directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file or directory cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A JSON file lacks a key, or a key has a wrong value.
    #[error("{}: at `{at}`: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The key, as a path through the objects.
        at: String,
        /// What was found and what was expected.
        reason: String,
        /// The parser's error; `None` if the JSON is valid but its values are not.
        source: Option<serde_json::Error>,
    },
    /// There are no weights where they were expected.
    #[error("{}: {reason}", path.display())]
    NoWeights {
        /// The directory or shard.
        path: PathBuf,
        /// What was expected.
        reason: String,
    },
    /// A shard's header is damaged or does not fit the file.
    #[error("{}: {reason}", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
        /// The parser's error, if the header is what is damaged.
        source: Option<SafeTensorError>,
    },
    /// Names or shapes on disk are not what the config asks for.
    #[error("{}: {report}", path.display())]
    Tensors {
        /// The checkpoint directory.
        path: PathBuf,
        /// Every difference.
        report: TensorReport,
    },
    /// The weights are quantised in a way that cannot be read, or `quantization_config` is wrong.
    #[error("{}: `{at}` {reason}", path.display())]
    Quantization {
        /// The file.
        path: PathBuf,
        /// The key, as a path through the objects.
        at: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A tensor of a packed layer contradicts the layer's shape, its other tensors or the config.
    #[error("tensor `{name}` in {}: {reason}", path.display())]
    Packed {
        /// The tensor.
        name: String,
        /// The shard.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// A tensor of an adapter fits no tensor of the checkpoint, or its values cannot be merged.
    #[error("adapter {}: `{name}` {reason}", path.display())]
    Adapter {
        /// The adapter's file.
        path: PathBuf,
        /// The tensor's name in that file.
        name: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A tensor has a number type that cannot be read.
    #[error("tensor `{name}` in {}: number type {dtype} cannot be read; expected {expected}", path.display())]
    Dtype {
        /// The tensor.
        name: String,
        /// The shard.
        path: PathBuf,
        /// The type named in the header.
        dtype: String,
        /// The types that can be read.
        expected: &'static str,
    },
}

impl From<CheckpointError> for omni_core::Error {
    fn from(error: CheckpointError) -> Self {
        let reason = error.to_string();
        match error {
            CheckpointError::Io { path, source } => omni_core::Error::Io { path, source },
            CheckpointError::Json { .. } => omni_core::Error::config(reason).caused_by(error),
            CheckpointError::Quantization { .. } => omni_core::Error::unsupported(reason).caused_by(error),
            other => omni_core::Error::weights(reason).caused_by(other),
        }
    }
}

/// A tensor whose shape on disk is not the expected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The tensor.
    pub name: String,
    /// Shape the config asks for.
    pub expected: Vec<usize>,
    /// Shape on disk.
    pub found: Vec<usize>,
}

/// Every difference between the tensors on disk and those the config asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorReport {
    /// Expected and not on disk, with the expected shapes.
    pub missing: Vec<(String, Vec<usize>)>,
    /// On disk and not expected, with the shapes on disk.
    pub unexpected: Vec<(String, Vec<usize>)>,
    /// On disk with another shape.
    pub mismatched: Vec<Mismatch>,
}

/// Name prefixes of the tensors that make up a packed layer, in the common formats.
const PACKED: [&str; 6] = ["weight_", "qweight", "qzeros", "scales", "g_idx", "input_scale"];

impl TensorReport {
    /// Whether there is no difference.
    pub fn is_clean(&self) -> bool {
        self.is_sufficient() && self.unexpected.is_empty()
    }

    /// Whether every expected tensor is present with its shape, and no packed layer has tensors that its scheme would ignore, which
    /// would change its values.
    pub fn is_sufficient(&self) -> bool {
        let packed =
            |name: &str| name.rsplit('.').next().is_some_and(|last| PACKED.iter().any(|part| last.starts_with(part)));
        self.missing.is_empty() && self.mismatched.is_empty() && !self.unexpected.iter().any(|(name, _)| packed(name))
    }

    /// Lists up to ten tensors that no model reads.
    pub fn unused(&self) -> String {
        const SHOWN: usize = 10;
        let names: Vec<&str> = self.unexpected.iter().take(SHOWN).map(|(name, _)| name.as_str()).collect();
        let more = if self.unexpected.len() > SHOWN { ", …" } else { "" };
        format!("{} tensors are not used: {}{more}", self.unexpected.len(), names.join(", "))
    }
}

impl fmt::Display for TensorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} missing, {} unexpected and {} mismatched tensors",
            self.missing.len(),
            self.unexpected.len(),
            self.mismatched.len()
        )?;
        for (name, shape) in &self.missing {
            write!(f, "\n  missing    {name}: expected {shape:?}")?;
        }
        for (name, shape) in &self.unexpected {
            write!(f, "\n  unexpected {name}: found {shape:?}")?;
        }
        for Mismatch { name, expected, found } in &self.mismatched {
            write!(f, "\n  mismatched {name}: expected {expected:?}, found {found:?}")?;
        }
        Ok(())
    }
}
