//! GPTQ: `qweight` `[in·bits/32, out]` packed along the inputs, `qzeros` `[groups, out·bits/32]` along the outputs, `scales`
//! `[groups, out]`, and `g_idx` `[in]` with the group of each input.

use checkpoint::Scheme;
use checkpoint::packed::{pack_zeros, unpack};
use omni_core::{Error, Result};

use super::layer::{Layer, group_size, scales, transposed};
use super::tensors::Tensors;

/// The words `[out, in·bits/32]` of a layer: the same in our layout, where those of an output follow one another.
pub(super) fn words(tensors: &Tensors, (module, [outputs, inputs]): (&str, [usize; 2]), bits: u32) -> Result<Vec<i32>> {
    let rows = inputs * bits as usize / 32;
    let words = tensors.integers(&format!("{module}.qweight"), &[rows, outputs])?;
    Ok(transposed(&words, [rows, outputs]))
}

/// Reads all of a layer but its words.
pub(super) fn layer(
    tensors: &Tensors,
    (module, shape @ [outputs, inputs]): (&str, [usize; 2]),
    bits: u32,
    zeros_less_one: bool,
    symmetric: bool,
) -> Result<Layer> {
    let per_word = (32 / bits) as usize;
    if !inputs.is_multiple_of(per_word) || !outputs.is_multiple_of(per_word) {
        return Err(Error::weights(format!(
            "layer `{module}` of shape {shape:?} does not fill its words of {per_word}"
        )));
    }
    tensors.expect(&format!("{module}.qweight"), &[inputs / per_word, outputs])?;
    let (scales, scale_type, groups) = scales(tensors, module, shape)?;
    let zeros = zeros(tensors, (module, [groups, outputs]), bits, zeros_less_one)?;
    // One layer may lack a zero point by chance; whether there are any is said for all of them.
    let symmetric = symmetric && zeros.iter().all(|zero| *zero == 0);
    let group = group_size(inputs, groups);
    Ok(Layer {
        shape,
        scheme: Scheme { bits, group, symmetric },
        scales,
        scale_type,
        zeros: (!symmetric).then(|| pack_zeros(&transposed(&zeros, [groups, outputs]), [outputs, groups], bits)),
        order: order(tensors, module, inputs, groups)?,
    })
}

/// Zero points `[groups, out]`, less the middle of the range.
fn zeros(
    tensors: &Tensors,
    (module, shape @ [groups, outputs]): (&str, [usize; 2]),
    bits: u32,
    less_one: bool,
) -> Result<Vec<i8>> {
    let name = format!("{module}.qzeros");
    let words = tensors.integers(&name, &[groups, outputs * bits as usize / 32])?;
    let stored = unpack(&words, shape, bits);
    if !less_one {
        return Ok(stored);
    }
    let top = ((1i16 << (bits - 1)) - 1) as i8;
    match stored.iter().position(|zero| *zero == top) {
        None => Ok(stored.into_iter().map(|zero| zero + 1).collect()),
        Some(at) => {
            let (group, output) = (at / outputs, at % outputs);
            Err(Error::weights(format!(
                "tensor `{name}`: the zero point of output {output}, group {group} is stored as the largest number, which \
                 some programs read as {} and others as 0",
                1u32 << bits
            )))
        }
    }
}

/// The group of each input, if groups are not neighbouring inputs.
fn order(tensors: &Tensors, module: &str, inputs: usize, groups: usize) -> Result<Option<Vec<u32>>> {
    let name = format!("{module}.g_idx");
    if tensors.shape(&name).is_none() {
        return Ok(None);
    }
    let order = tensors.integers(&name, &[inputs])?;
    if let Some((input, found)) = order.iter().enumerate().find(|(_, group)| !(0..groups as i32).contains(*group)) {
        let last = groups - 1;
        return Err(Error::weights(format!(
            "tensor `{name}`: input {input} is in group {found}, expected 0 to {last}"
        )));
    }
    let neighbours = order.iter().enumerate().all(|(input, group)| *group as usize == input / (inputs / groups));
    Ok((!neighbours).then(|| order.into_iter().map(|group| group as u32).collect()))
}
