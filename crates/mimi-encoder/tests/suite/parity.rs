//! Parity with the reference: every part of whole encodes, on both engines.

use std::collections::BTreeMap;

use crate::golden::{CASES, Golden, MODELS, load, places};
use burn::tensor::Tensor;
use qwen3_omni_mimi_encoder::MimiProbe;

const PARTS: [&str; 3] = ["conv", "transformer", "latents"];

/// Rows of each part.
#[derive(Default)]
struct Seen(BTreeMap<String, Vec<f32>>);

impl MimiProbe for Seen {
    fn part(&mut self, name: &str, rows: &Tensor<2>) {
        let values = rows.to_data().try_to_vec_as::<f32>().unwrap();
        self.0.entry(name.to_owned()).or_default().extend(values);
    }
}

/// Most error of a part: four times that of the reference in f32, which for few values may be small by chance; then four times the
/// rounding of the largest value.
fn limit(golden: &Golden, part: &str) -> f32 {
    let largest = golden.values(part).into_iter().map(f32::abs).fold(0.0, f32::max);
    4.0 * golden.noise(part).max(largest * f32::EPSILON)
}

#[test]
fn parts_and_codes_are_the_references() {
    for (model, place) in MODELS.into_iter().flat_map(|model| places().map(|place| (model, place))) {
        let encoder = load(model, &place);
        for case in CASES {
            let (golden, mut seen) = (Golden::open(model, case), Seen::default());
            let codes = encoder.encode_with(&golden.samples(), &mut seen).unwrap();
            for part in PARTS {
                let (found, expected) = (&seen.0[part], golden.values(part));
                assert_eq!(found.len(), expected.len(), "{model} {case}: {part}");
                let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                let limit = limit(&golden, part);
                assert!(error <= limit, "{model} {case} {:?}: {part}: {error} above {limit}", place.kind());
            }
            // A code is certain where both distances may be wrong by the error of the latents without becoming equal.
            let least = golden.values("margins").into_iter().fold(f32::INFINITY, f32::min);
            assert!(
                least > 4.0 * limit(&golden, "latents"),
                "{model} {case}: a margin of {least} tells no codes apart"
            );
            assert_eq!(codes, golden.codes(), "{model} {case} {:?}", place.kind());
        }
    }
}

#[test]
fn fewer_codebooks_are_the_first_ones() {
    let golden = Golden::open("variant", "whole");
    for (place, codebooks) in places().into_iter().flat_map(|place| [2, 3, 5].map(|count| (place.clone(), count))) {
        let encoder = load("variant", &place).with_codebooks(codebooks).unwrap();
        let expected: Vec<Vec<u32>> = golden.codes().iter().map(|frame| frame[..codebooks].to_vec()).collect();
        assert_eq!(encoder.codebooks(), codebooks);
        assert_eq!(encoder.encode(&golden.samples()).unwrap(), expected);
    }
}
