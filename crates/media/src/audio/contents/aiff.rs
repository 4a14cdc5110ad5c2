//! AIFF and AIFF-C: the samples behind a header that tells their true size.

use super::chunk::{is_name, is_unknown};
use super::file::Contents;
use super::kind::Kind;
use super::view::View;
use crate::Result;

/// Most bytes of the chunk that describes the samples, the name of the coding included.
const MOST_COMMON: u64 = 512;

/// Most chunks that are looked at.
const MOST_CHUNKS: usize = 1 << 12;

/// Makes the view of the samples, behind a header that tells their true size.
///
/// # Errors
/// [`crate::MediaError::Damaged`] without format or samples, or if the file states how long it is and is shorter.
pub(super) fn view(mut contents: Contents, start: u64) -> Result<(View, Kind)> {
    let kind = contents.array::<4>(start + 8)?.unwrap_or_default();
    let (common, sound) = walk(&mut contents, start)?;
    let missing = |what| contents.damaged(format!("the AIFF file has no {what}: truncated?"));
    let common = common.filter(|common| common.len() >= 18).ok_or_else(|| missing("format"))?;
    let (body, size) = sound.ok_or_else(|| missing("samples"))?;
    let offset = contents.array::<4>(body)?.map_or(0, u32::from_be_bytes);
    let data = body + 8 + u64::from(offset);
    let there = contents.len().saturating_sub(data);
    let stated = size.saturating_sub(data - body);
    // A file of no samples may end there, or go on with another chunk.
    let ends = contents.array::<4>(body + 8)?.is_none_or(|name| is_name(&name));
    let unknown = size < 8 || (size == 8 && !ends) || (stated > there && is_unknown(size));
    if stated > there && !unknown {
        let reason = format!("{stated} bytes of samples are promised, but only {there} are there: truncated?");
        return Err(contents.damaged(reason));
    }
    let size = if unknown { there } else { stated };
    let head = header(&kind, &common, size).ok_or_else(|| contents.unsupported("an AIFF file of more than 4 GiB"))?;
    Ok((View::behind(head, contents, data..data + size), Kind::Other))
}

/// The chunk that describes the samples, and where the chunk with the samples lies and what size it states.
type Found = (Option<Vec<u8>>, Option<(u64, u64)>);

fn walk(contents: &mut Contents, start: u64) -> Result<Found> {
    let (mut common, mut sound) = (None, None);
    let mut at = start + 12;
    for _ in 0..MOST_CHUNKS {
        let Some([a, b, c, d, size @ ..]) = contents.array::<8>(at)? else { break };
        let (name, size) = ([a, b, c, d], u64::from(u32::from_be_bytes(size)));
        match &name {
            b"COMM" => common = Some(contents.bytes(at + 8, size.min(MOST_COMMON) as usize)?),
            b"SSND" => sound = Some((at + 8, size)),
            _ => (),
        }
        if common.is_some() && sound.is_some() {
            break;
        }
        at += 8 + size.next_multiple_of(2);
    }
    Ok((common, sound))
}

/// A header for one chunk of samples of `size` bytes; `None` if they are too many for the format.
pub(super) fn header(kind: &[u8; 4], common: &[u8], size: u64) -> Option<Vec<u8>> {
    let padded = common.len().next_multiple_of(2);
    let sound = u32::try_from(size + 8).ok()?;
    let form = u32::try_from(4 + 8 + padded as u64 + 16 + size).ok()?;
    let padding = vec![0; padded - common.len()];
    let length = common.len() as u32;
    let parts: [&[u8]; 10] = [
        b"FORM",
        &form.to_be_bytes(),
        kind,
        b"COMM",
        &length.to_be_bytes(),
        common,
        &padding,
        b"SSND",
        &sound.to_be_bytes(),
        &[0; 8],
    ];
    Some(parts.concat())
}
