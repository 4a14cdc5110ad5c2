//! Checkpoints from a hub.

mod checksum;
mod hub;
mod progress;

use std::path::{Path, PathBuf};

use clap::Args;
use qwen3_omni::{Component, Dtype, Error, OmniCheckpoint, Result};
use weights_tools::commands::{Output, Watch, note};
use weights_tools::quantize::{self, Plan, Recipe};

use hub::Hub;

/// Download a checkpoint from a hub, and pack it if a recipe is given
///
/// An interrupted download is resumed by the same command. Files are checked against the hub's checksums. Prints the directory for --model.
#[derive(Debug, Args)]
#[command(after_help = "Example: qwen3-omni pull Qwen/Qwen3-Omni-30B-A3B-Instruct --recipe 24gb\n\n\
    HF_TOKEN, or the token that `hf auth login` keeps, opens repositories that ask for one; HF_HOME is where files are kept.")]
pub struct Pull {
    /// OWNER/NAME
    #[arg(value_name = "REPO", value_parser = repository)]
    repository: String,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    revision: String,
    /// 24gb, 48gb or 80gb: then pack the weights for a GPU of this size, or for the CPU
    #[arg(long)]
    recipe: Option<Recipe>,
    /// Address of the hub
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    endpoint: String,
    /// Directory to make [default: in the hub's own cache; with a recipe, in the cache of this program]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

fn repository(name: &str) -> Result<String, String> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let is_named = name.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name));
    if is_named { Ok(name.to_owned()) } else { Err("expected OWNER/NAME".into()) }
}

impl Pull {
    /// Downloads and packs.
    pub fn run(self, out: &Output) -> Result<bool> {
        // Asked first, rather than after hours of downloading.
        let packed = self.recipe.map(|recipe| self.packed(recipe)).transpose()?;
        let hub = Hub::new(&self.endpoint, &self.repository, &self.revision)?;
        let downloaded = match (&self.to, self.recipe) {
            (Some(directory), None) => hub.download_to(directory)?,
            _ => hub.download()?,
        };
        OmniCheckpoint::open(&downloaded)?.check(&Component::ALL)?;
        let directory = match (self.recipe, packed) {
            (Some(recipe), Some(packed)) => pack(downloaded, packed, recipe)?,
            _ => downloaded,
        };
        out.line(directory.display());
        Ok(true)
    }

    /// Where the packed checkpoint goes.
    fn packed(&self, recipe: Recipe) -> Result<PathBuf> {
        if let Some(directory) = &self.to {
            return Ok(directory.clone());
        }
        let cache =
            dirs::cache_dir().ok_or_else(|| Error::Request("this user has no cache: --to names a directory".into()))?;
        Ok(cache.join("qwen3-omni").join("models").join(format!("{}-{recipe}", self.repository.replace('/', "--"))))
    }
}

fn pack(source: PathBuf, out: PathBuf, recipe: Recipe) -> Result<PathBuf> {
    if OmniCheckpoint::open(&out).is_ok() {
        note(format_args!("{} is there already", out.display()));
        return Ok(out);
    }
    make_parent(&out)?;
    let plan = Plan { recipe: Some(recipe), ..Plan::default() };
    let (dtype, shard_bytes) = (Dtype::Bf16, 5_000_000_000);
    let options = quantize::Options { source, out, plan, dtype, shard_bytes, restart: false };
    let mut watch = Watch::begin(&options.out)?;
    quantize::quantize(&options, |progress| watch.show(progress))?;
    drop(watch);
    Ok(options.out)
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|source| Error::io(parent, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_have_an_owner_and_a_name() {
        assert!(repository("Qwen/Qwen3-Omni-30B-A3B-Instruct").is_ok());
        for name in ["Qwen3-Omni", "a/b/c", "../b", "a/..", "a b/c", "https://huggingface.co/a/b", "/a"] {
            assert!(repository(name).is_err(), "{name}");
        }
    }
}
