//! What files, options and plugged-in parts say is what happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use burn::tensor::{DType, Device, Tensor};
use qwen3_omni::media::image::PixelBounds;
use qwen3_omni::vision_encoder::PixelPatches;
use qwen3_omni::{
    AudioInput, Chunking, Encoded, Error, GenerateOptions, Guards, ImageInput, Message, ModalityEncoder, Omni, Reply,
    Result, SamplingOptions, SpanLayout, Vocoder, VocoderMode, VocoderStream,
};
use serde_json::{Value, json};

fn greedy() -> GenerateOptions {
    GenerateOptions::default().greedy()
}

/// Random weights do not end by themselves.
fn short() -> GenerateOptions {
    greedy().max_new_tokens(6).max_codes(9).guards(Guards::off())
}

fn picture(name: &str) -> ImageInput {
    ImageInput::from(testkit::golden().join(name))
}

fn ask(omni: &Omni, messages: &[Message], options: &GenerateOptions) -> Reply {
    omni.generate(messages, options).unwrap()
}

#[test]
fn the_talker_follows_generation_config() {
    let question = [Message::user().text("hello")];
    let options = GenerateOptions::default().max_new_tokens(6).guards(Guards::off()).seed(3);
    let codes = |change: fn(&mut Value)| {
        let directory = testkit::copy_of(&testkit::tiny());
        testkit::edit_json(&directory.path().join("generation_config.json"), change);
        ask(&Omni::builder(directory.path()).load().unwrap(), &question, &options).speech.map(|speech| speech.codes)
    };
    // Four codes: three of them are fed back.
    let few = codes(|config| config["talker_max_new_tokens"] = json!(4)).unwrap();
    assert_eq!(few.len(), 3);
    let of = |change: fn(&mut Value)| codes(change).unwrap();
    let usual = of(|config| config["talker_max_new_tokens"] = json!(12));
    // Each of the settings changes what is drawn, and each that leaves one candidate gives what is greedy.
    let hot = of(|config| {
        config["talker_max_new_tokens"] = json!(12);
        config["talker_temperature"] = json!(30.0);
    });
    assert_ne!(usual, hot);
    let first_codes = |frames: &[Vec<u32>]| frames.iter().map(|frame| frame[0]).collect::<Vec<_>>();
    let best = of(|config| {
        config["talker_max_new_tokens"] = json!(12);
        config["talker_top_k"] = json!(1);
        config["talker_temperature"] = json!(30.0);
    });
    let nucleus = of(|config| {
        config["talker_max_new_tokens"] = json!(12);
        config["talker_top_p"] = json!(1e-6);
    });
    assert_ne!(first_codes(&best), first_codes(&hot));
    assert_eq!(first_codes(&best), first_codes(&nucleus));
}

#[test]
fn a_text_ends_with_any_of_the_ids_that_generation_config_names() {
    let question = [Message::user().text("repeat red cat nine")];
    let options = greedy().text_only();
    let usual = ask(&Omni::builder(testkit::nano()).load().unwrap(), &question, &options);
    assert!(usual.token_ids.len() >= 3);
    let ends = |value: Value| {
        let directory = testkit::copy_of(&testkit::nano());
        testkit::edit_json(&directory.path().join("generation_config.json"), |config| config["eos_token_id"] = value);
        ask(&Omni::builder(directory.path()).load().unwrap(), &question, &options).token_ids
    };
    let second = usual.token_ids[1];
    assert_eq!(ends(json!(second)), usual.token_ids[..1]);
    assert_eq!(ends(json!([second, usual.token_ids[2]])), usual.token_ids[..1]);
    // A list that names no id would let every text run to its limit.
    assert_eq!(ends(json!([])), usual.token_ids);
    for (wrong, said) in [(json!("end"), "a list of token ids"), (json!([second, 1_000_000]), "eos_token_id 1000000")] {
        let directory = testkit::copy_of(&testkit::nano());
        testkit::edit_json(&directory.path().join("generation_config.json"), |config| config["eos_token_id"] = wrong);
        let error = Omni::builder(directory.path()).load().err().unwrap().to_string();
        assert!(error.contains("generation_config.json") && error.contains(said), "{error}");
    }
}

#[test]
fn bounds_of_pictures_decide_their_tokens() {
    let omni = Omni::builder(testkit::tiny()).load().unwrap();
    let tokens = |bounds| {
        let options = greedy().image_bounds(bounds);
        omni.prompt(&[Message::user().image(picture("img_a.png"))], &options).unwrap().tokens()
    };
    let usual = tokens(None);
    let small = tokens(Some(PixelBounds { min: 1024, max: 4096 }));
    let large = tokens(Some(PixelBounds { min: 300_000, max: 500_000 }));
    assert!(small < usual && usual < large, "{small} {usual} {large}");
}

#[test]
fn a_saved_answer_says_how_it_is_played() {
    let omni = Omni::builder(testkit::nano()).load().unwrap();
    let speech = ask(&omni, &[Message::user().text("repeat red")], &greedy()).speech.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("reply.wav");
    speech.audio.save_wav(&path).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    // RIFF: PCM in one channel, 24,000 samples a second, 2 bytes each.
    assert_eq!((number(20), number(24), number(28)), (1 << 16 | 1, 24_000, 48_000));
    assert_eq!(bytes.len() - 44, 2 * speech.audio.samples.len());
    assert_eq!(speech.audio.duration().as_micros(), speech.audio.samples.len() as u128 * 1_000_000 / 24_000);
}

#[test]
fn the_talker_of_a_session_does_not_take_states_of_media_for_others() {
    let omni = Omni::builder(testkit::tiny()).load().unwrap();
    let conversation =
        |system: &str| [Message::system(system), Message::user().text("what is seen").image(picture("img_a.png"))];
    let [first, second] = ["one", "two"].map(conversation);
    // The same ids at the same places but for one word before the picture: only the states of the picture tell.
    let lengths = [&first, &second].map(|messages| omni.prompt(messages, &short()).unwrap().tokens());
    assert_eq!(lengths[0], lengths[1]);
    let mut session = omni.session();
    first.into_iter().for_each(|message| session.push(message));
    session.reply(&short()).unwrap();
    session.truncate(0);
    second.iter().for_each(|message| session.push(message.clone()));
    let reply = session.reply(&short()).unwrap();
    assert_eq!(reply.speech.unwrap().codes, ask(&omni, &second, &short()).speech.unwrap().codes);
}

#[test]
fn chunks_of_any_length_are_told_apart_by_what_they_are_padded_to() {
    let directory = testkit::copy_of(&testkit::tiny());
    testkit::edit_json(&directory.path().join("config.json"), |config| {
        config["thinker_config"]["audio_config"]["n_window"] = json!(52);
        config["thinker_config"]["audio_config"]["n_window_infer"] = json!(208);
    });
    let omni = Omni::builder(directory.path()).load().unwrap();
    let sound = |seconds: f32| {
        let samples = (0..(16_000.0 * seconds) as usize).map(|i| (i as f32 * 0.05).sin() * 0.3).collect::<Vec<_>>();
        Message::user().text("what is said").audio(AudioInput::samples(samples, 16_000, 1))
    };
    let mut session = omni.session();
    session.push(sound(1.01));
    let first = session.reply(&short()).unwrap();
    // A longer one, shorter than a chunk of 1.04 seconds: all chunks of the call are padded to it now.
    session.push(sound(1.03));
    let reply = session.reply(&short()).unwrap();
    assert!(reply.usage.cached_tokens < first.usage.prompt_tokens / 2, "{:?} {:?}", first.usage, reply.usage);
    let fresh = ask(&omni, &session.messages()[..3], &short());
    assert_eq!(reply.token_ids, fresh.token_ids);
}

/// Rows of zeros, unless it is told to fail.
#[derive(Clone, Default)]
struct Blind {
    fails: Arc<AtomicBool>,
    /// Rows that are missing from what is expected.
    missing: usize,
    width: usize,
    /// Says of all items that they are one.
    joins: bool,
    half: bool,
}

impl ModalityEncoder for Blind {
    type Features = Vec<PixelPatches>;

    fn encode(&self, items: Vec<PixelPatches>) -> Result<Encoded> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::Device("the camera is covered".into()));
        }
        let spans: Vec<SpanLayout> = items
            .iter()
            .map(|item| {
                let [t, h, w] = item.grid;
                SpanLayout::Grid { t, h: h / 2, w: w / 2, seconds_per_step: item.seconds_per_step }
            })
            .collect();
        let rows = spans.iter().map(SpanLayout::tokens).sum::<usize>() - self.missing;
        let dtype = if self.half { DType::F16 } else { DType::F32 };
        let embeds = Tensor::zeros([rows, self.width], (&Device::flex(), dtype));
        let spans = if self.joins { vec![SpanLayout::Sequence { tokens: rows }] } else { spans };
        Ok(Encoded { embeds, spans, deepstack: Vec::new() })
    }
}

fn blind(missing: usize) -> (Blind, Omni) {
    let encoder = Blind { missing, width: 128, ..Blind::default() };
    (encoder.clone(), with_vision(encoder))
}

fn with_vision(encoder: Blind) -> Omni {
    Omni::builder(testkit::nano()).vision_encoder(encoder).load().unwrap()
}

#[test]
fn a_vision_encoder_of_a_third_party_takes_the_place_of_the_checkpoints() {
    let (encoder, omni) = blind(0);
    assert_eq!(encoder.width, omni.config().thinker.text.hidden_size);
    let question = |name: &str| [Message::user().image(testkit::nano().join("../nano-samples").join(name))];
    // It sees the same in every picture of one size.
    let [a, b] = ["picture_one.png", "picture_two.png"].map(|name| ask(&omni, &question(name), &short()).token_ids);
    assert!(!a.is_empty());
    assert_eq!(a, b);
    let error = blind(1).1.generate(&question("picture_one.png"), &short()).unwrap_err().to_string();
    assert!(error.contains("picture") && error.contains("rows"), "{error}");
}

#[test]
fn a_third_partys_rows_come_in_any_number_type_and_item_by_item() {
    let picture = || ImageInput::from(testkit::nano().join("../nano-samples/picture_one.png"));
    let given = || Encoded {
        embeds: Tensor::zeros([2, 128], &Device::flex()),
        spans: vec![SpanLayout::Grid { t: 1, h: 1, w: 2, seconds_per_step: 0.0 }],
        deepstack: Vec::new(),
    };
    // Rows that the application gave stand between those that its encoder makes.
    let question = [Message::user().image(picture()).encoded(given()).image(picture()).text("what do you see")];
    let encoder = Blind { width: 128, ..Blind::default() };
    let [whole, half] = [false, true].map(|half| with_vision(Blind { half, ..encoder.clone() }));
    let expected = ask(&whole, &question, &short()).token_ids;
    assert_eq!(ask(&half, &question, &short()).token_ids, expected);
    for wrong in [Blind { joins: true, ..encoder.clone() }, Blind { missing: 1, ..encoder }] {
        let error = with_vision(wrong).generate(&question, &short()).unwrap_err().to_string();
        assert!(error.contains("picture") && error.contains("expected [18, 128] in items of [9, 9]"), "{error}");
    }
}

#[test]
fn a_session_keeps_what_it_has_read_when_an_encoder_fails() {
    let (encoder, omni) = blind(0);
    let mut session = omni.session();
    session.push(Message::user().text("repeat red cat nine"));
    let first = session.reply(&greedy()).unwrap();
    encoder.fails.store(true, Ordering::Relaxed);
    session.push(Message::user().image(testkit::nano().join("../nano-samples/picture_one.png")));
    let error = session.reply(&greedy()).unwrap_err().to_string();
    assert!(error.contains("the camera is covered"), "{error}");
    session.truncate(2);
    session.push(Message::user().text("repeat dog"));
    let reply = session.reply(&greedy()).unwrap();
    assert!(reply.usage.cached_tokens >= first.usage.prompt_tokens, "{:?}", reply.usage);
    assert_eq!(reply.text, ask(&omni, &session.messages()[..3], &greedy()).text);
}

/// Log-mel frames to zeros.
struct Deaf;

impl ModalityEncoder for Deaf {
    type Features = Vec<Tensor<2>>;

    fn encode(&self, items: Vec<Tensor<2>>) -> Result<Encoded> {
        // As many rows as the checkpoint's encoder makes: 13 of each second, of chunks of a second.
        let halved = |frames: usize| (0..3).fold(frames, |n, _| n.div_ceil(2));
        let tokens = |frames: usize| frames / 100 * 13 + halved(frames % 100);
        let spans: Vec<_> = items.iter().map(|item| SpanLayout::Audio { tokens: tokens(item.dims()[0]) }).collect();
        let rows = spans.iter().map(SpanLayout::tokens).sum();
        Ok(Encoded { embeds: Tensor::zeros([rows, 128], &Device::flex()), spans, deepstack: Vec::new() })
    }
}

#[test]
fn an_audio_encoder_of_a_third_party_takes_the_place_of_the_checkpoints_but_takes_no_audio_turns() {
    let omni = Omni::builder(testkit::nano()).audio_encoder(Deaf).load().unwrap();
    let question = [Message::user().audio(testkit::nano().join("../nano-samples/spoken_sum_question.wav"))];
    assert!(ask(&omni, &question, &short()).usage.text_tokens > 0);
    let mut session = omni.session();
    let error = session.audio_turn(&greedy(), Default::default()).err().unwrap().to_string();
    assert!(error.contains("audio encoder"), "{error}");
}

/// A tone per frame, whose pitch is the first code.
struct Beeper(Arc<AtomicUsize>);

struct Beeps(Arc<AtomicUsize>);

impl Vocoder for Beeper {
    fn sample_rate(&self) -> u32 {
        8_000
    }

    fn samples_per_frame(&self) -> usize {
        640
    }

    fn start(&self) -> Box<dyn VocoderStream> {
        Box::new(Beeps(self.0.clone()))
    }
}

impl VocoderStream for Beeps {
    fn step(&mut self, frames: &[Vec<u32>]) -> Result<Vec<f32>> {
        self.0.fetch_add(frames.len(), Ordering::Relaxed);
        let frame = |codes: &Vec<u32>| {
            let pitch = codes[0] as f32 / 1000.0;
            (0..640).map(move |at| 0.5 * (at as f32 * pitch).sin())
        };
        Ok(frames.iter().flat_map(frame).collect())
    }

    fn finish(&mut self) -> Result<Vec<f32>> {
        Ok(vec![0.25; 7])
    }
}

#[test]
fn a_vocoder_of_a_third_party_takes_the_place_of_the_checkpoints() {
    let frames = Arc::new(AtomicUsize::new(0));
    let omni = Omni::builder(testkit::nano()).vocoder(Beeper(frames.clone())).load().unwrap();
    let question = [Message::user().text("repeat red cat nine")];
    let reply = ask(&omni, &question, &greedy());
    let speech = reply.speech.unwrap();
    assert_eq!(frames.load(Ordering::Relaxed), speech.codes.len());
    assert_eq!(speech.audio.sample_rate, 8_000);
    assert_eq!(speech.audio.samples.len(), 640 * speech.codes.len() + 7);
    assert_eq!(speech.audio.samples.last(), Some(&0.25));
    let options = greedy().vocoder(VocoderMode::Chunked(Chunking::default()));
    let error = omni.generate(&question, &options).unwrap_err().to_string();
    assert!(error.contains("another vocoder"), "{error}");
    // The codes are those of the checkpoint's own.
    let own = ask(&Omni::builder(testkit::nano()).load().unwrap(), &question, &greedy());
    assert_eq!(speech.codes, own.speech.unwrap().codes);
}

#[test]
fn a_vocoder_whose_frames_have_no_samples_is_refused() {
    struct Mute(u32, usize);
    impl Vocoder for Mute {
        fn sample_rate(&self) -> u32 {
            self.0
        }
        fn samples_per_frame(&self) -> usize {
            self.1
        }
        fn start(&self) -> Box<dyn VocoderStream> {
            Box::new(Beeps(Arc::default()))
        }
    }
    for vocoder in [Mute(0, 640), Mute(8_000, 0)] {
        // Before anything is read.
        let error = Omni::builder("nowhere").vocoder(vocoder).load().err().unwrap().to_string();
        assert!(error.contains("the vocoder has"), "{error}");
    }
}

#[test]
fn what_is_asked_for_outranks_generation_config() {
    let omni = Omni::builder(testkit::tiny()).load().unwrap();
    let question = [Message::user().text("hello")];
    let talker = SamplingOptions::greedy().repetition_penalty(5.0);
    let options = short().talker(talker);
    let [usual, free] = [&short(), &options].map(|options| ask(&omni, &question, options).speech.unwrap().codes);
    assert_ne!(usual, free);
}
