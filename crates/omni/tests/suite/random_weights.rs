//! A directory without weights is enough for a model that answers, on the device of `OMNI_TEST_DEVICE`.

use std::path::Path;
use std::sync::mpsc;

use qwen3_omni::{Dtype, GenerateOptions, Guards, Message, Omni, Reply};
use weights_tools::init::{Options, init_without_weights};
use weights_tools::quantize::Plan;

fn ask(directory: &Path, seed: u64) -> Reply {
    let device = testkit::device_name().parse().unwrap();
    let (sender, loading) = mpsc::channel();
    let builder = Omni::builder(directory).device(device).random_weights(seed);
    let omni = builder.progress(move |loading| sender.send(loading).unwrap()).load().unwrap();
    // The estimate takes kernels of convolutions for f32 on the CPU, where some are kept in bf16.
    let last = loading.into_iter().last().unwrap();
    assert!(last.bytes <= last.total && last.bytes > last.total / 10 * 8, "{last:?}");
    let options = GenerateOptions::default().max_new_tokens(8).max_codes(8).guards(Guards::off());
    omni.generate(&[Message::user().text("hello")], &options.greedy()).unwrap()
}

/// One test: a second one would draw from the same device.
#[test]
fn a_model_is_drawn_packed_or_not_and_the_same_for_a_seed() {
    for plan in [None, Some(Plan { bits: Some(4), ..Plan::default() })] {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().to_owned();
        let config = testkit::tiny().join("config.json");
        let (seed, layers, dtype, shard_bytes, restart) = (0, None, Dtype::Bf16, 1 << 30, false);
        init_without_weights(&Options {
            config,
            out,
            seed,
            layers,
            dtype,
            plan,
            shard_bytes,
            for_training: false,
            restart,
        })
        .unwrap();
        let [first, again, other] = [3, 3, 4].map(|seed| ask(directory.path(), seed));
        let codes = |reply: &Reply| reply.speech.as_ref().unwrap().codes.clone();
        assert_eq!((first.token_ids.len(), codes(&first).len()), (8, 7));
        assert_eq!((&first.token_ids, codes(&first)), (&again.token_ids, codes(&again)));
        assert_ne!((&first.token_ids, codes(&first)), (&other.token_ids, codes(&other)));
        let samples = first.speech.unwrap().audio.samples;
        assert!(!samples.is_empty() && samples.iter().all(|sample| sample.is_finite()));
    }
    let missing = Omni::builder("absent").random_weights(0).load().err().unwrap().to_string();
    assert!(missing.contains("config.json"), "{missing}");
}
