//! One checkpoint of parts that were trained apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use qwen3_omni::checkpoint::Checkpoint;
use qwen3_omni::{Error, Result};
use safetensors::tensor::TensorView;

use crate::files::io;

/// Put parts that were trained apart into one checkpoint: everything of the first, and what begins with a name from others
#[derive(Args)]
pub(crate) struct Join {
    /// Checkpoint whose other parts and files are taken
    model: PathBuf,
    /// Directory to make
    out: PathBuf,
    /// A checkpoint of the same sizes, and the beginning of the names of its tensors, as code2wav.=DIR
    #[arg(long, required = true, value_name = "PREFIX=DIR")]
    part: Vec<String>,
}

/// The encoder of a codec, which goes with its vocoder.
const CODEC: [&str; 2] = ["codec-encoder.safetensors", "codec-encoder.json"];

impl Join {
    pub(crate) fn run(&self) -> Result<()> {
        let base = Checkpoint::open(&self.model)?;
        let mut parts = Vec::new();
        for part in &self.part {
            let (prefix, directory) =
                part.split_once('=').ok_or_else(|| Error::Request(format!("--part {part}: expected PREFIX=DIR")))?;
            parts.push((prefix, Path::new(directory), Checkpoint::open(directory)?));
        }
        std::fs::create_dir(&self.out).map_err(io(&self.out))?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in base.tensors() {
            let from = parts.iter().find(|(prefix, ..)| name.starts_with(prefix)).map_or(&base, |(.., other)| other);
            let found = from.tensors().get(name).filter(|found| found.shape == tensor.shape);
            let found =
                found.ok_or_else(|| Error::Config(format!("`{name}`: not in the part, or of another shape")))?;
            let view = TensorView::new(found.dtype, found.shape.clone(), from.bytes(found));
            tensors.insert(name, view.map_err(|error| Error::Config(format!("`{name}`: {error}")))?);
        }
        let path = self.out.join("model.safetensors");
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(tensors, Some(metadata), &path)
            .map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
        for entry in std::fs::read_dir(&self.model).map_err(io(&self.model))? {
            let from = entry.map_err(io(&self.model))?.path();
            let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if from.is_file() && !name.contains(".safetensors") {
                self.copy(&from, &name)?;
            }
        }
        for (_, directory, _) in &parts {
            for name in CODEC.iter().filter(|name| directory.join(name).is_file()) {
                self.copy(&directory.join(name), name)?;
            }
        }
        println!("{}", self.out.display());
        Ok(())
    }

    fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let to = self.out.join(name);
        std::fs::copy(from, &to).map(drop).map_err(io(&to))
    }
}
