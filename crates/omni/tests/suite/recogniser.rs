//! The recogniser of an audio encoder with a text decoder, with random weights: its parts fit, and its mistakes are named.

use std::path::Path;

use qwen3_omni::aut_encoder::{AutDecoder, AutEncoder, SearchOptions};
use qwen3_omni::burn::tensor::{Tensor, TensorData};
use qwen3_omni::checkpoint::Checkpoint;
use qwen3_omni::media::audio::log_mel;
use qwen3_omni::{
    AudioInput, AutOptions, AutPrompt, AutRecogniser, AutTask, Device, Dtype, OmniConfig, Place, Tokenizer,
};

fn sound(samples: usize) -> AudioInput {
    let wave: Vec<f32> = (0..samples).map(|at| 0.2 * (at as f32 * 0.3).sin()).collect();
    AudioInput::samples(wave, 16_000, 1)
}

#[test]
fn every_engine_recognises_the_same_text_by_any_beam() {
    let folder = testkit::tiny_with_decoder();
    let device = Device::Open(qwen3_omni::burn::tensor::Device::flex());
    let [host, burn] =
        [Device::cpu(), device].map(|device| AutRecogniser::open(folder.path(), &device, Dtype::F32).unwrap());
    for options in [AutOptions::default().beam(1), AutOptions::default()] {
        let texts = [&host, &burn].map(|recogniser| recogniser.recognise(&sound(24_000), &options).unwrap());
        assert_eq!(texts[0], texts[1]);
        // Random weights end no text.
        assert!(texts[0].chars().count() > 20, "{texts:?}");
    }
    let options = AutOptions::default().prompt(AutPrompt::new(AutTask::Caption, "french")).beam(1);
    let other = host.recognise(&sound(24_000), &options).unwrap();
    assert_ne!(other, host.recognise(&sound(24_000), &AutOptions::default().beam(1)).unwrap());
}

/// Makes a text depend more on its sound than random weights do: attention to it is sharp, and what comes of it counts.
fn attend_more(folder: &Path) {
    let file = folder.join("aut-decoder.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let (length, rest) = bytes.split_first_chunk_mut::<8>().unwrap();
    let (header, values) = rest.split_at_mut(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).unwrap();
    let sharp = ["encoder_attn.q_proj.weight", "encoder_attn.out_proj.weight"];
    for (_, tensor) in header.iter().filter(|(name, _)| sharp.iter().any(|end| name.ends_with(end))) {
        let [start, end] = [0, 1].map(|at| tensor["data_offsets"][at].as_u64().unwrap() as usize);
        for value in values[start..end].as_chunks_mut::<4>().0 {
            *value = (f32::from_le_bytes(*value) * 30.0).to_le_bytes();
        }
    }
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_text_is_searched_for_in_windows_of_eight_seconds_and_up_to_its_longest() {
    let folder = testkit::tiny_with_decoder();
    attend_more(folder.path());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let device = qwen3_omni::burn::tensor::Device::flex();
    let place = Place::Host(device.clone());
    let encoder = AutEncoder::from_checkpoint(&checkpoint, &place, Dtype::F32).unwrap();
    let decoder = AutDecoder::from_checkpoint(&checkpoint, 1024, &place, Dtype::F32).unwrap();
    let config = OmniConfig::of(checkpoint.config()).unwrap();
    let tokenizer = Tokenizer::from_directory(folder.path()).unwrap();
    let mut prompt = vec![config.turns.im_start];
    prompt.extend(tokenizer.encode("transcribe english\n").unwrap());
    let text = |sound: &AudioInput, seconds, most_tokens| {
        let mel = log_mel(std::slice::from_ref(sound)).unwrap().remove(0);
        let mel = Tensor::<2>::from_data(TensorData::new(mel.into_values(), [300, 128]), &device);
        let rows = encoder.hidden_states(&[mel], Some(seconds)).unwrap();
        assert_eq!(rows.dims()[0], 39);
        let end = config.top.im_end_token_id;
        let search = SearchOptions { beam: 1, most_tokens, end, length_penalty: 1.0 };
        tokenizer.decode(&decoder.search(&rows, &prompt, &search).unwrap(), true).trim().to_owned()
    };
    let recogniser = AutRecogniser::open(folder.path(), &Device::cpu(), Dtype::F32).unwrap();
    let mut windows_differ = false;
    for number in [1, 19, 20] {
        let sound = rising(number);
        let found = recogniser.recognise(&sound, &AutOptions::default().beam(1)).unwrap();
        // 39 rows and a half, and 16 tokens more.
        assert_eq!(found, text(&sound, 8, 58 + 16));
        assert_ne!(found, text(&sound, 8, 58 + 15));
        // The checkpoint's own window has two seconds.
        windows_differ |= found != text(&sound, 2, 58 + 16);
    }
    assert!(windows_differ, "no text depends on the window");
}

/// Three seconds of a rising tone, to which noise comes.
fn rising(number: usize) -> AudioInput {
    let noise = |at: usize| ((at.wrapping_mul(2_654_435_761).wrapping_add(number * 97) >> 7) % 1000) as f32 * 1e-4;
    let tone = |at: usize| 0.2 * (at as f32 * at as f32 * 1e-6 * (number + 1) as f32).sin();
    let begins = 20_000 + 500 * number;
    let sample = |at| tone(at) + if at > begins { noise(at) } else { 0.0 };
    AudioInput::samples((0..48_000).map(sample).collect::<Vec<f32>>(), 16_000, 1)
}

#[test]
fn a_short_sound_is_recognised_as_if_silence_followed_it() {
    let folder = testkit::tiny_with_decoder();
    let recogniser = AutRecogniser::open(folder.path(), &Device::cpu(), None).unwrap();
    let AudioInput::Samples { samples, .. } = sound(4_000) else { unreachable!() };
    let padded = [&samples[..], &[0.0; 12_000]].concat();
    let options = AutOptions::default();
    let texts = [sound(4_000), AudioInput::samples(padded, 16_000, 1)]
        .map(|sound| recogniser.recognise(&sound, &options).unwrap());
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn what_cannot_be_recognised_says_why() {
    let open = |folder: &std::path::Path| AutRecogniser::open(folder, &Device::cpu(), None);
    assert!(open(&testkit::tiny()).unwrap_err().to_string().contains("aut-decoder.safetensors"));
    assert!(open("no/such/folder".as_ref()).unwrap_err().to_string().contains("no/such/folder"));
    let folder = testkit::tiny_with_decoder();
    let recogniser = open(folder.path()).unwrap();
    let told = |sound: &AudioInput, options: &AutOptions| recogniser.recognise(sound, options).unwrap_err().to_string();
    let short = told(&sound(100), &AutOptions::default());
    assert!(short.contains("100 decoded samples") && short.contains("too short"), "{short}");
    assert!(told(&AudioInput::from("no/such.wav"), &AutOptions::default()).contains("no/such.wav"));
    assert!(told(&sound(16_000), &AutOptions::default().beam(0)).contains("beam of 0"));
    assert!("sing english".parse::<AutPrompt>().unwrap_err().to_string().contains("task `sing`"));
}
