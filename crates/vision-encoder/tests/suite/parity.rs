//! Parity with the reference: positions, every block, the rows and deepstack features.
//!
//! In f32 on the device of `OMNI_TEST_DEVICE`; on the CPU with both engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 4] = ["vision_image", "vision_large_grid", "vision_two_images", "vision_video"];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
