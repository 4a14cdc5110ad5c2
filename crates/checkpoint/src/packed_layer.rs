//! The tensors that stand on disk for the matrix of a packed linear layer.

use half::bf16;
use safetensors::Dtype;

use crate::packed::{Scheme, unpack_zeros};
use crate::shard::Tensor;
use crate::{Checkpoint, CheckpointError};

pub(crate) const WORDS: &str = ".weight_packed";
const SCALES: &str = ".weight_scale";
const SHAPE: &str = ".weight_shape";
const ZEROS: &str = ".weight_zero_point";
const ORDER: &str = ".weight_g_idx";

/// The packed tensors of one linear layer, as they are stored on disk.
#[derive(Debug)]
pub struct PackedTensors<'a> {
    /// Bits of a value: 4 or 8.
    pub bits: u32,
    /// Inputs per scale; all inputs if there is one scale per output.
    pub group: usize,
    /// 32-bit words `[out, words]`, values along the inputs, lowest bits first.
    pub words: &'a Tensor,
    /// `[out, groups]` in BF16, F16 or F32; none is zero, infinite or NaN.
    pub scales: &'a Tensor,
    /// Zero points `[out, groups]`; `None` for a symmetric scheme.
    pub zeros: Option<Vec<i8>>,
    /// The group of each input; `None` if groups are neighbouring inputs.
    pub group_of_input: Option<Vec<u32>>,
}

/// One tensor of a packed layer.
pub(crate) struct Member {
    suffix: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) optional: bool,
    types: &'static [Dtype],
    type_names: &'static str,
}

impl Member {
    pub(crate) fn name(&self, module: &str) -> String {
        format!("{module}{}", self.suffix)
    }
}

/// The tensors that a packed layer of this shape must have.
pub(crate) fn members(scheme: &Scheme, [outputs, inputs]: [usize; 2]) -> Vec<Member> {
    let integers = |suffix, shape| Member { suffix, shape, optional: false, types: &[Dtype::I32], type_names: "I32" };
    let groups = scheme.groups_in(inputs);
    let floats = &[Dtype::BF16, Dtype::F16, Dtype::F32];
    let scale_shape = vec![outputs, groups];
    let mut members = vec![
        integers(WORDS, vec![outputs, scheme.words_in(inputs)]),
        Member { suffix: SCALES, shape: scale_shape, optional: false, types: floats, type_names: "BF16, F16 or F32" },
        Member { suffix: SHAPE, shape: vec![2], optional: false, types: &[Dtype::I64], type_names: "I64" },
        Member { optional: true, ..integers(ORDER, vec![inputs]) },
    ];
    if !scheme.symmetric {
        members.push(integers(ZEROS, vec![scheme.words_in(outputs), groups]));
    }
    members
}

impl Checkpoint {
    /// The packed tensors of a linear layer of this shape; `None` if it is stored as floats.
    ///
    /// # Errors
    /// [`CheckpointError::Packed`] or [`CheckpointError::Dtype`] naming the tensor that is absent, contradicts the shape or the
    /// config, or holds a scale or group that is invalid.
    pub fn packed(&self, name: &str, shape: [usize; 2]) -> Result<Option<PackedTensors<'_>>, CheckpointError> {
        let words = format!("{name}{WORDS}");
        let Some(words) = self.tensors.get(&words) else { return Ok(None) };
        let scheme = self.check_layer(name, shape)?;
        let [outputs, inputs] = shape;
        let groups = scheme.groups_in(inputs);
        let scales = self.scales(name, groups)?;
        let zeros = (!scheme.symmetric).then(|| {
            let tensor = self.member(name, ZEROS)?;
            Ok(unpack_zeros(&self.integers(tensor), [outputs, groups], scheme.bits))
        });
        let (zeros, group_of_input) = (zeros.transpose()?, self.order(name, scheme.group_in(inputs), groups)?);
        Ok(Some(PackedTensors {
            bits: scheme.bits,
            group: scheme.group_in(inputs),
            words,
            scales,
            zeros,
            group_of_input,
        }))
    }

    /// The scheme of a layer that is packed on disk.
    pub(crate) fn scheme_on_disk(&self, module: &str) -> Result<&Scheme, CheckpointError> {
        let lacks = |reason: &str| self.wrong(&format!("{module}{WORDS}"), reason.to_owned());
        let config = self
            .quantization()
            .ok_or_else(|| lacks("this layer is packed, but config.json has no `quantization_config` that says how"))?;
        config.scheme_on_disk(module).ok_or_else(|| {
            lacks("this layer is packed, but no group of `quantization_config` in config.json has it among its targets")
        })
    }

    /// Checks what the headers and `weight_shape` say about a layer; returns its scheme.
    pub(crate) fn check_layer(&self, module: &str, shape: [usize; 2]) -> Result<&Scheme, CheckpointError> {
        let scheme = self.scheme_on_disk(module)?;
        let group = scheme.group_in(shape[1]);
        if group == 0 || !shape[1].is_multiple_of(group) {
            let reason = format!("groups of {group} do not divide the layer's {} inputs", shape[1]);
            return Err(self.wrong(&format!("{module}{WORDS}"), reason));
        }
        for member in members(scheme, shape) {
            let name = member.name(module);
            match self.tensors.get(&name) {
                None if member.optional => {}
                None => return Err(self.absent_member(module, &name, &member.shape)),
                Some(tensor) if tensor.shape != member.shape => {
                    let reason = format!("found shape {:?}, expected {:?} ({scheme})", tensor.shape, member.shape);
                    return Err(self.wrong(&name, reason));
                }
                Some(tensor) if !member.types.contains(&tensor.dtype) => {
                    return Err(self.wrong_type(&name, tensor, member.type_names));
                }
                Some(_) => {}
            }
        }
        self.check_shape(module, shape)?;
        Ok(scheme)
    }

    fn check_shape(&self, module: &str, shape: [usize; 2]) -> Result<(), CheckpointError> {
        let (sizes, _) = self.bytes(self.member(module, SHAPE)?).as_chunks::<8>();
        let found: Vec<i64> = sizes.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        if found.iter().map(|size| usize::try_from(*size).ok()).eq(shape.map(Some)) {
            return Ok(());
        }
        Err(self.wrong(&format!("{module}{SHAPE}"), format!("says the layer is {found:?}, expected {shape:?}")))
    }

    fn scales(&self, module: &str, groups: usize) -> Result<&Tensor, CheckpointError> {
        let tensor = self.member(module, SCALES)?;
        let Some((index, value)) = bad_scale(self.bytes(tensor), tensor.dtype) else { return Ok(tensor) };
        let (row, group) = (index / groups, index % groups);
        let reason =
            format!("the scale of row {row}, group {group} is {value}; expected a finite number other than zero");
        Err(self.wrong(&format!("{module}{SCALES}"), reason))
    }

    /// The group of each input, if the file lists groups that are not neighbouring inputs.
    pub(crate) fn order(&self, module: &str, group: usize, groups: usize) -> Result<Option<Vec<u32>>, CheckpointError> {
        let name = format!("{module}{ORDER}");
        let Some(tensor) = self.tensors.get(&name) else { return Ok(None) };
        let order = self.integers(tensor);
        if let Some((input, found)) = order.iter().enumerate().find(|(_, g)| !(0..groups as i32).contains(*g)) {
            let reason = format!("input {input} is in group {found}, expected 0 to {}", groups - 1);
            return Err(self.wrong(&name, reason));
        }
        let neighbours = order.iter().enumerate().all(|(input, found)| *found as usize == input / group);
        Ok((!neighbours).then(|| order.into_iter().map(|group| group as u32).collect()))
    }

    fn member(&self, module: &str, suffix: &str) -> Result<&Tensor, CheckpointError> {
        let name = format!("{module}{suffix}");
        self.tensors.get(&name).ok_or_else(|| self.absent_member(module, &name, &[]))
    }

    fn absent_member(&self, module: &str, name: &str, shape: &[usize]) -> CheckpointError {
        let words = format!("{module}{WORDS}");
        self.wrong(&words, format!("`{name}` {shape:?} must lie beside it, but is not in the checkpoint"))
    }

    fn integers(&self, tensor: &Tensor) -> Vec<i32> {
        self.bytes(tensor).as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
    }

    fn wrong(&self, name: &str, reason: String) -> CheckpointError {
        let path = self.tensors.get(name).map_or_else(|| self.directory.clone(), |tensor| self.path_of(tensor));
        CheckpointError::Packed { name: name.to_owned(), path, reason }
    }
}

/// The first scale that is zero, infinite or NaN. Tests bit patterns, for speed: there are gigabytes of scales.
fn bad_scale(bytes: &[u8], dtype: Dtype) -> Option<(usize, f32)> {
    let (twos, fours) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
    match dtype {
        Dtype::F32 => {
            let bad = |bytes: &[u8; 4]| (u32::from_le_bytes(*bytes) & 0x7FFF_FFFF).wrapping_sub(1) >= 0x7F7F_FFFF;
            first(fours, bad).map(|at| (at, f32::from_le_bytes(fours[at])))
        }
        Dtype::F16 => {
            let bad = |bytes: &[u8; 2]| (u16::from_le_bytes(*bytes) & 0x7FFF).wrapping_sub(1) >= 0x7BFF;
            first(twos, bad).map(|at| (at, half::f16::from_le_bytes(twos[at]).to_f32()))
        }
        _ => {
            let bad = |bytes: &[u8; 2]| (u16::from_le_bytes(*bytes) & 0x7FFF).wrapping_sub(1) >= 0x7F7F;
            first(twos, bad).map(|at| (at, bf16::from_le_bytes(twos[at]).to_f32()))
        }
    }
}

/// The index of the first bad value. Tests whole blocks without a branch per element, so that the compiler vectorises.
fn first<T>(values: &[T], bad: impl Fn(&T) -> bool) -> Option<usize> {
    const BLOCK: usize = 1024;
    let of_block =
        values.chunks(BLOCK).position(|block| block.iter().fold(false, |found, value| found | bad(value)))?;
    let start = of_block * BLOCK;
    values[start..].iter().position(bad).map(|at| start + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_infinities_and_not_a_number_are_bad_scales_in_every_type() {
        for bad in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let values: Vec<f32> = (0..3000).map(|i| if i == 2100 { bad } else { 0.5 - i as f32 }).collect();
            let f32s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let bf16s: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
            let f16s: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
            for (bytes, dtype) in [(f32s, Dtype::F32), (bf16s, Dtype::BF16), (f16s, Dtype::F16)] {
                assert_eq!(bad_scale(&bytes, dtype).map(|(at, _)| at), Some(2100), "{bad} as {dtype:?}");
            }
        }
        for good in [f32::EPSILON, -1.0, 65000.0] {
            assert_eq!(bad_scale(&good.to_le_bytes(), Dtype::F32), None);
            assert_eq!(bad_scale(&bf16::from_f32(good).to_le_bytes(), Dtype::BF16), None);
        }
    }
}
