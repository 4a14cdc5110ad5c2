use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{Error, Result};

/// The two files of one golden case: `CASE.json` and `CASE.safetensors`.
#[derive(Debug)]
pub(super) struct Golden {
    path: PathBuf,
    pub(super) json: Value,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Golden {
    pub(super) fn read(directory: &Path, case: &str) -> Result<Self> {
        let path = directory.join(format!("{case}.json"));
        let json = serde_json::from_slice(&read(&path)?).map_err(|error| damaged(&path, error))?;
        let path = path.with_extension("safetensors");
        let bytes = read(&path)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&path, error))?;
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let values = decode(view.dtype(), view.data())
                .ok_or_else(|| damaged(&path, format!("tensor `{name}` has the number type {:?}", view.dtype())))?;
            Ok((name, Stored { shape: view.shape().to_vec(), values }))
        });
        let tensors = tensors.collect::<Result<_>>()?;
        Ok(Self { path, json, tensors })
    }

    /// A number of the JSON file.
    pub(super) fn number(&self, key: &str) -> Result<f64> {
        self.json[key].as_f64().ok_or_else(|| self.lacks(key))
    }

    /// A list of numbers of the JSON file.
    pub(super) fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        self.json[key].as_array().and_then(|all| all.iter().map(Value::as_f64).collect()).ok_or_else(|| self.lacks(key))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Names of the stored tensors that begin with `prefix`, without it.
    pub(super) fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.tensors.keys().filter_map(move |name| name.strip_prefix(prefix))
    }

    pub(super) fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.stored(name)?.shape)
    }

    pub(super) fn values(&self, name: &str) -> Result<&[f64]> {
        Ok(&self.stored(name)?.values)
    }

    pub(super) fn floats(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.values(name)?.iter().map(|value| *value as f32).collect())
    }

    pub(super) fn ids(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.values(name)?.iter().map(|value| *value as u32).collect())
    }

    pub(super) fn sizes(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.values(name)?.iter().map(|value| *value as usize).collect())
    }

    /// A matrix, or the rows of a tensor of more axes.
    pub(super) fn matrix(&self, name: &str, device: &Device) -> Result<Tensor<2>> {
        let (shape, values) = (self.shape(name)?, self.floats(name)?);
        let [.., columns] = shape else { return Err(self.lacks(name)) };
        let rows = values.len() / columns;
        Ok(Tensor::from_data(TensorData::new(values, [rows, *columns]), device))
    }

    /// The rows of a matrix of ids.
    pub(super) fn rows_of_ids(&self, name: &str) -> Result<Vec<Vec<u32>>> {
        let (shape, ids) = (self.shape(name)?, self.ids(name)?);
        let [.., columns] = shape else { return Err(self.lacks(name)) };
        Ok(ids.chunks(*columns).map(<[u32]>::to_vec).collect())
    }

    pub(super) fn lacks(&self, what: &str) -> Error {
        damaged(&self.path, format!("`{what}` is missing or has another form than expected"))
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| damaged(&self.path, format!("there is no tensor `{name}`")))
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| damaged(path, error))
}

pub(super) fn damaged(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Golden { path: path.to_owned(), reason: reason.to_string() }
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f64>> {
    let (fours, _) = bytes.as_chunks::<4>();
    let (eights, _) = bytes.as_chunks::<8>();
    Some(match dtype {
        Dtype::F32 => fours.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        Dtype::F64 => eights.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::I64 => eights.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        Dtype::I32 => fours.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
        Dtype::U8 | Dtype::BOOL => bytes.iter().map(|b| f64::from(*b)).collect(),
        _ => return None,
    })
}
