//! What a checkpoint is, and what is missing or odd about it.

mod companions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use checkpoint::TensorReport;
use omni_core::{Dtype, PlaceKind, Result};
use qwen3_omni::{Component, OmniCheckpoint};
use serde::Serialize;

use crate::released;
pub use crate::released::RELEASED;
use crate::source::weight_files;

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
    /// Bytes a CPU holds for it, computed in the number type the config names; see [`checkpoint::MemoryEstimate`].
    pub cpu_held: u64,
    /// Bytes a CPU reads from the mapped files on top.
    pub cpu_mapped: u64,
    /// Bytes a device with memory of its own holds for it.
    pub device_held: u64,
    /// Number types on disk, with the number of tensors of each.
    pub dtypes: BTreeMap<String, usize>,
    /// How linear layers are packed, with the number of layers of each kind.
    pub packed: BTreeMap<String, usize>,
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

/// Inspects a checkpoint directory; no weight is read.
///
/// # Errors
/// If the directory cannot be opened as a checkpoint.
pub fn inspect(directory: &Path, expect: Expect) -> Result<Inspection> {
    let checkpoint = OmniCheckpoint::open(directory)?;
    let config = checkpoint.config();
    let absent = absent_shards(directory)?;
    let mut report = match expect {
        Expect::Config => checkpoint.report(&Component::ALL),
        Expect::Released => checkpoint.report_against(&released::config()?, &Component::ALL)?,
    };
    // One line says where they all are.
    let elsewhere: BTreeSet<&String> = absent.values().flatten().collect();
    report.missing.retain(|(name, _)| !elsewhere.contains(name));
    let mut odd: Vec<String> = absent.iter().map(|(shard, tensors)| absent_line(shard, tensors)).collect();
    odd.extend(lines(&report));
    odd.extend(unreadable(&checkpoint));
    odd.extend(other_types(&checkpoint));
    odd.extend(companions::companions(&checkpoint));
    let present = Component::ALL.into_iter().map(|component| summary(&checkpoint, component));
    Ok(Inspection {
        variant: if config.top.enable_audio_output { "Instruct" } else { "Thinking or Captioner" },
        shards: checkpoint.shards(),
        config_dtype: config.top.dtype.clone(),
        components: present.filter(|summary| summary.tensors > 0).collect(),
        odd,
    })
}

/// Shards that the index names but that are not there, with the tensors they should hold.
fn absent_shards(directory: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut files = weight_files(directory)?;
    files.retain(|name, _| !directory.join(name).is_file());
    Ok(files)
}

fn absent_line(shard: &str, tensors: &[String]) -> String {
    let first = tensors.first().map_or("", String::as_str);
    format!("missing shard {shard}: the index says that {} tensors are in it (`{first}`, …)", tensors.len())
}

fn lines(report: &TensorReport) -> Vec<String> {
    if report.is_clean() {
        return Vec::new();
    }
    report.to_string().lines().map(|line| line.trim().to_owned()).collect()
}

fn unreadable(checkpoint: &OmniCheckpoint) -> Vec<String> {
    let plain = |name: &str| packed_part(checkpoint, name).is_none();
    let odd = checkpoint.tensors().iter().filter(|(name, tensor)| tensor.float_type().is_none() && plain(name));
    odd.map(|(name, tensor)| format!("unreadable {name}: number type {:?}, expected BF16, F16 or F32", tensor.dtype))
        .collect()
}

/// The packed layer that a tensor is a part of, and which part it is.
fn packed_part<'a>(checkpoint: &OmniCheckpoint, name: &'a str) -> Option<(&'a str, &'a str)> {
    let parts = name.split_once(".weight_")?;
    checkpoint.tensors().contains_key(&format!("{}.weight_packed", parts.0)).then_some(parts)
}

/// Reports a config that names another number type than most tensors have.
fn other_types(checkpoint: &OmniCheckpoint) -> Option<String> {
    let named: Dtype = checkpoint.config().top.dtype.as_deref()?.parse().ok()?;
    let plain = || checkpoint.tensors().iter().filter(|(name, _)| packed_part(checkpoint, name).is_none());
    let other = plain().filter(|(_, t)| t.float_type().is_some_and(|dtype| dtype != named)).count();
    let all = plain().count();
    (2 * other > all)
        .then(|| format!("config.json says {named}, but {other} of {all} tensors have another number type"))
}

fn summary(checkpoint: &OmniCheckpoint, component: Component) -> ComponentSummary {
    let named = checkpoint.config().top.dtype.as_deref().and_then(|name| name.parse().ok()).unwrap_or_default();
    // A CPU computes in f16 no faster than in f32.
    let cpu = checkpoint.memory_estimate(&[component], PlaceKind::Host, named);
    let mut summary = ComponentSummary {
        component: component.name(),
        tensors: 0,
        parameters: 0,
        bytes: 0,
        cpu_held: cpu.resident,
        cpu_mapped: cpu.mapped,
        device_held: checkpoint.memory_estimate(&[component], PlaceKind::Device, named).resident,
        dtypes: BTreeMap::new(),
        packed: BTreeMap::new(),
    };
    for (name, tensor) in checkpoint.tensors().iter().filter(|(name, _)| Component::of(name) == Some(component)) {
        let elements = tensor.shape.iter().map(|n| *n as u64).product::<u64>();
        summary.tensors += 1;
        summary.bytes += tensor.len() as u64;
        *summary.dtypes.entry(format!("{:?}", tensor.dtype)).or_default() += 1;
        match packed_part(checkpoint, name) {
            None => summary.parameters += elements,
            Some((module, "packed")) => {
                let scheme = checkpoint.quantization().and_then(|config| config.scheme_on_disk(module));
                // The values of whole words: exact where words fill the rows.
                summary.parameters += scheme.map_or(0, |scheme| elements * u64::from(32 / scheme.bits));
                let named = scheme.map_or_else(|| "packed, not said how".to_owned(), |scheme| scheme.to_string());
                *summary.packed.entry(named).or_default() += 1;
            }
            Some(_) => {}
        }
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
        // Stored and computed in f32, every byte is either held or mapped.
        for part in &whole.components {
            assert_eq!(
                (part.cpu_held + part.cpu_mapped, part.device_held),
                (part.bytes, part.bytes),
                "{}",
                part.component
            );
        }
        let released = inspect(&testkit::tiny(), Expect::Released).unwrap();
        assert!(released.odd[0].contains("missing"), "{}", released.odd[0]);
    }

    #[test]
    fn a_missing_shard_is_named_once_with_what_it_should_hold() {
        let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
        std::fs::remove_file(directory.path().join("model-00002-of-00003.safetensors")).unwrap();
        let found = inspect(directory.path(), Expect::Config).unwrap();
        assert_eq!(found.shards, 2);
        let [line] = found.odd.as_slice() else { panic!("{:?}", found.odd) };
        assert!(line.starts_with("missing shard model-00002-of-00003.safetensors: "), "{line}");
        let absent = 567 - found.components.iter().map(|c| c.tensors).sum::<usize>();
        assert!(absent > 100 && line.contains(&format!(" {absent} tensors ")), "{line}");
    }

    #[test]
    fn missing_companions_and_a_config_of_another_type_are_odd() {
        let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
        for file in ["merges.txt", "chat_template.json"] {
            std::fs::remove_file(directory.path().join(file)).unwrap();
        }
        let config = directory.path().join("config.json");
        let text = std::fs::read_to_string(&config).unwrap().replace("float32", "bfloat16");
        std::fs::write(&config, text).unwrap();
        let odd = inspect(directory.path(), Expect::Config).unwrap().odd.join("\n");
        for expected in ["neither tokenizer.json nor merges.txt", "chat template", "says bf16, but 567 of 567"] {
            assert!(odd.contains(expected), "{odd}");
        }
    }
}
