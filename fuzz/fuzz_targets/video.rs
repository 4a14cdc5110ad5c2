#![no_main]
//! Any bytes as a video file, to patches, and its sound track. `PATH` is emptied, so that only what is decoded here is tried.

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use qwen3_omni_media::audio::{AudioInput, read};
use qwen3_omni_media::image::PixelBounds;
use qwen3_omni_media::video::{VideoOptions, clip};

static START: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // SAFETY: called once, before any other thread of this process exists.
    START.call_once(|| unsafe { std::env::set_var("PATH", "") });
    let bounds = PixelBounds { min: 1024, max: 65_536 };
    let _ = clip(&bytes.into(), &VideoOptions { bounds, max_frames: 8, ..Default::default() });
    let _ = read(&AudioInput::SoundTrack(bytes.into()));
});
