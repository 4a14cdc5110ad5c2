//! One checkpoint of parts that were trained apart, or of the thinker alone.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use qwen3_omni::checkpoint::{Checkpoint, Weights};
use qwen3_omni::{Device, Error, Result};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::files::{copy, io, read_json, write_json};

/// Put parts that were trained apart into one checkpoint: what begins with a name from others, all else from the first
#[derive(Args)]
pub(crate) struct Join {
    /// Checkpoint whose other parts and files are taken
    pub(crate) model: PathBuf,
    /// Directory to make
    pub(crate) out: PathBuf,
    /// A checkpoint of the same sizes, and the beginning of the names of its tensors, as code2wav.=DIR
    #[arg(long, required_unless_present = "text_only", value_name = "PREFIX=DIR")]
    pub(crate) part: Vec<String>,
    /// Leave out talker and vocoder, as in the variants that only write
    #[arg(long)]
    pub(crate) text_only: bool,
}

/// The encoder of a codec, which goes with its vocoder.
const CODEC: [&str; 2] = ["codec-encoder.safetensors", "codec-encoder.json"];

/// Name prefixes of the tensors that only speech needs.
const SPEAKS: [&str; 2] = ["talker.", "code2wav."];

impl Join {
    pub(crate) fn run(&self) -> Result<()> {
        let base = Checkpoint::open(&self.model)?;
        let mut parts = Vec::new();
        for part in &self.part {
            let (prefix, directory) =
                part.split_once('=').ok_or_else(|| Error::Request(format!("--part {part}: expected PREFIX=DIR")))?;
            parts.push((prefix, Path::new(directory), Checkpoint::open(directory)?));
        }
        if self.out.exists() {
            return Err(Error::Request(format!("{} is there already", self.out.display())));
        }
        let unknown =
            |(prefix, ..): &&(&str, &Path, Checkpoint)| !base.tensors().keys().any(|name| name.starts_with(prefix));
        if let Some((prefix, ..)) = parts.iter().find(unknown) {
            return Err(Error::Request(format!("--part {prefix}: no tensor's name begins so")));
        }
        // It appears under its name when all of it is there.
        let partial = self.out.with_extension("partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial).map_err(io(&partial))?;
        }
        std::fs::create_dir(&partial).map_err(io(&partial))?;
        let is_left_out = |name: &str| self.text_only && SPEAKS.iter().any(|prefix| name.starts_with(prefix));
        let mut joined = Vec::new();
        for (name, tensor) in base.tensors().iter().filter(|(name, _)| !is_left_out(name)) {
            let from = parts.iter().find(|(prefix, ..)| name.starts_with(prefix)).map_or(&base, |(.., other)| other);
            joined.push((name, joined_values(name, &tensor.shape, &base, from)?));
        }
        let mut tensors = BTreeMap::new();
        for (name, (dtype, shape, bytes)) in &joined {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            tensors.insert(name, view.map_err(|error| Error::config(format!("`{name}`: {error}")).caused_by(error))?);
        }
        let path = partial.join("model.safetensors");
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(tensors, Some(metadata), &path)
            .map_err(|error| Error::config(format!("{}: {error}", path.display())).caused_by(error))?;
        for entry in std::fs::read_dir(&self.model).map_err(io(&self.model))? {
            let from = entry.map_err(io(&self.model))?.path();
            let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_weights = name.contains(".safetensors") || (self.text_only && CODEC.contains(&name.as_str()));
            if from.is_file() && !is_weights {
                copy(&from, &partial.join(name))?;
            }
        }
        if self.text_only {
            let path = partial.join("config.json");
            let mut config = read_json(&path)?;
            config["enable_audio_output"] = false.into();
            write_json(&path, &config)?;
        }
        for (_, directory, _) in &parts {
            for name in CODEC.iter().filter(|name| directory.join(name).is_file()) {
                copy(&directory.join(name), &partial.join(name))?;
            }
        }
        std::fs::rename(&partial, &self.out).map_err(io(&self.out))?;
        println!("{}", self.out.display());
        Ok(())
    }
}

/// A tensor's number type, shape and bytes.
type Stored<'a> = (Dtype, Vec<usize>, Cow<'a, [u8]>);

/// Tensors with one row per token. A part may lack the last rows, those of tokens that were added.
const BY_TOKEN: [&str; 2] = ["thinker.model.embed_tokens.weight", "thinker.lm_head.weight"];

/// A tensor of `from`. If it is one of [`BY_TOKEN`] and has fewer rows than that of `base`, the others are `base`'s.
fn joined_values<'a>(name: &str, shape: &[usize], base: &Checkpoint, from: &'a Checkpoint) -> Result<Stored<'a>> {
    let misfit = || Error::config(format!("`{name}`: not in the part, or of another shape"));
    let found = from.tensors().get(name).ok_or_else(misfit)?;
    if found.shape == shape {
        return Ok((found.dtype, found.shape.clone(), from.bytes(found).into()));
    }
    let ([rows, width], [wanted, other]) = (&found.shape[..], shape) else { return Err(misfit()) };
    if width != other || rows > wanted || !BY_TOKEN.contains(&name) {
        return Err(misfit());
    }
    let mut values = values_of(from, name, &found.shape)?;
    values.extend_from_slice(&values_of(base, name, shape)?[rows * width..]);
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    Ok((Dtype::F32, shape.to_vec(), bytes.into()))
}

fn values_of(checkpoint: &Checkpoint, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let place = Device::Cpu.place(qwen3_omni::Dtype::F32)?;
    Weights::new(checkpoint, &place, qwen3_omni::Dtype::F32).values(name, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
        checkpoint.bytes(&checkpoint.tensors()[name]).to_vec()
    }

    /// A checkpoint of random weights.
    fn draw(config: PathBuf, out: &Path) {
        let options = weights_tools::init::Options {
            config,
            out: out.to_owned(),
            seed: 1,
            layers: None,
            dtype: qwen3_omni::Dtype::Bf16,
            plan: None,
            shard_bytes: u64::MAX,
            for_training: true,
            restart: false,
        };
        weights_tools::init::init(&options, |_| {}).unwrap();
    }

    #[test]
    fn rows_for_new_tokens_are_the_bases_own() {
        let folder = tempfile::tempdir().unwrap();
        let nano = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/nano"));
        let mut config = read_json(&nano.join("config.json")).unwrap();
        let tokens = &mut config["thinker_config"]["text_config"]["vocab_size"];
        let before = tokens.as_u64().unwrap() as usize;
        *tokens = (before + 64).into();
        let files = folder.path().join("files");
        std::fs::create_dir(&files).unwrap();
        for entry in std::fs::read_dir(nano).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !name.contains("safetensors") {
                copy(&path, &files.join(name)).unwrap();
            }
        }
        write_json(&files.join("config.json"), &config).unwrap();
        let [drawn, out] = ["drawn", "joined"].map(|name| folder.path().join(name));
        draw(files.join("config.json"), &drawn);
        let part = vec![format!("thinker.={}", nano.display())];
        Join { model: drawn.clone(), out: out.clone(), part, text_only: false }.run().unwrap();
        let [joined, nano, drawn] = [&out, nano, &drawn].map(|path| Checkpoint::open(path).unwrap());
        let name = "thinker.model.embed_tokens.weight";
        let shape = &joined.tensors()[name].shape;
        assert_eq!(shape[0], before + 64);
        let all = values_of(&joined, name, shape).unwrap();
        let (old, new) = all.split_at(before * shape[1]);
        assert!(old == values_of(&nano, name, &[before, shape[1]]).unwrap());
        assert!(new == &values_of(&drawn, name, shape).unwrap()[old.len()..]);
        let head = "talker.codec_head.weight";
        let shape = &nano.tensors()[head].shape;
        assert!(joined_values(head, &[shape[0] + 1, shape[1]], &drawn, &nano).unwrap_err().to_string().contains(head));
    }

    #[test]
    fn parts_come_from_where_they_were_trained() {
        let folder = tempfile::tempdir().unwrap();
        let nano = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/nano"));
        let drawn = folder.path().join("drawn");
        draw(nano.join("config.json"), &drawn);
        let out = folder.path().join("joined");
        let join = |prefix: &str| Join {
            model: nano.to_owned(),
            out: out.clone(),
            part: vec![format!("{prefix}={}", drawn.display())],
            text_only: false,
        };
        assert!(join("code2vaw.").run().unwrap_err().to_string().contains("code2vaw."));
        join("code2wav.").run().unwrap();
        assert!(join("code2wav.").run().unwrap_err().to_string().contains("joined"));
        let [joined, nano, drawn] = [&out, nano, &drawn].map(|path| Checkpoint::open(path).unwrap());
        for name in joined.tensors().keys() {
            let from = if name.starts_with("code2wav.") { &drawn } else { &nano };
            assert!(values(&joined, name) == values(from, name), "{name}");
        }
        assert_eq!(joined.tensors().len(), nano.tensors().len());
    }

    #[test]
    fn a_thinker_alone_answers_in_text() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("thinker");
        let nano = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/nano"));
        Join { model: nano.to_owned(), out: out.clone(), part: Vec::new(), text_only: true }.run().unwrap();
        assert!(Checkpoint::open(&out).unwrap().tensors().keys().all(|name| name.starts_with("thinker.")));
        let question = [qwen3_omni::Message::user().text("what is seven plus five")];
        let options = qwen3_omni::GenerateOptions::default().greedy();
        let reply = qwen3_omni::Omni::builder(&out).load().unwrap().generate(&question, &options).unwrap();
        assert_eq!(reply.text, "seven plus five is twelve");
        assert!(reply.speech.is_none());
    }
}
