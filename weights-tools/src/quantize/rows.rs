//! One matrix, quantised some rows at a time on all cores.

use checkpoint::packed::{Groups, PackedMatrix, dequantize, quantize as quantize_rows, unpack_zeros};
use checkpoint::{Checkpoint, Scheme, StoredTensor};
use omni_core::{Error, Result};
use rayon::prelude::*;

use super::error::Sums;
use crate::shards::Sink;
use crate::source::{float_type, floats};

/// Weights one core works on at a time.
const PIECE: usize = 1 << 19;

/// Pieces between two writes.
const PIECES: usize = 32;

/// Writes words, scales and zero points of a matrix `[out, in]`.
pub(super) fn quantize(
    checkpoint: &Checkpoint,
    (name, tensor): (&str, &StoredTensor),
    scheme: &Scheme,
    sink: &mut Sink<'_>,
) -> Result<Sums> {
    let (dtype, inputs) = (float_type(name, tensor)?, tensor.shape[1]);
    // Zero points are packed along the outputs: a piece ends where a word of them does.
    let rows = (PIECE / inputs).next_multiple_of(8).max(8);
    let bytes: Vec<&[u8]> = checkpoint.bytes(tensor).chunks(rows * inputs * dtype.size()).collect();
    let mut sums = Sums::default();
    for (batch, pieces) in bytes.chunks(PIECES).enumerate() {
        let done: Vec<_> = pieces.par_iter().map(|bytes| piece(&floats(bytes, dtype), inputs, scheme)).collect();
        for (index, done) in done.into_iter().enumerate() {
            let (packed, of_piece) =
                done.map_err(|at| not_finite(name, inputs, (batch * PIECES + index) * rows, at))?;
            sums.add(of_piece);
            write(&packed, sink)?;
        }
    }
    Ok(sums)
}

/// Quantises some rows; returns them with their error, or the index of a value that is not finite.
fn piece(weight: &[f32], inputs: usize, scheme: &Scheme) -> Result<(PackedMatrix, Sums), usize> {
    if let Some(at) = weight.iter().position(|value| !value.is_finite()) {
        return Err(at);
    }
    let shape = [weight.len() / inputs, inputs];
    let packed = quantize_rows(weight, shape, scheme);
    let scales: Vec<f32> = packed.scales.iter().map(|scale| scale.to_f32()).collect();
    let zero_shape = [shape[0], scheme.groups_in(inputs)];
    let zeros = packed.zeros.as_ref().map(|zeros| unpack_zeros(zeros, zero_shape, scheme.bits));
    let groups = Groups::Consecutive(scheme.group_in(inputs));
    let back = dequantize(&packed.words, shape, scheme.bits, groups, (&scales, zeros.as_deref()));
    Ok((packed, Sums::of(weight, &back)))
}

fn write(packed: &PackedMatrix, sink: &mut Sink<'_>) -> Result<()> {
    let words = |words: &[i32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    sink.write(0, &words(&packed.words))?;
    sink.write(1, &packed.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<u8>>())?;
    match &packed.zeros {
        Some(zeros) => sink.write(3, &words(zeros)),
        None => Ok(()),
    }
}

fn not_finite(name: &str, inputs: usize, first_row: usize, at: usize) -> Error {
    let (row, column) = (first_row + at / inputs, at % inputs);
    Error::weights(format!(
        "tensor `{name}`: row {row}, column {column} is not a finite number, so it cannot be quantised"
    ))
}
