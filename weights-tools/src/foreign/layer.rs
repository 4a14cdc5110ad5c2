//! A layer of integers in the layout of `compressed-tensors`.

use checkpoint::Scheme;
use omni_core::{Dtype, Error, Result};

use super::tensors::Tensors;
use crate::shards::Sink;
use crate::source::float_of;

/// A packed layer as it will be written, without its words, of which there are many.
pub(super) struct Layer {
    /// `[out, in]`.
    pub(super) shape: [usize; 2],
    pub(super) scheme: Scheme,
    /// Bytes of `[out, groups]`.
    pub(super) scales: Vec<u8>,
    /// The number type of the scales, which is kept.
    pub(super) scale_type: Dtype,
    /// Packed `[words, groups]`, with zero points only.
    pub(super) zeros: Option<Vec<i32>>,
    /// The group of each input, where groups are not neighbours.
    pub(super) order: Option<Vec<u32>>,
}

impl Layer {
    /// Writes the tensors of its unit: words, scales, shape, then zero points and order where it has them.
    pub(super) fn write(&self, words: &[i32], shape: &[u8], sink: &mut Sink<'_>) -> Result<()> {
        let bytes = |words: &[i32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        sink.write(0, &bytes(words))?;
        sink.write(1, &self.scales)?;
        sink.write(2, shape)?;
        if let Some(zeros) = &self.zeros {
            sink.write(3, &bytes(zeros))?;
        }
        match &self.order {
            None => Ok(()),
            Some(order) => {
                let order: Vec<i32> = order.iter().map(|group| *group as i32).collect();
                sink.write(if self.zeros.is_some() { 4 } else { 3 }, &bytes(&order))
            }
        }
    }
}

/// The scales of a layer `[groups, out]`, turned to `[out, groups]`: their bytes, their type and the number of groups.
pub(super) fn scales(
    tensors: &Tensors,
    module: &str,
    [outputs, inputs]: [usize; 2],
) -> Result<(Vec<u8>, Dtype, usize)> {
    let name = format!("{module}.scales");
    let wrong = |reason: String| Error::weights(format!("tensor `{name}`: {reason}"));
    let groups = tensors.shape(&name).and_then(|shape| shape.first().copied()).unwrap_or(0);
    tensors.expect(&name, &[groups, outputs])?;
    if groups == 0 || !inputs.is_multiple_of(groups) || !(inputs / groups).is_multiple_of(8) {
        return Err(wrong(format!("{groups} groups for {inputs} inputs, expected groups of a multiple of 8")));
    }
    let dtype = float_of(&name, tensors.dtype(&name))?;
    let bytes = tensors.read(&name)?;
    let turned = match dtype {
        Dtype::F32 => transposed(bytes.as_chunks::<4>().0, [groups, outputs]).concat(),
        Dtype::Bf16 | Dtype::F16 => transposed(bytes.as_chunks::<2>().0, [groups, outputs]).concat(),
    };
    Ok((turned, dtype, groups))
}

/// The inputs that share a scale; `None` if there is one group.
pub(super) fn group_size(inputs: usize, groups: usize) -> Option<usize> {
    (groups > 1).then(|| inputs / groups)
}

/// Turns `[rows, columns]` into `[columns, rows]`.
pub(super) fn transposed<T: Copy>(values: &[T], [rows, columns]: [usize; 2]) -> Vec<T> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
