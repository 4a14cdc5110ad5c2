//! What a checkpoint is, and what is missing or odd about it.

use std::collections::BTreeMap;
use std::path::Path;

use checkpoint::{Checkpoint, Component, OmniConfig, TensorReport, expected};
use omni_core::{Error, Result};
use serde::Serialize;

/// The released config, from which the released names and shapes follow.
const RELEASED: &str = include_str!("released_config.json");

/// What `inspect` finds.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// `Instruct`, or `Thinking or Captioner` for a checkpoint without audio output.
    pub variant: &'static str,
    /// Shard files.
    pub shards: usize,
    /// Number type as `config.json` names it.
    pub config_dtype: Option<String>,
    /// Parts, in the order of the pipeline.
    pub components: Vec<ComponentSummary>,
    /// Differences between disk and config (or the released list), one line each.
    pub odd: Vec<String>,
}

/// One part of the model on disk.
#[derive(Debug, Serialize)]
pub struct ComponentSummary {
    /// The part.
    pub component: &'static str,
    /// Tensors on disk.
    pub tensors: usize,
    /// Parameters on disk.
    pub parameters: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Number types on disk, with the number of tensors of each.
    pub dtypes: BTreeMap<String, usize>,
}

/// What a checkpoint is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expect {
    /// Its own config.
    #[default]
    Config,
    /// The released Instruct checkpoint.
    Released,
}

/// Looks at a checkpoint directory; no weight is read.
///
/// # Errors
/// If the directory cannot be opened as a checkpoint.
pub fn inspect(directory: &Path, expect: Expect) -> Result<Inspection> {
    let checkpoint = Checkpoint::open(directory)?;
    let config = checkpoint.config();
    let report = match expect {
        Expect::Config => checkpoint.report(&Component::ALL),
        Expect::Released => against(&checkpoint, &released_config()?),
    };
    let mut odd = lines(&report);
    odd.extend(unreadable(&checkpoint));
    let present = Component::ALL.into_iter().map(|component| summary(&checkpoint, component));
    Ok(Inspection {
        variant: if config.enable_audio_output { "Instruct" } else { "Thinking or Captioner" },
        shards: checkpoint.shards(),
        config_dtype: config.dtype.clone(),
        components: present.filter(|summary| summary.tensors > 0).collect(),
        odd,
    })
}

fn released_config() -> Result<OmniConfig> {
    serde_json::from_str(RELEASED).map_err(|error| Error::Config(format!("the built-in released config: {error}")))
}

fn against(checkpoint: &Checkpoint, config: &OmniConfig) -> TensorReport {
    let mut wanted = expected(config);
    let mut report = TensorReport::default();
    for (name, tensor) in checkpoint.tensors() {
        match wanted.remove(name) {
            None => report.unexpected.push((name.clone(), tensor.shape.clone())),
            Some(shape) if shape != tensor.shape => report.mismatched.push(checkpoint::Mismatch {
                name: name.clone(),
                expected: shape,
                found: tensor.shape.clone(),
            }),
            Some(_) => {}
        }
    }
    report.missing = wanted.into_iter().collect();
    report
}

fn lines(report: &TensorReport) -> Vec<String> {
    if report.is_clean() {
        return Vec::new();
    }
    report.to_string().lines().map(|line| line.trim().to_owned()).collect()
}

fn unreadable(checkpoint: &Checkpoint) -> Vec<String> {
    let odd = checkpoint.tensors().iter().filter(|(_, tensor)| tensor.float_type().is_none());
    odd.map(|(name, tensor)| format!("unreadable {name}: number type {:?}, expected BF16, F16 or F32", tensor.dtype))
        .collect()
}

fn summary(checkpoint: &Checkpoint, component: Component) -> ComponentSummary {
    let mut summary =
        ComponentSummary { component: component.name(), tensors: 0, parameters: 0, bytes: 0, dtypes: BTreeMap::new() };
    for (_, tensor) in checkpoint.tensors().iter().filter(|(name, _)| Component::of(name) == Some(component)) {
        summary.tensors += 1;
        summary.parameters += tensor.shape.iter().map(|n| *n as u64).product::<u64>();
        summary.bytes += tensor.len() as u64;
        *summary.dtypes.entry(format!("{:?}", tensor.dtype)).or_default() += 1;
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_checkpoint_is_whole_but_not_the_released_one() {
        let whole = inspect(&testkit::tiny(), Expect::Config).unwrap();
        assert_eq!((whole.variant, whole.shards, whole.odd.as_slice()), ("Instruct", 3, [].as_slice()));
        assert_eq!(whole.components.iter().map(|c| c.tensors).sum::<usize>(), 567);
        assert_eq!(whole.components.iter().map(|c| c.parameters).sum::<u64>(), 1_454_429);
        let released = inspect(&testkit::tiny(), Expect::Released).unwrap();
        assert!(released.odd[0].contains("missing"), "{}", released.odd[0]);
    }
}
