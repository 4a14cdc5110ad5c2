use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::line::Line;
use crate::Result;

/// Writes codes `[F, Q]` as [`read_codes`] reads them, in 16 bits.
///
/// # Errors
/// [`omni_core::Error::Io`] naming the file; [`omni_core::Error::Request`] for no codes, frames of different lengths, or a code of 32,768
/// or more.
pub fn write_codes(path: &Path, codes: &[Vec<u32>]) -> Result<()> {
    let books = codes.first().map_or(0, Vec::len);
    let narrow: Option<Vec<i16>> = codes.iter().flatten().map(|code| i16::try_from(*code).ok()).collect();
    let narrow = narrow.filter(|_| books > 0 && codes.iter().all(|frame| frame.len() == books));
    let refuse = |reason: String| omni_core::Error::Request(format!("{}: {reason}", path.display()));
    let narrow = narrow.ok_or_else(|| {
        refuse(format!("{} frames of codes, expected 1 or more of one length and codes below 32768", codes.len()))
    })?;
    let bytes: Vec<u8> = narrow.into_iter().flat_map(i16::to_le_bytes).collect();
    let view =
        TensorView::new(Dtype::I16, vec![codes.len(), books], &bytes).map_err(|error| refuse(error.to_string()))?;
    let bytes = safetensors::serialize([("codes", view)], None).map_err(|error| refuse(error.to_string()))?;
    std::fs::write(path, bytes).map_err(|error| omni_core::Error::io(path, error).into())
}

/// Reads the codes of a speech from a safetensors file with an integer tensor `codes`, `[F, Q]`.
///
/// # Errors
/// [`crate::Error::Data`] naming the line and the file, for a file that cannot be read or codes of another shape.
pub fn read_codes(path: &Path, codebooks: usize, line: &Line) -> Result<Vec<Vec<u32>>> {
    let refuse = |reason: &dyn std::fmt::Display| line.location.refuse(format!("{}: {reason}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| refuse(&error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| refuse(&error))?;
    let tensor = file.tensor("codes").map_err(|error| refuse(&error))?;
    let [frames, books] = tensor.shape() else {
        return Err(refuse(&format!("`codes` is {:?}, expected [frames, {codebooks}]", tensor.shape())));
    };
    if *frames == 0 || *books != codebooks {
        return Err(refuse(&format!("`codes` is [{frames}, {books}], expected 1 or more frames of {codebooks}")));
    }
    let codes = integers(tensor.dtype(), tensor.data())
        .and_then(|codes| codes.into_iter().map(|code| u32::try_from(code).ok()).collect::<Option<Vec<u32>>>());
    let codes =
        codes.ok_or_else(|| refuse(&format!("`codes` in {:?}, expected integers of 0 or more", tensor.dtype())))?;
    Ok(codes.chunks(codebooks).map(<[u32]>::to_vec).collect())
}

fn integers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<i64>> {
    let (twos, _) = bytes.as_chunks::<2>();
    let (fours, _) = bytes.as_chunks::<4>();
    let (eights, _) = bytes.as_chunks::<8>();
    Some(match dtype {
        Dtype::U8 => bytes.iter().map(|byte| i64::from(*byte)).collect(),
        Dtype::I16 => twos.iter().map(|b| i64::from(i16::from_le_bytes(*b))).collect(),
        Dtype::U16 => twos.iter().map(|b| i64::from(u16::from_le_bytes(*b))).collect(),
        Dtype::I32 => fours.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        Dtype::U32 => fours.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect(),
        Dtype::I64 => eights.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        _ => return None,
    })
}
