//! Names for what the server makes.

/// A name that no other thing has: `prefix_` and 96 random bits.
pub(crate) fn new(prefix: &str) -> String {
    let bits: u128 = rand::random();
    format!("{prefix}{:024x}", bits >> 32)
}

/// Seconds since 1970, as OpenAI's objects count them.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
