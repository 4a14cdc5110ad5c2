#![no_main]
//! Any bytes as a picture, to its size and patches. `PATH` is emptied, so that only what is decoded here is tried.

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use qwen3_omni_media::image::{ImageInput, ImageOptions, PixelBounds, patches};

static START: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // SAFETY: called once, before any other thread of this process exists.
    START.call_once(|| unsafe { std::env::set_var("PATH", "") });
    let (input, bounds) = (ImageInput::from(bytes), PixelBounds { min: 1024, max: 65_536 });
    let _ = input.size();
    let _ = patches(&input, &ImageOptions { bounds, ..Default::default() });
});
