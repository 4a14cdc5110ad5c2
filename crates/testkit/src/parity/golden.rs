use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use omni_core::{Error, Result};
use safetensors::{Dtype, SafeTensors};

/// One golden tensor in host memory.
#[derive(Debug, Clone)]
pub(crate) struct GoldenTensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Values,
}

#[derive(Debug, Clone)]
pub(crate) enum Values {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

/// The contents of one golden file.
pub(crate) enum Golden {
    Tensors(BTreeMap<String, GoldenTensor>),
    Json(serde_json::Value),
}

impl Golden {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let damaged = |error: &dyn std::fmt::Display| Error::Request(format!("{}: {error}", path.display()));
        if path.extension().is_some_and(|e| e == "json") {
            return serde_json::from_slice(&bytes).map(Golden::Json).map_err(|error| damaged(&error));
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&error))?;
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let values = decode(view.dtype(), view.data())
                .ok_or_else(|| damaged(&format!("tensor `{name}` has the number type {:?}", view.dtype())))?;
            Ok((name, GoldenTensor { shape: view.shape().to_vec(), values }))
        });
        tensors.collect::<Result<_>>().map(Golden::Tensors)
    }
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Values> {
    let (twos, _) = bytes.as_chunks::<2>();
    let (fours, _) = bytes.as_chunks::<4>();
    let (eights, _) = bytes.as_chunks::<8>();
    Some(match dtype {
        Dtype::F32 => Values::Float(fours.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::F64 => Values::Float(eights.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()),
        Dtype::I64 => Values::Int(eights.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        Dtype::I32 => Values::Int(fours.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect()),
        Dtype::I16 => Values::Int(twos.iter().map(|b| i64::from(i16::from_le_bytes(*b))).collect()),
        Dtype::U8 | Dtype::BOOL => Values::Int(bytes.iter().map(|b| i64::from(*b)).collect()),
        _ => return None,
    })
}

/// Conversations and settings of the pipeline cases; not a case itself.
pub(crate) const SETTINGS: &str = "full_cases";

/// Every case of the directory, by name. Images belong to cases, and `INDEX.md` describes them: neither is a case.
pub(crate) fn cases(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = std::fs::read_dir(directory).map_err(|source| Error::io(directory, source))?;
    let mut cases = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| Error::io(directory, source))?.path();
        let is_case = path.extension().is_some_and(|e| e == "safetensors" || e == "json");
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if is_case && name != SETTINGS {
            cases.push((name, path));
        }
    }
    cases.sort();
    Ok(cases)
}

/// The settings of one pipeline case.
pub(crate) fn settings(directory: &Path, case: &str) -> Result<serde_json::Value> {
    let path = directory.join(format!("{SETTINGS}.json"));
    let Golden::Json(all) = Golden::read(&path)? else { unreachable!("the name ends in .json") };
    let found = all.as_array().and_then(|all| all.iter().find(|settings| settings["case"] == case));
    found.cloned().ok_or_else(|| Error::Request(format!("{}: no settings for the case `{case}`", path.display())))
}

/// Integers stored by another pipeline case whose setting `key` is the same.
pub(crate) fn ints_of_same(directory: &Path, settings: &serde_json::Value, key: &str, name: &str) -> Result<Vec<i64>> {
    let Golden::Json(all) = Golden::read(&directory.join(format!("{SETTINGS}.json")))? else {
        unreachable!("the name ends in .json")
    };
    let same = all.as_array().into_iter().flatten().filter(|other| other[key] == settings[key]);
    for case in same.filter_map(|other| other["case"].as_str()) {
        let Golden::Tensors(tensors) = Golden::read(&directory.join(format!("{case}.safetensors")))? else { continue };
        if let Some(GoldenTensor { values: Values::Int(values), .. }) = tensors.get(name) {
            return Ok(values.clone());
        }
    }
    let case = settings["case"].as_str().unwrap_or_default();
    Err(Error::Request(format!("neither `{case}` nor a case with the same {key} has a tensor `{name}`")))
}
