#![no_main]
//! Any bytes as a sound file, to log-mel frames.

use libfuzzer_sys::fuzz_target;
use qwen3_omni_fuzz::begin;
use qwen3_omni_media::audio::log_mel;

fuzz_target!(init: begin(), |bytes: &[u8]| {
    let _ = log_mel(&[bytes.into()]);
});
