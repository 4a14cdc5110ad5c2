//! What the formats that consist of named chunks have in common.

/// Whether a header's size stands for "unknown": 2 or 4 GiB, less what a program subtracts for headers or rounds to whole blocks.
///
/// A file that has as much is taken at its word; this is for those that are shorter.
pub(super) fn is_unknown(size: u64) -> bool {
    matches!(size, 0x7fff_0000..=0x8000_0100 | 0xffff_0000..=0xffff_ffff)
}

/// Whether four bytes may be the name of a chunk.
pub(super) fn is_name(name: &[u8; 4]) -> bool {
    name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b' ')
}
