//! What every target begins with.

/// Prepares the process of a target.
///
/// - `PATH` is emptied, so that only what is decoded in this process is tried, not an installed ffmpeg.
/// - libFuzzer's panic hook ends the process at any panic. The readers turn panics of the decoders that they call into errors, and
///   that is what is to be tried; a panic that leaves a target ends it without that hook, too.
pub fn begin() {
    drop(std::panic::take_hook());
    // SAFETY: called before the first input, when no other thread of this process exists.
    unsafe { std::env::set_var("PATH", "") };
}
