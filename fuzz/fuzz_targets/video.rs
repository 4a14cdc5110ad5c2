#![no_main]
//! Any bytes as a video file, to patches, and its sound track.

use libfuzzer_sys::fuzz_target;
use qwen3_omni_fuzz::begin;
use qwen3_omni_media::audio::{AudioInput, read};
use qwen3_omni_media::image::PixelBounds;
use qwen3_omni_media::video::{VideoOptions, clip};

fuzz_target!(init: begin(), |bytes: &[u8]| {
    let bounds = PixelBounds { min: 1024, max: 65_536 };
    let _ = clip(&bytes.into(), &VideoOptions::default().bounds(bounds).max_frames(8));
    let _ = read(&AudioInput::SoundTrack(bytes.into()));
});
