//! The facade: streams, options, limits, and requests that cannot be served.

use std::path::Path;
use std::sync::Arc;

use qwen3_omni::code2wav::Code2Wav;
use qwen3_omni::{
    ChunkRamp, Chunking, Device, Dtype, Error, Event, FinishReason, GenerateOptions, LastWord, Message, Omni, Reply,
    SamplingOptions, SpeechFinish, Stages, VocoderMode, checkpoint,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const SUM: &str = "what is seven plus five";

fn nano() -> Omni {
    Omni::builder(testkit::nano()).load().unwrap()
}

/// In single precision: what pieces of other sizes give differs by its rounding only.
fn exact() -> Omni {
    Omni::builder(testkit::nano()).dtype(Dtype::F32).load().unwrap()
}

fn question(text: &str) -> [Message; 1] {
    [Message::user().text(text)]
}

fn greedy() -> GenerateOptions {
    GenerateOptions::default().greedy()
}

/// A copy of the small checkpoint whose config is changed.
fn edited(edit: impl FnOnce(&mut Value)) -> TempDir {
    let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
    testkit::edit_json(&directory.path().join("config.json"), edit);
    directory
}

fn load(directory: &TempDir) -> Result<Omni, Error> {
    Omni::builder(directory.path()).load()
}

/// Text, sound and reply of a stream, in this order and nothing after.
fn collect(omni: &Omni, options: &GenerateOptions) -> (String, Vec<f32>, Reply) {
    let (mut text, mut samples, mut reply) = (String::new(), Vec::new(), None);
    for event in omni.stream(&question(SUM), options).unwrap() {
        assert!(reply.is_none(), "an event after `Done`");
        match event.unwrap() {
            Event::Text(piece) => {
                assert!(!piece.is_empty());
                text.push_str(&piece);
            }
            Event::Audio(sound) => {
                assert_eq!(sound.sample_rate, 24_000);
                samples.extend(sound.samples);
            }
            Event::Done(done) => reply = Some(*done),
            other => panic!("unknown event {other:?}"),
        }
    }
    (text, samples, reply.unwrap())
}

#[test]
fn a_stream_gives_what_generate_gives_for_every_chunk_size() {
    let omni = exact();
    let whole = omni.generate(&question(SUM), &greedy()).unwrap();
    let speech = whole.speech.unwrap();
    let ramps =
        [ChunkRamp::fixed(1), ChunkRamp::fixed(5), ChunkRamp::fixed(1000), ChunkRamp::default().first(2).most(4)];
    for (chunks, stages) in ramps
        .into_iter()
        .map(|ramp| (ramp, Stages::Concurrent))
        .chain([(ChunkRamp::default(), Stages::Sequential), (ChunkRamp::fixed(3), Stages::Sequential)])
    {
        let options = greedy().chunks(chunks).stages(stages);
        let (text, samples, reply) = collect(&omni, &options);
        assert_eq!((&text, &reply.text), (&whole.text, &whole.text));
        assert_eq!(reply.usage, whole.usage);
        let streamed = reply.speech.unwrap();
        assert_eq!(streamed.codes, speech.codes);
        assert!(streamed.audio.samples.is_empty());
        assert_eq!(samples.len(), speech.audio.samples.len());
        let error = samples.iter().zip(&speech.audio.samples).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(error < 1e-5, "{chunks:?}, {stages:?}: {error}");
    }
    assert!(reply_times_add_up(&whole.timings));
}

fn reply_times_add_up(timings: &qwen3_omni::Timings) -> bool {
    // Stages work at once: each fits into the whole, their sum need not.
    let stages = [timings.thinker, timings.talker + timings.code_predictor, timings.vocoder];
    timings.first_text <= timings.first_audio.unwrap()
        && timings.prefill <= timings.thinker
        && timings.first_code <= timings.talker
        && stages.into_iter().all(|stage| !stage.is_zero() && stage <= timings.total)
}

#[test]
fn the_reference_way_of_decoding_is_offered() {
    let omni = exact();
    let chunking = Chunking { frames: 12, left_context: 5 };
    let options = greedy().vocoder(VocoderMode::Chunked(chunking));
    let speech = omni.generate(&question(SUM), &options).unwrap().speech.unwrap();
    let checkpoint = checkpoint::Checkpoint::open(testkit::nano()).unwrap();
    let place = Device::Cpu.place(Dtype::F32).unwrap();
    let weights = checkpoint::Weights::new(&checkpoint, &place, Dtype::F32);
    let vocoder = Code2Wav::load(&weights, &checkpoint.config().section().unwrap()).unwrap();
    assert_eq!(speech.audio.samples, vocoder.decode_chunked(&speech.codes, chunking).unwrap());
}

#[test]
fn seeds_repeat_speech_and_differ_from_each_other() {
    // Random weights have flat distributions, so that other draws give other codes.
    let omni = Omni::builder(testkit::tiny()).load().unwrap();
    let codes = |seed| {
        let options = GenerateOptions::default().seed(seed).max_new_tokens(4).max_codes(12);
        omni.generate(&question("hello"), &options).unwrap().speech.unwrap().codes
    };
    assert_eq!(codes(3), codes(3));
    assert_ne!(codes(3), codes(4));
}

#[test]
fn greedy_speech_keeps_the_checkpoints_penalty_and_the_predictor_follows_the_talker() {
    let codes = |directory: &Path, options: GenerateOptions| {
        let options = options.max_new_tokens(4).max_codes(16);
        let omni = Omni::builder(directory).load().unwrap();
        omni.generate(&question("hello"), &options).unwrap().speech.unwrap().codes
    };
    let with_penalty = |repetition_penalty| {
        let talker = SamplingOptions::greedy().repetition_penalty(repetition_penalty);
        GenerateOptions::default().talker(talker)
    };
    let released = codes(&testkit::tiny(), greedy());
    assert_eq!(codes(&testkit::tiny(), with_penalty(1.05)), released);
    let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
    testkit::edit_json(&directory.path().join("generation_config.json"), |json| {
        json["talker_repetition_penalty"] = json!(3.0)
    });
    let penalised = codes(directory.path(), greedy());
    assert_eq!(penalised, codes(&testkit::tiny(), with_penalty(3.0)));
    assert_ne!(penalised, released);
}

#[test]
fn limits_end_text_and_speech() {
    let omni = nano();
    let mut options = greedy();
    (options.max_new_tokens, options.max_codes) = (2, Some(6));
    let reply = omni.generate(&question(SUM), &options).unwrap();
    assert_eq!((reply.text.as_str(), reply.finish_reason), ("seven plus", FinishReason::Limit));
    let speech = reply.speech.unwrap();
    // A frame exists for each code that was fed back.
    assert_eq!((speech.codes.len(), speech.finish_reason), (5, SpeechFinish::Limit));
}

#[test]
fn the_last_word_of_a_cut_answer_is_spoken_unless_the_reference_is_followed() {
    let omni = nano();
    let whole = |question_text: &str| omni.generate(&question(question_text), &greedy()).unwrap().speech.unwrap().codes;
    let cut = |last_word| {
        let options = greedy().max_new_tokens(2).last_word(last_word);
        let reply = omni.generate(&question("repeat red cat nine"), &options).unwrap();
        assert_eq!((reply.text.as_str(), reply.finish_reason), ("red cat", FinishReason::Limit));
        reply.speech.unwrap().codes
    };
    assert_eq!(cut(LastWord::Spoken), whole("repeat red cat"));
    assert_eq!(cut(LastWord::AsReference), whole("repeat red"));
}

#[test]
fn an_empty_answer_has_no_speech_and_is_no_error() {
    let first = Omni::builder(testkit::tiny()).load().unwrap();
    let mut one = greedy();
    one.max_new_tokens = 1;
    let id = first.generate(&question("hello"), &one.clone().text_only()).unwrap().token_ids[0];
    // With the first word as the end token, the model ends at once.
    let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
    testkit::edit_json(&directory.path().join("generation_config.json"), |json| json["eos_token_id"] = json!(id));
    let reply = load(&directory).unwrap().generate(&question("hello"), &greedy()).unwrap();
    assert_eq!((reply.text.as_str(), reply.token_ids.len(), reply.finish_reason), ("", 0, FinishReason::End));
    assert!(reply.speech.is_none());
    // Nothing is left to say either if the reference drops the only word.
    one.last_word = LastWord::AsReference;
    assert!(first.generate(&question("hello"), &one).unwrap().speech.is_none());
}

#[test]
fn unknown_speakers_list_the_known_ones_and_known_ones_match_in_any_case() {
    let omni = nano();
    assert_eq!(omni.speakers(), ["aiden", "chelsie", "ethan"]);
    let with = |name: &str| greedy().speaker(name);
    let message = omni.stream(&question(SUM), &with("Bob")).err().unwrap().to_string();
    assert!(message.contains("`Bob`") && message.contains("aiden, chelsie, ethan"), "{message}");
    let [a, b] = ["ETHAN", "ethan"].map(|name| omni.generate(&question("repeat cat"), &with(name)).unwrap());
    assert_eq!(a.speech.unwrap().codes, b.speech.unwrap().codes);
}

#[test]
fn conversations_that_cannot_be_answered_are_refused_before_any_work() {
    let omni = nano();
    for (chat, expected) in [
        (vec![], "empty"),
        (vec![Message::user()], "message 1"),
        (vec![Message::user().text("hi"), Message::assistant("hello")], "assistant"),
    ] {
        let error = omni.stream(&chat, &greedy()).err().unwrap();
        assert!(matches!(error, Error::Request(_)) && error.to_string().contains(expected), "{error}");
    }
    let options = greedy().talker(SamplingOptions::talker().temperature(f32::NAN));
    let message = omni.stream(&question(SUM), &options).err().unwrap().to_string();
    assert!(message.contains("talker") && message.contains("temperature"), "{message}");
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_both_numbers_and_an_answer_stops_at_its_end() {
    let short = |limit: usize| {
        edited(|config| config["thinker_config"]["text_config"]["max_position_embeddings"] = json!(limit))
    };
    let omni = load(&short(16)).unwrap();
    let tokens = omni.prompt(&question("hi"), &greedy()).unwrap().tokens();
    let error = omni.stream(&question("a very long question about everything there is"), &greedy()).err().unwrap();
    assert!(matches!(error, Error::ContextLength { tokens, limit: 16 } if tokens > 16), "{error}");
    let reply = omni.generate(&question("hi"), &greedy().text_only()).unwrap();
    assert_eq!((reply.finish_reason, reply.token_ids.len()), (FinishReason::Context, 16 - tokens));
}

#[test]
fn ids_without_a_row_and_tokens_with_another_id_are_refused() {
    let message = load(&edited(|config| config["tts_pad_token_id"] = json!(5000))).err().unwrap().to_string();
    assert!(message.contains("tts_pad_token_id is 5000") && message.contains("1024 rows"), "{message}");
    let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
    let whole = directory.path().join("tokenizer.json");
    std::fs::copy(testkit::tiny().join("alt/tokenizer.json"), &whole).unwrap();
    testkit::edit_json(&whole, |json| json["model"]["vocab"]["zzzz"] = json!(4999));
    let message = load(&directory).err().unwrap().to_string();
    // The tokens that are added after the vocabulary would all get other ids.
    assert!(message.contains("`<|endoftext|>` should have id 956"), "{message}");
}

#[test]
fn text_only_models_say_so_when_speech_is_asked_for() {
    let omni = Omni::builder(testkit::tiny()).text_only().load().unwrap();
    assert!(!omni.speaks() && omni.speakers().is_empty());
    let options = greedy().max_new_tokens(2);
    assert!(omni.generate(&question("hi"), &options).unwrap().speech.is_none());
    let options = options.speech(true);
    let error = omni.stream(&question("hi"), &options).err().unwrap();
    assert!(matches!(error, Error::NotLoaded(_)), "{error}");
    // Thinking and Captioner checkpoints have no talker at all.
    let directory = edited(|config| {
        config["enable_audio_output"] = json!(false);
        config.as_object_mut().unwrap().remove("talker_config");
        config.as_object_mut().unwrap().remove("code2wav_config");
    });
    let error = load(&directory).unwrap().stream(&question("hi"), &options).err().unwrap();
    assert!(matches!(error, Error::NotLoaded(_)) && error.to_string().contains("no talker"), "{error}");
}

#[test]
fn a_missing_directory_and_a_truncated_checkpoint_are_named() {
    let message = Omni::builder("/no/such/model").load().err().unwrap().to_string();
    assert!(message.contains("/no/such/model"), "{message}");
    let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
    let shard = directory.path().join("model-00002-of-00003.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    let message = load(&directory).err().unwrap().to_string();
    assert!(message.contains("model-00002-of-00003.safetensors") && message.contains("truncated"), "{message}");
}

#[test]
fn bf16_loads_and_answers_on_the_cpu() {
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let omni = Omni::builder(testkit::nano()).device(Device::cpu()).dtype(dtype).load().unwrap();
        let reply = omni.generate(&question("repeat red"), &greedy()).unwrap();
        assert_eq!(reply.text, "red", "{dtype}");
        assert!(reply.speech.unwrap().codes.len() >= 3);
    }
}

#[test]
fn threads_share_one_model_and_do_not_mix() {
    let omni = Arc::new(nano());
    let answers = ["repeat cat", "repeat dog seven", "what is one plus one", "repeat red red blue"];
    let alone: Vec<Reply> = answers.iter().map(|q| omni.generate(&question(q), &greedy()).unwrap()).collect();
    let threads: Vec<_> = answers
        .iter()
        .map(|q| {
            let (omni, q) = (omni.clone(), q.to_string());
            std::thread::spawn(move || omni.generate(&question(&q), &greedy()).unwrap())
        })
        .collect();
    for (thread, alone) in threads.into_iter().zip(alone) {
        let together = thread.join().unwrap();
        assert_eq!(together.text, alone.text);
        assert_eq!(together.speech.unwrap().codes, alone.speech.unwrap().codes);
    }
}

#[test]
fn a_dropped_stream_leaves_the_model_usable_and_progress_reaches_the_end() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let omni = Omni::builder(testkit::nano()).progress(move |loading| sender.send(loading).unwrap()).load().unwrap();
    let last = receiver.into_iter().last().unwrap();
    assert_eq!(last.bytes, last.total);
    let mut stream = omni.stream(&question(SUM), &greedy()).unwrap();
    assert!(matches!(stream.next(), Some(Ok(Event::Text(_)))));
    drop(stream);
    assert_eq!(omni.generate(&question("repeat cat"), &greedy()).unwrap().text, "cat");
}
