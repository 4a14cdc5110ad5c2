//! Where each tensor of a shard lies.

use std::cmp::Reverse;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

/// Tensor data begins at multiples of this where sizes allow it, so that readers can use it where it is mapped.
const ALIGNMENT: u64 = 64;

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct OutTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Number type on disk.
    pub dtype: Dtype,
    /// Shape on disk.
    pub shape: Vec<usize>,
}

impl OutTensor {
    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product::<u64>() * self.dtype.bitsize() as u64 / 8
    }

    /// Whether a CPU uses it where it lies.
    fn is_mapped(&self) -> bool {
        self.name.ends_with(".weight_packed") || (self.name.ends_with(".weight") && self.shape.len() == 2)
    }
}

/// Tensors that are made together from one source, and lie in one shard.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The tensors, the largest first.
    pub tensors: Vec<OutTensor>,
}

impl Unit {
    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(OutTensor::bytes).sum()
    }
}

/// A shard file without its data.
pub(super) struct Layout {
    /// Length and text of the header, as they begin the file.
    pub(super) header: Vec<u8>,
    /// First byte of each tensor of each unit.
    pub(super) starts: Vec<Vec<u64>>,
    /// Bytes of the whole file.
    pub(super) size: u64,
}

impl Layout {
    /// Sizes that are a multiple of the alignment come first, so that they do not push each other off it. Of those, matrices come
    /// first, which are mapped: what is read while loading then lies together, and a cold start reads no more than that.
    pub(super) fn of(units: &[Unit]) -> Self {
        let all = units.iter().enumerate().flat_map(|(u, unit)| (0..unit.tensors.len()).map(move |t| (u, t)));
        let mut order: Vec<(usize, usize)> = all.collect();
        order.sort_by_key(|(u, t)| {
            let tensor = &units[*u].tensors[*t];
            let odd = !tensor.bytes().is_multiple_of(ALIGNMENT);
            // Among the odd ones, wide numbers first: each begins at a multiple of its own width.
            (odd.then(|| Reverse(tensor.dtype.bitsize())), !tensor.is_mapped())
        });
        let mut entries = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
        let mut starts: Vec<Vec<u64>> = units.iter().map(|unit| vec![0; unit.tensors.len()]).collect();
        let mut at = 0;
        for (u, t) in order {
            let tensor = &units[u].tensors[t];
            let end = at + tensor.bytes();
            let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]});
            entries.insert(tensor.name.clone(), entry);
            (starts[u][t], at) = (at, end);
        }
        let header = header(entries);
        let data = header.len() as u64;
        starts.iter_mut().flatten().for_each(|start| *start += data);
        Self { header, starts, size: data + at }
    }
}

fn header(entries: Map<String, Value>) -> Vec<u8> {
    let mut text = Value::Object(entries).to_string().into_bytes();
    let whole = (8 + text.len()).next_multiple_of(ALIGNMENT as usize);
    text.resize(whole - 8, b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

/// Sorts `layers.10` after `layers.9`, as a reader walks them.
pub fn natural(name: &str) -> Vec<(String, u64)> {
    let parts = name.split('.');
    parts.map(|part| part.parse().map_or((part.to_owned(), 0), |number| (String::new(), number))).collect()
}

/// Fills shards in order; a unit that is larger than a shard gets one of its own.
pub(super) fn split(units: &[Unit], shard_bytes: u64) -> Vec<&[Unit]> {
    let (mut shards, mut begun, mut filled) = (Vec::new(), 0, 0);
    for (index, unit) in units.iter().enumerate() {
        if filled > 0 && filled + unit.bytes() > shard_bytes {
            shards.push(&units[begun..index]);
            (begun, filled) = (index, 0);
        }
        filled += unit.bytes();
    }
    shards.push(&units[begun..]);
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(tensors: &[(&str, Dtype, &[usize])]) -> Unit {
        let one = |(name, dtype, shape): &(&str, Dtype, &[usize])| OutTensor {
            name: (*name).into(),
            dtype: *dtype,
            shape: shape.to_vec(),
        };
        Unit { tensors: tensors.iter().map(one).collect() }
    }

    #[test]
    fn what_can_be_aligned_is_and_the_rest_comes_last() {
        let units = [
            unit(&[("a.words", Dtype::I32, &[40, 8]), ("a.shape", Dtype::I64, &[2])]),
            unit(&[("b.bias", Dtype::BF16, &[3])]),
            unit(&[("c.words", Dtype::I32, &[16, 4]), ("c.scale", Dtype::BF16, &[16, 2]), ("c.odd", Dtype::I32, &[5])]),
        ];
        let layout = Layout::of(&units);
        assert_eq!(layout.header.len() % 64, 0);
        for start in [layout.starts[0][0], layout.starts[2][0], layout.starts[2][1]] {
            assert_eq!(start % 64, 0);
        }
        let data = layout.header.len() as u64;
        assert_eq!(layout.starts[0][1] - data, 1280 + 256 + 64);
        assert_eq!(layout.starts[2][2], layout.starts[0][1] + 16);
        assert_eq!(layout.starts[1][0], layout.starts[2][2] + 20);
        assert_eq!(layout.size, layout.starts[1][0] + 6);
        let mut file = layout.header.clone();
        file.resize(layout.size as usize, 0);
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.tensor("c.scale").unwrap().shape(), [16, 2]);
    }

    #[test]
    fn layers_are_walked_in_numeric_order() {
        let mut names = ["m.10.w", "m.9.w", "m.9.b"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["m.9.b", "m.9.w", "m.10.w"]);
    }
}
