//! Positions, every block, the rows and deepstack features equal the reference's, on the device of `OMNI_TEST_DEVICE`.

use weights_tools::verify::assert_cases;

const CASES: [&str; 4] = ["vision_image", "vision_large_grid", "vision_two_images", "vision_video"];

#[test]
fn golden_cases() {
    assert_cases(&testkit::tiny(), &testkit::golden(), &testkit::device_name(), &CASES);
}
