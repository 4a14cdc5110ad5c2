//! The text decoder against golden logits, token by token and in company, on both engines; and the search for a text.

use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni_aut_encoder::{AutDecoder, AutDecoderRun, AutDecoderState, Checkpoint, Dtype, Place, SearchOptions};
use safetensors::SafeTensors;

const VOCABULARY: usize = 1024;

/// Inputs and outputs of the golden training case, whose decoder lies in the checkpoint.
struct Golden {
    /// Encoder rows of each sound.
    sounds: Vec<Tensor<2>>,
    /// Prompt and text of each, without padding.
    ids: Vec<Vec<u32>>,
    /// Logits behind each id.
    logits: Vec<Vec<f32>>,
}

fn golden() -> Golden {
    let bytes = std::fs::read(testkit::training().join("aut_asr.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let (fours, _) = file.tensor(name).unwrap().data().as_chunks::<4>();
        fours.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let integers = |name: &str| -> Vec<i64> {
        let (eights, _) = file.tensor(name).unwrap().data().as_chunks::<8>();
        eights.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
    };
    let [rows, width] = file.tensor("in.encoder_rows").unwrap().shape().try_into().unwrap();
    let all = Tensor::<2>::from_data(TensorData::new(floats("in.encoder_rows"), [rows, width]), &Device::flex());
    let config = Checkpoint::open(testkit::tiny()).unwrap();
    let audio: qwen3_omni_aut_encoder::AudioConfig = config.config().section().unwrap();
    let lengths = integers("in.feature_lens").into_iter().map(|frames| audio.tokens(frames as usize)).collect();
    let columns = file.tensor("in.labels").unwrap().shape()[1];
    // The last id with a label ends the text; padding follows.
    let ends = integers("in.labels");
    let ends = ends.chunks(columns).map(|row| row.iter().rposition(|label| *label >= 0).unwrap() + 1);
    let ids = integers("in.decoder_ids");
    let ids = ids.chunks(columns).zip(ends).map(|(row, end)| row[..end].iter().map(|id| *id as u32).collect());
    Golden {
        sounds: all.split_with_sizes(lengths, 0),
        ids: ids.collect(),
        logits: floats("in.logits").chunks(columns * VOCABULARY).map(<[f32]>::to_vec).collect(),
    }
}

/// The golden decoder on both engines.
fn decoders() -> Vec<(&'static str, AutDecoder)> {
    let folder = testkit::tiny_with_decoder();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let load = |place| AutDecoder::from_checkpoint(&checkpoint, VOCABULARY, &place, Dtype::F32).unwrap();
    vec![("host", load(Place::Host(Device::flex()))), ("device", load(Place::Device(Device::flex())))]
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // As of the golden training case: f32 against f64, logits of size 1.
    assert!(found.len() == expected.len() && worst < 1e-4, "{what}: {worst}");
}

#[test]
fn logits_are_the_golden_ones_however_the_tokens_come() {
    let golden = golden();
    for (engine, decoder) in decoders() {
        let mut together = decoder.begin(&golden.sounds);
        for (item, ids) in golden.ids.iter().enumerate() {
            let expected = |at: usize| &golden.logits[item][at * VOCABULARY..][..VOCABULARY];
            for step in [1, 3] {
                let mut state = decoder.begin(&golden.sounds[item..=item]).remove(0);
                for (index, ids) in ids.chunks(step).enumerate() {
                    let logits = decoder.next(&mut [AutDecoderRun { state: &mut state, ids }]).unwrap();
                    let last = index * step + ids.len() - 1;
                    assert_near(
                        &logits[0],
                        expected(last),
                        &format!("{engine}, item {item}, {step} at once, row {last}"),
                    );
                }
            }
        }
        // Both texts in one call, of which one is ahead of the other.
        let ids = &golden.ids;
        let mut runs: Vec<_> = together
            .iter_mut()
            .zip([&ids[0][..2], &ids[1][..5]])
            .map(|(state, ids)| AutDecoderRun { state, ids })
            .collect();
        decoder.next(&mut runs).unwrap();
        let mut runs: Vec<_> = together
            .iter_mut()
            .zip([&ids[0][2..6], &ids[1][5..6]])
            .map(|(state, ids)| AutDecoderRun { state, ids })
            .collect();
        let logits = decoder.next(&mut runs).unwrap();
        for (item, logits) in logits.iter().enumerate() {
            assert_near(logits, &golden.logits[item][5 * VOCABULARY..][..VOCABULARY], &format!("{engine} together"));
        }
    }
}

#[test]
fn a_copied_state_goes_its_own_way() {
    let golden = golden();
    for (engine, decoder) in decoders() {
        let mut one = decoder.begin(&golden.sounds[..1]).remove(0);
        let next =
            |state: &mut AutDecoderState, ids: &[u32]| decoder.next(&mut [AutDecoderRun { state, ids }]).unwrap();
        next(&mut one, &golden.ids[0][..3]);
        let mut other = one.clone();
        next(&mut other, &[7, 8, 9]);
        let logits = next(&mut one, &golden.ids[0][3..5]);
        assert_near(&logits[0], &golden.logits[0][4 * VOCABULARY..][..VOCABULARY], engine);
        assert_eq!((one.tokens(), other.tokens()), (5, 6));
    }
}

/// The log-probability of a text and of the id that ends it, from whole passes without a search.
fn log_prob(decoder: &AutDecoder, sound: &Tensor<2>, prompt: &[u32], text: &[u32]) -> f64 {
    let mut state = decoder.begin(std::slice::from_ref(sound)).remove(0);
    let mut ids = prompt.to_vec();
    let mut sum = 0.0;
    for id in text {
        let logits = decoder.next(&mut [AutDecoderRun { state: &mut state, ids: &ids }]).unwrap().remove(0);
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        sum += f64::from(logits[*id as usize]) - total.ln();
        ids = vec![*id];
    }
    sum
}

#[test]
fn a_beam_of_one_takes_the_likeliest_token_and_a_wide_one_finds_the_likeliest_text() {
    let (golden, (_, decoder)) = (golden(), decoders().remove(0));
    let (sound, prompt) = (&golden.sounds[0], &golden.ids[0][..4]);
    let mut state = decoder.begin(&golden.sounds[..1]).remove(0);
    let (mut greedy, mut ids) = (Vec::new(), prompt.to_vec());
    for _ in 0..12 {
        let logits = decoder.next(&mut [AutDecoderRun { state: &mut state, ids: &ids }]).unwrap().remove(0);
        let best = (0..VOCABULARY).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
        greedy.push(best);
        ids = vec![best];
    }
    let options = |beam, most_tokens, end| SearchOptions { beam, most_tokens, end, length_penalty: 0.0 };
    // No id ends the text, so that it is cut off; and one that does.
    assert_eq!(decoder.search(sound, prompt, &options(1, 12, u32::MAX)).unwrap(), greedy);
    let end = greedy[5];
    let before = greedy.iter().position(|id| *id == end).unwrap();
    assert_eq!(decoder.search(sound, prompt, &options(1, 12, end)).unwrap(), greedy[..before]);
    assert!(decoder.search(sound, prompt, &options(1, 0, end)).unwrap().is_empty());

    // Wider beams find texts that are at least as likely as the greedy one, and one over all ids the likeliest of two tokens.
    let cut =
        |beam| log_prob(&decoder, sound, prompt, &decoder.search(sound, prompt, &options(beam, 2, u32::MAX)).unwrap());
    let all = cut(VOCABULARY);
    assert!(cut(1) <= all && cut(8) <= all);
    let first = decoder
        .next(&mut [AutDecoderRun { state: &mut decoder.begin(&golden.sounds[..1]).remove(0), ids: prompt }])
        .unwrap();
    let mut likely: Vec<u32> = (0..VOCABULARY as u32).collect();
    likely.sort_by(|a, b| first[0][*b as usize].total_cmp(&first[0][*a as usize]));
    for id in &likely[..20] {
        let mut state = decoder.begin(&golden.sounds[..1]).remove(0);
        let second = decoder.next(&mut [AutDecoderRun { state: &mut state, ids: &[prompt, &[*id]].concat() }]).unwrap();
        let best = (0..VOCABULARY).max_by(|a, b| second[0][*a].total_cmp(&second[0][*b])).unwrap() as u32;
        assert!(log_prob(&decoder, sound, prompt, &[*id, best]) <= all + 1e-6, "{id} {best}");
    }
}

#[test]
fn what_cannot_be_decoded_says_why() {
    let (golden, (_, decoder)) = (golden(), decoders().remove(0));
    let mut state = decoder.begin(&golden.sounds[..1]).remove(0);
    let mut told = |ids: &[u32]| decoder.next(&mut [AutDecoderRun { state: &mut state, ids }]).unwrap_err().to_string();
    assert!(told(&[3, 1024]).contains("id 1024 is beyond the decoder's vocabulary of 1024"));
    assert!(told(&[]).contains("without tokens"));
    for beam in [0, usize::MAX] {
        let options = SearchOptions { beam, most_tokens: 3, end: 0, length_penalty: 1.0 };
        let error = decoder.search(&golden.sounds[0], &[1], &options).unwrap_err().to_string();
        assert!(error.contains(&format!("beam of {beam} ")), "{error}");
    }

    let load = |folder: &std::path::Path, vocabulary| {
        let checkpoint = Checkpoint::open(folder).unwrap();
        AutDecoder::from_checkpoint(&checkpoint, vocabulary, &Place::Host(Device::flex()), Dtype::F32)
            .unwrap_err()
            .to_string()
    };
    assert!(load(&testkit::tiny(), 1024).contains("aut-decoder.safetensors"));
    let folder = testkit::tiny_with_decoder();
    let told = load(folder.path(), 999);
    assert!(told.contains("aut-decoder.safetensors") && told.contains("decoder.embed_tokens.weight"), "{told}");
    assert!(told.contains("999") && told.contains("1024"), "{told}");
    let file = folder.path().join("aut-decoder.safetensors");
    std::fs::copy(folder.path().join("model-00001-of-00003.safetensors"), &file).unwrap();
    assert!(load(folder.path(), 1024).contains("expected the layers of a text decoder"));
    std::fs::write(&file, "no tensors").unwrap();
    assert!(load(folder.path(), 1024).contains("aut-decoder.safetensors"));
}
