//! The facade with sound, pictures and video: counts, order, limits, variants, and requests that cannot be served.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni::aut_encoder::AutEncoder;
use qwen3_omni::checkpoint::Checkpoint;
use qwen3_omni::media::MediaError;
use qwen3_omni::media::audio::log_mel;
use qwen3_omni::media::image::{PixelBounds, Pixels};
use qwen3_omni::{
    AudioInput, Encoded, Error, Event, GenerateOptions, Message, ModalityEncoder, Omni, Part, PartKind, Place, Reply,
    SpanLayout, TalkerPositions, VideoInput, VideoSound,
};
use serde_json::json;
use tempfile::TempDir;

fn sample(name: &str) -> PathBuf {
    testkit::nano().join("../nano-samples").join(name)
}

fn nano() -> Omni {
    Omni::builder(testkit::nano()).load().unwrap()
}

fn tiny() -> Omni {
    Omni::builder(testkit::tiny()).load().unwrap()
}

fn greedy() -> GenerateOptions {
    GenerateOptions::default().greedy()
}

/// Few tokens and frames, for random weights.
fn short() -> GenerateOptions {
    greedy().max_new_tokens(5).max_codes(5)
}

fn edited(files: &[&str], edit: impl FnOnce(&Path)) -> TempDir {
    let directory = testkit::copy_of_tiny(files);
    edit(directory.path());
    directory
}

fn refused(omni: &Omni, message: Message, options: &GenerateOptions) -> Error {
    omni.stream(&[message], options).err().unwrap()
}

/// A square of one colour on black, as nano's pictures have them.
fn frames(count: usize) -> Vec<Pixels> {
    let frame = |t: usize| {
        let inside = |i: usize| (20 + t..60 + t).contains(&(i % 96)) && (30..70).contains(&(i / 96));
        (0..96 * 96).flat_map(|i| if inside(i) { [230, 30, 30] } else { [20, 20, 30] }).collect()
    };
    (0..count).map(|t| Pixels::new(96, 96, frame(t)).unwrap()).collect()
}

fn small_frames() -> GenerateOptions {
    let mut options = short();
    options.video.bounds = PixelBounds { min: 4096, max: 786_432 };
    options
}

#[test]
fn every_part_is_counted_before_anything_runs() {
    let message = Message::user()
        .text("what is")
        .audio(sample("spoken_hello_question.wav"))
        .image(sample("picture_one.png"))
        .video(VideoInput::frames(frames(5), 2.0));
    let chat = [Message::system("hello"), message];
    let prompt = tiny().prompt(&chat, &small_frames()).unwrap();
    let counts: Vec<_> = prompt.parts().iter().map(|part| (part.message, part.part, part.kind, part.tokens)).collect();
    // 1.06 s of sound; 6 × 6 patches; three steps of 6 × 6 patches.
    assert_eq!(counts[2..], [(2, 2, PartKind::Audio, 14), (2, 3, PartKind::Image, 9), (2, 4, PartKind::Video, 27)]);
    let inside: usize = counts.iter().map(|(.., tokens)| tokens).sum();
    // Two tokens open and close each of the three media; the template adds turns.
    assert!(prompt.tokens() > inside + 6);
    assert_eq!(prompt.ids().len(), prompt.tokens());
}

#[test]
fn bytes_samples_and_pixels_answer_as_the_files_they_come_from() {
    let omni = nano();
    let answer = |message: Message| omni.generate(&[message], &greedy()).unwrap();
    let file = sample("spoken_sum_question.wav");
    let from_file = answer(Message::user().audio(&file));
    assert_eq!(from_file.text, "five plus seven is twelve");
    let samples = qwen3_omni::media::audio::read(&AudioInput::from(&file)).unwrap();
    for audio in [AudioInput::from(std::fs::read(&file).unwrap()), AudioInput::samples(samples, 16_000, 1)] {
        let reply = answer(Message::user().audio(audio));
        assert_eq!(reply.speech.unwrap().codes, from_file.speech.as_ref().unwrap().codes);
    }
    let picture = sample("picture_two.png");
    let pixels = qwen3_omni::ImageInput::from(&picture).pixels().unwrap().into_owned();
    for message in [Message::user().image(&picture), Message::user().image(pixels)] {
        assert_eq!(answer(message.text("what do you see")).text, "a red circle left of a blue square");
    }
}

#[test]
fn a_clip_of_one_shape_is_understood_with_and_without_its_sound() {
    let omni = nano();
    let mut options = small_frames().max_new_tokens(1024).max_codes(None);
    let chat = [Message::user().video(sample("clip.mp4")).text("what do you see")];
    let mut tokens = Vec::new();
    for audio_in_video in [false, true] {
        options.audio_in_video = audio_in_video;
        let reply = omni.generate(&chat, &options).unwrap();
        assert_eq!(reply.text, "a big green triangle");
        assert!(!reply.timings.encoders.is_zero());
        tokens.push(reply.usage.prompt_tokens);
    }
    // Two seconds of sound, and the two tokens around it.
    assert!((26..=31).contains(&(tokens[1] - tokens[0])), "{tokens:?}");
}

#[test]
fn several_media_in_several_turns_are_read_in_order() {
    let omni = nano();
    let chat = [
        Message::user().image(sample("picture_one.png")).text("what do you see"),
        Message::assistant("a big green triangle"),
        Message::user().image(sample("picture_colour_spoken.png")).audio(sample("picture_colour_spoken_question.wav")),
    ];
    let prompt = omni.prompt(&chat, &greedy()).unwrap();
    let kinds: Vec<_> = prompt.parts().iter().map(|part| part.kind).collect();
    use PartKind::{Audio, Image, Text};
    assert_eq!(kinds, [Image, Text, Text, Image, Audio]);
    let Some(Ok(Event::Text(_))) = omni.stream_prompt(prompt).unwrap().next() else { panic!("no text") };
    // Swapped pictures give other answers: nothing is mixed up between the turns.
    let swapped = [
        Message::user().image(sample("picture_colour_spoken.png")).text("what do you see"),
        chat[1].clone(),
        Message::user().image(sample("picture_one.png")).audio(sample("picture_colour_spoken_question.wav")),
    ];
    let random = tiny();
    let [a, b] = [&chat, &swapped].map(|chat| random.generate(chat, &short()).unwrap());
    assert_ne!((a.token_ids, a.speech.map(|s| s.codes)), (b.token_ids, b.speech.map(|s| s.codes)));
}

#[test]
fn the_audio_window_can_be_set_within_what_the_model_was_trained_with() {
    let refused = Omni::builder(testkit::nano()).audio_window(9).load().err().unwrap().to_string();
    assert!(refused.contains("9 seconds") && refused.contains("1 to 8"), "{refused}");
    let omni = Omni::builder(testkit::nano()).audio_window(1).load().unwrap();
    let reply = omni.generate(&[Message::user().audio(sample("spoken_hello_question.wav"))], &greedy()).unwrap();
    assert_eq!(reply.text, "hello");
}

#[test]
fn rows_of_an_encoder_of_ones_own_stand_where_the_built_in_ones_would() {
    let omni = nano();
    let file = sample("spoken_sum_question.wav");
    let device = Device::flex();
    let encoder = |checkpoint| {
        let checkpoint = Checkpoint::open(checkpoint).unwrap();
        AutEncoder::from_checkpoint(&checkpoint, &Place::Host(device.clone()), omni_core::Dtype::F32).unwrap()
    };
    let mel = log_mel(&[file.clone().into()]).unwrap().remove(0);
    let shape = [mel.frames(), mel.bins()];
    let own = encoder(testkit::nano())
        .encode(vec![Tensor::from_data(TensorData::new(mel.into_values(), shape), &device)])
        .unwrap();
    let [a, b] = [Message::user().encoded(own.clone()), Message::user().audio(&file)]
        .map(|message| omni.generate(&[message], &greedy()).unwrap());
    assert_eq!(a.text, "five plus seven is twelve");
    assert_eq!(a.speech.unwrap().codes, b.speech.unwrap().codes);
    // Beside built-in ones, in order; both are prepared in one call, so that the shorter one is padded alike. Random weights answer every
    // order in another way.
    let (random, encoder) = (tiny(), encoder(testkit::tiny()));
    let hello = sample("spoken_hello_question.wav");
    let mels = log_mel(&[hello.clone().into(), file.clone().into()]).unwrap();
    let items = mels.into_iter().map(|mel| {
        let shape = [mel.frames(), mel.bins()];
        Tensor::from_data(TensorData::new(mel.into_values(), shape), &device)
    });
    let [first, second] = <[_; 2]>::try_from(items.collect::<Vec<_>>()).unwrap();
    let encoded = |item: Tensor<2>| encoder.encode(vec![item]).unwrap();
    let reply = |message: Message| {
        let reply = random.generate(&[message], &short()).unwrap();
        (reply.token_ids, reply.speech.map(|speech| speech.codes))
    };
    let built_in = reply(Message::user().audio(&hello).audio(&file));
    assert_eq!(reply(Message::user().encoded(encoded(first)).encoded(encoded(second.clone()))), built_in);
    assert_ne!(reply(Message::user().audio(&file).audio(&hello)), built_in);
    let narrow = Encoded {
        embeds: Tensor::zeros([3, 7], &device),
        spans: vec![SpanLayout::Audio { tokens: 3 }],
        deepstack: vec![],
    };
    let error = refused(&omni, Message::user().text("hear").encoded(narrow), &greedy());
    assert!(matches!(&error, Error::Media { part, .. } if part == "message 1, part 2"), "{error}");
    assert!(error.to_string().contains("[3, 7]") && error.to_string().contains("expected width 128"), "{error}");
}

#[test]
fn an_error_of_a_file_keeps_what_it_came_from() {
    use std::error::Error as _;
    let message = || Message::user().text("what is this");
    let missing = refused(&tiny(), message().image("/no/such.png"), &greedy());
    let source = missing.source().and_then(|source| source.downcast_ref::<MediaError>());
    assert!(
        matches!(source, Some(MediaError::Io { source, .. }) if source.kind() == ErrorKind::NotFound),
        "{missing:?}"
    );
    let cut = std::fs::read(testkit::media().join("picture.png")).unwrap();
    let damaged = refused(&tiny(), message().image(cut[..60].to_vec()), &greedy());
    let source = damaged.source().and_then(|source| source.downcast_ref::<MediaError>());
    assert!(matches!(source, Some(MediaError::Damaged { source: Some(_), .. })), "{damaged:?}");
}

#[test]
fn a_session_keeps_the_frames_of_a_sound_behind_one_that_was_encoded_elsewhere() {
    let embeds = Tensor::zeros([3, 128], &Device::flex());
    let encoded = Encoded { embeds, spans: vec![SpanLayout::Audio { tokens: 3 }], deepstack: vec![] };
    let mut session = nano().session();
    session.push(Message::user().encoded(encoded).audio(sample("spoken_sum_question.wav")));
    session.reply(&short()).unwrap();
    let messages = session.messages();
    let parts = messages[0].parts();
    assert!(matches!(parts, [Part::Encoded(_), Part::Audio(AudioInput::Frames(_))]), "{parts:?}");
}

#[test]
fn what_cannot_be_read_is_named_by_message_part_and_file() {
    let omni = nano();
    let options = greedy();
    for (message, expected) in [
        (Message::user().text("hear").audio("/no/such.wav"), ["message 1, part 2", "/no/such.wav"]),
        (Message::user().image(testkit::media().join("tone.mp3")), ["message 1, part 1", "no picture"]),
        (Message::user().audio(sample("picture_one.png")), ["message 1, part 1", "no sound"]),
        (Message::user().video(testkit::media().join("sound_only.mp4")), ["message 1, part 1", "no video track"]),
        (Message::user().audio(AudioInput::samples(vec![], 16_000, 1)), ["message 1, part 1", "no samples"]),
    ] {
        let error = refused(&omni, message, &options);
        assert!(matches!(error, Error::Media { .. }), "{error}");
        assert!(expected.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    let silent = Message::user().text("hear").video_with(testkit::media().join("silent.mp4"), VideoSound::Track);
    let message = refused(&omni, silent, &greedy()).to_string();
    assert!(message.contains("message 1, part 2") && message.contains("no sound track"), "{message}");
    let chosen = Message::user().video_with(VideoInput::frames(frames(2), 1.0), VideoSound::Track);
    let message = refused(&omni, chosen, &greedy()).to_string();
    assert!(message.contains("no sound of their own"), "{message}");
}

#[test]
fn each_video_is_heard_or_seen_in_silence() {
    let omni = tiny();
    let [clip, silent] = ["clip.mp4", "silent.mp4"].map(|name| testkit::media().join(name));
    let options = small_frames().audio_in_video(true);
    let counts = |message: Message, options: &GenerateOptions| -> Vec<usize> {
        omni.prompt(&[message], options).unwrap().parts().iter().map(|part| part.tokens).collect()
    };
    let three = || Message::user().video(&clip).video(&silent).video(&clip);
    let [seen, still, _] = counts(three(), &small_frames())[..] else { panic!() };
    // Two seconds of sound are 26 tokens; AAC adds up to a tenth of a second of padding.
    let [first, second, third] = counts(three(), &options)[..] else { panic!() };
    assert!((26..=28).contains(&(first - seen)), "{first} {seen}");
    assert_eq!((second, third), (still, first));
    let chosen = || VideoInput::frames(frames(2), 1.0);
    let mixed = |of: [VideoSound; 2]| {
        let [a, b] = of;
        Message::user().video_with(&clip, a).video_with(&clip, b).video(chosen())
    };
    let frames = counts(Message::user().video(chosen()), &small_frames())[0];
    assert_eq!(counts(mixed([VideoSound::Silent, VideoSound::Auto]), &options), [seen, first, frames]);
    assert_eq!(counts(mixed([VideoSound::Track, VideoSound::Auto]), &small_frames()), [first, seen, frames]);
    let given = || AudioInput::samples(vec![0.1; 16_000], 16_000, 1);
    let sounds = [VideoSound::Always(given()), VideoSound::Given(given())];
    assert_eq!(counts(mixed(sounds), &small_frames()), [seen + 13, seen, frames]);
    let message = mixed([VideoSound::Silent, VideoSound::Auto]).text("What is said?");
    assert!(!omni.generate(&[message], &options).unwrap().token_ids.is_empty());
}

#[test]
fn a_placeholder_in_a_text_part_is_refused_where_special_tokens_are_meant() {
    let options = greedy().special_tokens_in_text(true);
    let message = refused(&nano(), Message::user().text("a <|image_pad|> b"), &options).to_string();
    assert!(message.contains("1 image placeholders for 0 image parts"), "{message}");
}

#[test]
fn media_that_do_not_fit_the_context_are_refused_with_the_count_and_the_limit() {
    let directory = edited(&testkit::TINY_FILES, |path| {
        testkit::edit_json(&path.join("config.json"), |config| {
            config["thinker_config"]["text_config"]["max_position_embeddings"] = json!(100);
        });
    });
    let omni = Omni::builder(directory.path()).load().unwrap();
    let long = || Message::user().audio(AudioInput::samples(vec![0.1; 16_000 * 10], 16_000, 1));
    let prompt = omni.prompt(&[long()], &greedy()).unwrap();
    assert_eq!(prompt.parts()[0].tokens, 130);
    let error = refused(&omni, long(), &greedy());
    assert!(matches!(error, Error::ContextLength { tokens, limit: 100 } if tokens == prompt.tokens()), "{error}");
    // With a picture beside it, the same sound is refused before the picture is decoded.
    let error = omni.prompt(&[long().image(png_header(32, 32))], &greedy()).unwrap_err();
    assert!(matches!(error, Error::ContextLength { tokens, limit: 100 } if tokens > prompt.tokens()), "{error}");
    // Only the header is there: nothing has been decoded when the pictures are counted.
    let header = png_header(10_000, 10_000);
    let many = (0..20).fold(Message::user(), |message, _| message.image(header.clone()));
    let error = refused(&omni, many, &greedy());
    assert!(matches!(error, Error::ContextLength { tokens: 246_420.., limit: 100 }), "{error}");
    let error = refused(&omni, Message::user().image(png_header(32, 32)), &greedy()).to_string();
    assert!(error.contains("truncated"), "{error}");
}

/// A PNG file that ends behind its header.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend([width, height].iter().flat_map(|side| side.to_be_bytes()));
    chunk.extend([1, 0, 0, 0, 0]);
    let crc = chunk.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    });
    let head = [b"\x89PNG\r\n\x1a\n".as_slice(), &13u32.to_be_bytes(), &chunk, &(!crc).to_be_bytes()].concat();
    [head, vec![0; 4], b"IDAT\x35\xaf\x06\x1e".to_vec()].concat()
}

#[test]
fn videos_are_shrunk_to_the_context_and_the_refusal_names_the_options() {
    let directory = edited(&testkit::TINY_FILES, |path| {
        testkit::edit_json(&path.join("config.json"), |config| {
            config["thinker_config"]["text_config"]["max_position_embeddings"] = json!(400);
        });
    });
    let omni = Omni::builder(directory.path()).load().unwrap();
    let video = |count| Message::user().video(VideoInput::frames(frames(count), 2.0));
    let tokens = |omni: &Omni, message: Message| omni.prompt(&[message], &small_frames()).map(|p| p.parts()[0].tokens);
    // Nine tokens for each step of two frames, where there is room; frames of 64 × 64 pixels where there is not.
    assert_eq!(tokens(&omni, video(60)).unwrap(), 30 * 9);
    assert_eq!(tokens(&tiny(), video(100)).unwrap(), 50 * 9);
    assert_eq!(tokens(&omni, video(100)).unwrap(), 50 * 4);
    let two = video(60).video(VideoInput::frames(frames(60), 2.0));
    assert_eq!(tokens(&omni, two).unwrap(), 30 * 4);
    let error = tokens(&omni, video(240)).unwrap_err();
    assert!(matches!(&error, Error::Media { part, .. } if part == "message 1, part 1"), "{error}");
    for named in ["240 frames of 64 × 64 pixels", "480 tokens", "`frames_per_second`", "`max_frames`", "`bounds`"] {
        assert!(error.to_string().contains(named), "{error}");
    }
    // A total of one's own is kept to.
    let mut options = small_frames();
    options.video.token_budget = Some(150);
    assert_eq!(omni.prompt(&[video(60)], &options).unwrap().parts()[0].tokens, 30 * 4);
}

#[test]
fn without_encoders_text_is_answered_and_media_are_not() {
    let omni = Omni::builder(testkit::nano()).without_media().load().unwrap();
    assert!(!omni.sees_and_hears());
    assert_eq!(omni.generate(&[Message::user().text("repeat cat")], &greedy()).unwrap().text, "cat");
    let error = refused(&omni, Message::user().image(sample("picture_one.png")), &greedy());
    assert!(matches!(error, Error::NotLoaded(_)), "{error}");
}

#[test]
fn the_talker_may_place_sound_in_video_as_the_reference_does() {
    let omni = tiny();
    let sound = AudioInput::samples((0..36_800).map(|i| (i as f32 * 0.05).sin() * 0.2).collect::<Vec<_>>(), 16_000, 1);
    let message = Message::user().video_with_sound(VideoInput::frames(frames(4), 2.0), sound).text("What is said?");
    let answer = |talker_positions| {
        let options = small_frames().audio_in_video(true).talker_positions(talker_positions).max_codes(12);
        omni.generate(std::slice::from_ref(&message), &options).unwrap()
    };
    let [exact, reference] = [TalkerPositions::Exact, TalkerPositions::AsReference].map(answer);
    assert_eq!(exact.text, reference.text);
    assert_ne!(exact.speech.unwrap().codes, reference.speech.unwrap().codes);
}

/// Files of the Thinking and Captioner variants: no talker, no vocoder.
fn silent_variant(edit: impl FnOnce(&Path)) -> TempDir {
    edited(&testkit::TINY_FILES, |path| {
        testkit::edit_json(&path.join("config.json"), |config| {
            config["enable_audio_output"] = json!(false);
            config.as_object_mut().unwrap().retain(|key, _| key != "talker_config" && key != "code2wav_config");
        });
        edit(path);
    })
}

#[test]
fn the_captioner_answers_sound_alone_with_text() {
    let omni = Omni::builder(silent_variant(|_| {}).path()).load().unwrap();
    let reply = omni.generate(&[Message::user().audio(sample("spoken_hello_question.wav"))], &short()).unwrap();
    assert!(reply.speech.is_none() && !reply.token_ids.is_empty());
}

#[test]
fn thinking_has_its_own_event_and_stays_out_of_the_text() {
    const QUESTION: &str = "How many people are speaking in the blue lighthouse?";
    let chat = [Message::system("You are a helpful assistant."), Message::user().text(QUESTION)];
    let options = greedy().max_new_tokens(20);
    let plain = Omni::builder(testkit::tiny()).text_only().load().unwrap().generate(&chat, &options).unwrap();
    assert!(plain.thinking.is_none());
    // The tokens the model writes first and often are given other meanings.
    let renamed = |meaning: &str| {
        let (often, of_old) = (plain.token_ids[0].to_string(), meaning.to_owned());
        silent_variant(move |path| {
            testkit::edit_json(&path.join("tokenizer_config.json"), |json| {
                let tokens = json["added_tokens_decoder"].as_object_mut().unwrap();
                let old = tokens.iter().find(|(_, token)| token["content"] == of_old.as_str()).unwrap().0.clone();
                let (a, b) = (tokens[&often]["content"].clone(), tokens[&old]["content"].clone());
                (tokens[&often]["content"], tokens[&old]["content"]) = (b, a);
            });
        })
    };
    let answer = |directory: &TempDir, options: &GenerateOptions| -> (String, String, Reply) {
        let omni = Omni::builder(directory.path()).load().unwrap();
        let (mut thought, mut said, mut reply) = (String::new(), String::new(), None);
        for event in omni.stream(&chat, options).unwrap() {
            match event.unwrap() {
                Event::Thinking(piece) => thought.push_str(&piece),
                Event::Text(piece) => said.push_str(&piece),
                Event::Done(done) => reply = Some(*done),
                other => panic!("{other:?}"),
            }
        }
        (thought, said, reply.unwrap())
    };
    let (thought, said, reply) = answer(&renamed("<think>"), &options);
    assert!(said.is_empty() && reply.text.is_empty() && !thought.is_empty());
    assert!(thought.contains(reply.thinking.as_deref().unwrap().trim()));
    let ended = options.starts_thinking(true);
    let (thought, said, reply) = answer(&renamed("</think>"), &ended);
    assert!(thought.is_empty() && !said.is_empty());
    // As the reference reads it: what stands after the last closing token.
    assert!(said.ends_with(&reply.text) && reply.thinking.is_some());
    assert_eq!(reply.token_ids, plain.token_ids);
}
