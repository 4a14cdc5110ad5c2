//! FP8 as DeepSeek has it: `weight` `[out, in]` in F8_E4M3, and `weight_scale_inv` with a factor for each block of it.

use omni_core::{Dtype, Error, Result};
use safetensors::Dtype as Stored;

use super::tensors::Tensors;
use crate::shards::{OutTensor, Sink};
use crate::source::{float_of, floats, write_floats};

/// Checks number types and shapes of a layer `[out, in]`.
pub(super) fn check(tensors: &Tensors, name: &str, [outputs, inputs]: [usize; 2], block: [usize; 2]) -> Result<()> {
    if tensors.dtype(name) != Stored::F8_E4M3 {
        return Err(Error::weights(format!(
            "tensor `{name}` has number type {:?}, expected F8_E4M3",
            tensors.dtype(name)
        )));
    }
    let scales = format!("{name}_scale_inv");
    tensors.expect(&scales, &[outputs.div_ceil(block[0]), inputs.div_ceil(block[1])])?;
    float_of(&scales, tensors.dtype(&scales)).map(drop)
}

/// Writes the values of a layer that was checked as floats.
pub(super) fn write(
    tensors: &Tensors,
    out: &OutTensor,
    block: [usize; 2],
    dtype: Dtype,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let (name, inputs) = (&out.name, out.shape[1]);
    let (scale_name, blocks) = (format!("{name}_scale_inv"), inputs.div_ceil(block[1]));
    let scales = floats(&tensors.read(&scale_name)?, float_of(&scale_name, tensors.dtype(&scale_name))?);
    if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
        let (row, column) = (at / blocks, at % blocks);
        return Err(Error::weights(format!(
            "tensor `{scale_name}`: row {row}, column {column} is not a finite number"
        )));
    }
    let table: Vec<f32> = (0..=u8::MAX).map(e4m3).collect();
    let bytes = tensors.read(name)?;
    if let Some(at) = bytes.iter().position(|byte| byte & 0x7F == 0x7F) {
        let (row, column) = (at / inputs, at % inputs);
        return Err(Error::weights(format!("tensor `{name}`: row {row}, column {column} is not a finite number")));
    }
    for (rows, scales) in bytes.chunks(block[0].saturating_mul(inputs)).zip(scales.chunks(blocks)) {
        let value = |(at, byte): (usize, &u8)| table[usize::from(*byte)] * scales[at % inputs / block[1]];
        let values: Vec<f32> = rows.iter().enumerate().map(value).collect();
        write_floats(name, &values, dtype, sink)?;
    }
    Ok(())
}

/// The value of an eight-bit float with four bits of exponent and three of mantissa, and no infinities.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xF), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * (-9f32).exp2(),
        _ => (1.0 + mantissa / 8.0) * ((exponent - 7) as f32).exp2(),
    };
    if byte >> 7 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_values_of_the_standard() {
        // From the OCP specification of eight-bit floats: zero, the smallest and largest subnormal, the smallest normal, one, the largest.
        let known = [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x3C, 1.5),
            (0x7E, 448.0),
        ];
        for (byte, value) in known {
            assert_eq!((e4m3(byte), e4m3(byte | 0x80)), (value, -value), "{byte:#x}");
        }
        assert!(e4m3(0x7F).is_nan() && e4m3(0xFF).is_nan());
        let positive: Vec<f32> = (0..0x7F).map(e4m3).collect();
        assert!(positive.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
