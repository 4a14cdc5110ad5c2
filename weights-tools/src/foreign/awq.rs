//! AWQ as AutoAWQ's `gemm` has it: `qweight` `[in, out/8]` and `qzeros` `[groups, out/8]`, both packed along the outputs, eight to a
//! word in an order of their own, and `scales` `[groups, out]`.

use checkpoint::Scheme;
use checkpoint::packed::{pack, pack_zeros};
use omni_core::{Error, Result};

use super::layer::{Layer, group_size, scales};
use super::tensors::Tensors;

const BITS: u32 = 4;

/// Where in a word each of eight neighbouring outputs lies: the inverse of AutoAWQ's `order_map`, 0 2 4 6 1 3 5 7.
const PLACE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The words `[out, in/8]` of a layer, packed along the inputs.
pub(super) fn words(tensors: &Tensors, (module, shape @ [outputs, inputs]): (&str, [usize; 2])) -> Result<Vec<i32>> {
    let words = tensors.integers(&format!("{module}.qweight"), &[inputs, outputs / 8])?;
    Ok(pack(&turned(&words, [inputs, outputs]), shape, BITS))
}

/// Reads all of a layer but its words.
pub(super) fn layer(tensors: &Tensors, (module, shape @ [outputs, inputs]): (&str, [usize; 2])) -> Result<Layer> {
    if !inputs.is_multiple_of(8) || !outputs.is_multiple_of(8) {
        return Err(Error::weights(format!("layer `{module}` of shape {shape:?} does not fill its words of 8")));
    }
    tensors.expect(&format!("{module}.qweight"), &[inputs, outputs / 8])?;
    let (scales, scale_type, groups) = scales(tensors, module, shape)?;
    let zeros = tensors.integers(&format!("{module}.qzeros"), &[groups, outputs / 8])?;
    let zeros = turned(&zeros, [groups, outputs]);
    Ok(Layer {
        shape,
        scheme: Scheme { bits: BITS, group: group_size(inputs, groups), symmetric: false },
        scales,
        scale_type,
        zeros: Some(pack_zeros(&zeros, [outputs, groups], BITS)),
        order: None,
    })
}

/// Unpacks `[rows, out]`, turns it to `[out, rows]` and takes the middle of the range from each value.
fn turned(words: &[i32], [rows, outputs]: [usize; 2]) -> Vec<i8> {
    let value = |row: usize, output: usize| {
        let word = words[row * (outputs / 8) + output / 8] as u32;
        ((word >> (BITS as usize * PLACE[output % 8])) & 0xF) as i8 - 8
    };
    (0..outputs).flat_map(|output| (0..rows).map(move |row| value(row, output))).collect()
}
