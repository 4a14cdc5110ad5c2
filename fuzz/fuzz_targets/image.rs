#![no_main]
//! Any bytes as a picture, to patches.

use libfuzzer_sys::fuzz_target;
use qwen3_omni_media::image::{ImageOptions, PixelBounds, patches};

fuzz_target!(|bytes: &[u8]| {
    let bounds = PixelBounds { min: 1024, max: 65_536 };
    let _ = patches(&bytes.into(), &ImageOptions { bounds, ..Default::default() });
});
