//! The first bytes of pictures.

/// Whether a file begins like a picture of a kind that is read.
pub(crate) fn is_picture(head: &[u8]) -> bool {
    const STARTS: [&[u8]; 4] = [b"\x89PNG\r\n\x1a\n", &[0xFF, 0xD8, 0xFF], b"GIF8", b"BM"];
    let is_webp = head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP");
    is_webp || is_tiff(head) || heif_name(head).is_some() || STARTS.iter().any(|start| head.starts_with(start))
}

/// Whether a file begins like TIFF or BigTIFF.
pub(super) fn is_tiff(head: &[u8]) -> bool {
    [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| head.starts_with(*magic))
}

/// The name of the format of a file that begins like HEIC or AVIF.
pub(super) fn heif_name(head: &[u8]) -> Option<&'static str> {
    let (size, rest) = head.split_first_chunk::<4>()?;
    let brands = rest.strip_prefix(b"ftyp")?.as_chunks::<4>().0;
    let brands = &brands[..brands.len().min((u32::from_be_bytes(*size) as usize / 4).saturating_sub(2))];
    match brands.first()? {
        b"avif" | b"avis" => Some("AVIF"),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Some("HEIC"),
        // The common brands of any codec; which one it is stands further behind.
        b"mif1" | b"msf1" | b"mif2" | b"miaf" if brands.contains(b"avif") => Some("AVIF"),
        b"mif1" | b"msf1" | b"mif2" | b"miaf" => Some("HEIC"),
        _ => None,
    }
}
