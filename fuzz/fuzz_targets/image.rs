#![no_main]
//! Any bytes as a picture, to its size and patches.

use libfuzzer_sys::fuzz_target;
use qwen3_omni_fuzz::begin;
use qwen3_omni_media::image::{ImageInput, ImageOptions, PixelBounds, patches};

fuzz_target!(init: begin(), |bytes: &[u8]| {
    let (input, bounds) = (ImageInput::from(bytes), PixelBounds { min: 1024, max: 65_536 });
    let _ = input.size();
    let _ = patches(&input, &ImageOptions::default().bounds(bounds));
});
