//! Prompt, every layer, every step, codes and sound of a run equal the reference's, on the device of `OMNI_TEST_DEVICE`.

use weights_tools::verify::assert_cases;

#[test]
fn golden_cases() {
    assert_cases(&testkit::tiny(), &testkit::golden(), &testkit::device_name(), &["talker_"]);
}
