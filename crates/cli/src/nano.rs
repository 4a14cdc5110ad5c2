//! The toy model inside the program.
//!
//! `nano/` is `examples/assets/nano` with linear layers of 8 bits, which answers alike and fits a package:
//!
//! ```sh
//! cargo run --release -p qwen3-omni-weights-tools -- quantize examples/assets/nano crates/cli/nano --bits 8 \
//!     --only thinker,audio-encoder,vision-encoder,talker,code-predictor,code2wav
//! ```

use std::path::{Path, PathBuf};

use qwen3_omni::{Error, Result};

macro_rules! files {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("../nano/", $name)).as_slice())),*]
    };
}

const FILES: [(&str, &[u8]); 9] = files!(
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model-00001-of-00001.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.json"
);

/// Folder of the files, within that of this program.
const FOLDER: &str = concat!("nano-", env!("CARGO_PKG_VERSION"));

/// The directory of the model: models are mapped, so they must lie in files. They are written once, into the user's cache, or where
/// there is none into the folder for temporary files.
///
/// # Errors
/// [`Error::Io`] if they can be written nowhere.
pub fn directory() -> Result<PathBuf> {
    let cache = dirs::cache_dir().map(|cache| cache.join("qwen3-omni").join(FOLDER));
    if let Some(cache) = cache.filter(|cache| write(cache).is_ok()) {
        return Ok(cache);
    }
    let temporary = std::env::temp_dir().join(format!("qwen3-omni-{FOLDER}"));
    write(&temporary)?;
    Ok(temporary)
}

/// Writes every file that is not there as it should be. It appears under its name when it is whole, and a program that has mapped an old
/// one keeps that.
fn write(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|source| Error::io(directory, source))?;
    for (name, bytes) in FILES {
        let path = directory.join(name);
        if std::fs::read(&path).is_ok_and(|found| found == bytes) {
            continue;
        }
        let partial = directory.join(format!(".{name}.{}.partial", std::process::id()));
        let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, &path));
        if let Err(source) = written {
            let _ = std::fs::remove_file(&partial);
            return Err(Error::io(path, source));
        }
    }
    Ok(())
}
