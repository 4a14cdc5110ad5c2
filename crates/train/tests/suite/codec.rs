//! Training of the codec: exact resume, its files, codes that the vocoder takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use checkpoint::Checkpoint;
use code2wav::Code2Wav;
use omni_core::{Dtype, Place};
use qwen3_omni_train::data::Segment;
use qwen3_omni_train::model::{CODEC_CONFIG, CODEC_WEIGHTS, WaveEncoder};
use qwen3_omni_train::stage::{
    CodecSettings, CodedWaves, Coding, DiscriminatorSettings, Recordings, SpeechEncoder, Vocoding,
};
use qwen3_omni_train::trainer::{
    Ended, Feed, Limits, Log, Objective, Run, RunSettings, Started, TrainDtype, TrainState, Trainer, resume,
};
use testkit::tiny;

const FRAMES: usize = 6;
/// Samples of tiny's codec frames.
const FRAME: usize = 240;
const STEPS: usize = 8;
/// The vocoder's table of all codebooks.
const TABLE: &str = "code2wav.code_embedding.weight";

fn settings() -> CodecSettings {
    let run = RunSettings { steps: STEPS, rate: 3e-3, ..CodecSettings::default().run };
    CodecSettings { frames: FRAMES, quantize_after: 3, width: 24, run, ..CodecSettings::default() }
}

/// Two tones that differ from batch to batch.
fn segments(number: usize) -> Vec<Segment> {
    let tone = |pitch: usize| {
        let sample = |at: usize| 0.3 * (at as f32 * 0.01 * (pitch % 7 + 3) as f32).sin();
        Segment { samples: (0..FRAMES * FRAME).map(sample).collect(), origin: format!("tone {pitch}") }
    };
    vec![tone(2 * number), tone(2 * number + 1)]
}

/// Batches by their numbers.
struct Tones<F>(usize, F);

impl<O: Objective, F: Fn(Vec<Segment>) -> O::Batch> Feed<O> for Tones<F> {
    fn next_step(&mut self, _: &Trainer<O>) -> qwen3_omni_train::Result<Vec<O::Batch>> {
        self.0 += 1;
        Ok(vec![(self.1)(segments(self.0))])
    }

    fn state(&self) -> qwen3_omni_train::Result<serde_json::Value> {
        Ok(self.0.into())
    }
}

/// Trains until `stop` steps are taken, from the last checkpoint of the folder if there is one.
fn train<O: Objective>(
    folder: &Path,
    source: &Path,
    settings: &CodecSettings,
    start: Trainer<O>,
    batch: impl Fn(Vec<Segment>) -> O::Batch,
    stop: usize,
) -> Ended {
    let json = serde_json::to_value(settings).unwrap();
    let (mut trainer, mut state) = match resume(folder, start, settings.run.optimizer, &json, &Device::flex()).unwrap()
    {
        Started::Again(resumed) => (resumed.trainer, resumed.state),
        Started::Anew(trainer) => (*trainer, TrainState { settings: json, ..TrainState::default() }),
    };
    let limits = Limits { steps: STEPS, time: None, save_every: 100, keep: 2 };
    let run = Run { source, folder, schedule: settings.run.schedule().unwrap(), limits, workers: 1 };
    let mut feed = Tones(state.data.as_u64().unwrap_or(0) as usize, batch);
    run.train(&mut trainer, &mut state, &mut feed, &mut |line| line.step < stop).unwrap().0
}

fn train_codec(folder: &Path, settings: &CodecSettings, stop: usize) -> Ended {
    let start = Coding::trainer(&tiny(), settings, &Device::flex()).unwrap();
    train(folder, &tiny(), settings, start, Recordings::from, stop)
}

fn last(run: &Path) -> PathBuf {
    run.join(format!("step-{STEPS:06}"))
}

/// A run of the whole codec to its end.
fn trained() -> (tempfile::TempDir, PathBuf) {
    let run = tempfile::tempdir().unwrap();
    assert_eq!(train_codec(run.path(), &settings(), 99), Ended::Steps);
    let checkpoint = last(run.path());
    (run, checkpoint)
}

/// The tensors of a file as f32, by name.
fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    file.tensors().into_iter().map(|(name, view)| (name, values(view.data()))).collect()
}

fn same_tensors(a: &Path, b: &Path) {
    let mut compared = Vec::new();
    for folder in ["", "trainer"] {
        let files = std::fs::read_dir(a.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")) {
            let name = path.strip_prefix(a).unwrap();
            assert!(std::fs::read(&path).unwrap() == std::fs::read(b.join(name)).unwrap(), "{name:?} differs");
            compared.push(name.to_owned());
        }
    }
    for name in [CODEC_WEIGHTS, "trainer/objective.safetensors", "trainer/optimizer.safetensors"] {
        assert!(compared.contains(&PathBuf::from(name)), "{compared:?} has no {name}");
    }
}

#[test]
fn a_resumed_run_equals_one_that_was_never_stopped() {
    let discriminator = Some(DiscriminatorSettings { after: 0.5, channels: 3, ..DiscriminatorSettings::default() });
    let settings = CodecSettings { discriminator, ..settings() };
    let [whole, resumed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    assert_eq!(train_codec(whole.path(), &settings, 99), Ended::Steps);
    // Before the quantiser begins, as it begins, behind it, and behind the discriminator's first step.
    for stop in [2, 3, 4, 6] {
        assert_eq!(train_codec(resumed.path(), &settings, stop), Ended::Stopped);
    }
    assert_eq!(train_codec(resumed.path(), &settings, 99), Ended::Steps);
    same_tensors(&last(whole.path()), &last(resumed.path()));
    let [a, b] = [&whole, &resumed].map(|run| Log::read(&run.path().join("log.jsonl")).unwrap());
    assert!(a.len() == STEPS && a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.same_but_for_time(b)));
    assert!(a[STEPS - 1].parts["stft_log"] < a[0].parts["stft_log"], "{a:?}");
    // The first step with codes is the fourth, the first with a discriminator the fifth.
    let with =
        |name: &str| a.iter().filter(|line| line.parts.contains_key(name)).map(|line| line.step).collect::<Vec<_>>();
    assert_eq!((with("commitment"), with("discriminator")), (vec![4, 5, 6, 7, 8], vec![5, 6, 7, 8]));
}

#[test]
fn a_checkpoint_takes_the_codes_of_the_encoder_beside_it() {
    let (_run, folder) = trained();
    let encoder = WaveEncoder::open(&folder, &Device::flex()).unwrap();
    let stored = tensors(&folder.join(CODEC_WEIGHTS));
    let checkpoint = Checkpoint::open(&folder).unwrap();
    assert_eq!(checkpoint.tensors().len(), Checkpoint::open(tiny()).unwrap().tensors().len(), "the released layout");
    let place = Place::Device(Device::flex());
    let weights = checkpoint::Weights::new(&checkpoint, &place, Dtype::F32);
    let table = weights.values(TABLE, &[4 * 64, 32]).unwrap();
    let books = &stored["codec_quantizer.codebooks"];
    assert!(
        table.iter().zip(books).all(|(table, book)| (table - 4.0 * book).abs() <= 0.01 * table.abs()),
        "4 codebooks"
    );
    assert!(books.iter().any(|value| *value != 0.0));

    // A recording that ends inside a frame, and is longer than what is encoded at once.
    let wave: Vec<f32> = (0..300 * FRAME - 7).map(|at| 0.3 * (at as f32 * 0.05).sin()).collect();
    let codes = encoder.encode(&wave).unwrap();
    assert!(codes.len() == 300 && codes.iter().all(|frame| frame.len() == 4));
    // Codes depend on a frame and what is near it.
    let near = encoder.encode(&wave[..20 * FRAME]).unwrap();
    assert_eq!(near[..14], codes[..14]);
    // Where two pieces meet.
    let cut = encoder.encode(&wave[200 * FRAME..]).unwrap();
    assert_eq!(cut[6..99], codes[206..299]);
    let vocoder = Code2Wav::from_checkpoint(&checkpoint, &place, Dtype::F32).unwrap();
    assert_eq!(vocoder.waves(&[codes]).unwrap()[0].dims(), [300 * FRAME - vocoder.lookahead()]);
}

#[test]
fn the_vocoder_alone_learns_the_codes_of_an_encoder_that_stays() {
    let (_run, source) = trained();
    let device = Device::flex();
    let encoder = SpeechEncoder::open(&source, Some(4), &Place::Device(device.clone())).unwrap();
    let settings = CodecSettings { decoder_only: true, ..settings() };
    let run = tempfile::tempdir().unwrap();
    let start = Vocoding::trainer_for((&encoder, &source), &source, &settings, &device).unwrap();
    // The same tones each time.
    let batch = |_| CodedWaves::of_segments(segments(1), &encoder).unwrap();
    assert_eq!(train(run.path(), &source, &settings, start, batch, 99), Ended::Steps);
    let losses: Vec<f64> = Log::read(&run.path().join("log.jsonl")).unwrap().iter().map(|line| line.loss).collect();
    assert!(losses[STEPS - 1] < losses[0], "{losses:?}");
    let after = last(run.path());
    for file in [CODEC_CONFIG, CODEC_WEIGHTS] {
        assert_eq!(std::fs::read(source.join(file)).unwrap(), std::fs::read(after.join(file)).unwrap(), "{file}");
    }
    let [before, after] = [&source, &after].map(|folder| Checkpoint::open(folder).unwrap());
    for (name, tensor) in before.tensors() {
        let changed = before.bytes(tensor) != after.bytes(&after.tensors()[name]);
        assert_eq!(changed, name.starts_with("code2wav.") && !name.contains("code_embedding"), "{name}");
    }
}

#[test]
fn an_encoder_alone_learns_the_codes_that_a_vocoder_takes() {
    let settings = CodecSettings { encoder_only: true, commitment: 1.0, ..settings() };
    let start = || Coding::trainer(&tiny(), &settings, &Device::flex()).unwrap();
    let [whole, resumed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    // The same tones each time.
    let batch = |_| Recordings::from(segments(1));
    assert_eq!(train(whole.path(), &tiny(), &settings, start(), batch, 99), Ended::Steps);
    assert_eq!(train(resumed.path(), &tiny(), &settings, start(), batch, 2), Ended::Stopped);
    assert_eq!(train(resumed.path(), &tiny(), &settings, start(), batch, 99), Ended::Steps);
    let after = last(whole.path());
    assert_eq!(tensors(&after.join(CODEC_WEIGHTS)), tensors(&last(resumed.path()).join(CODEC_WEIGHTS)));
    let log = Log::read(&whole.path().join("log.jsonl")).unwrap();
    // Not quantised up to the third step.
    assert!(log[2].loss < log[0].loss && log[STEPS - 1].loss < log[3].loss, "{log:?}");

    // The model is as it was, and the codebooks are its own.
    let [before, model] = [tiny(), after.clone()].map(|folder| Checkpoint::open(folder).unwrap());
    assert!(before.tensors().iter().all(|(name, tensor)| before.bytes(tensor) == model.bytes(&model.tensors()[name])));
    let place = Place::Device(Device::flex());
    let table = checkpoint::Weights::new(&model, &place, Dtype::F32).values(TABLE, &[4 * 64, 32]).unwrap();
    let books = &tensors(&after.join(CODEC_WEIGHTS))["codec_quantizer.codebooks"];
    assert!(table.iter().zip(books).all(|(table, book)| *table == 4.0 * book), "4 codebooks");
    let codes = WaveEncoder::open(&after, &Device::flex()).unwrap().encode(&segments(1)[0].samples).unwrap();
    assert_eq!(codes.len(), FRAMES);

    let error = |settings: CodecSettings| Coding::trainer(&tiny(), &settings, &Device::flex()).unwrap_err().to_string();
    assert!(error(CodecSettings { fresh: true, ..settings.clone() }).contains("`fresh`"));
    assert!(error(CodecSettings { decoder_only: true, ..settings }).contains("`decoder_only`"));
}

#[test]
fn a_run_goes_on_from_the_codec_of_another_and_leaves_it_as_it_was() {
    let (_run, source) = trained();
    let before = std::fs::read(source.join(CODEC_WEIGHTS)).unwrap();
    let run = tempfile::tempdir().unwrap();
    let settings = CodecSettings { commitment: 0.0, ..settings() };
    let start = Coding::trainer(&source, &settings, &Device::flex()).unwrap();
    train(run.path(), &source, &settings, start, Recordings::from, 1);
    // Codes from the first step on.
    assert!(Log::read(&run.path().join("log.jsonl")).unwrap()[0].parts.contains_key("commitment"));
    assert_eq!(std::fs::read(source.join(CODEC_WEIGHTS)).unwrap(), before);
    let [old, new] = [source, run.path().join("step-000001")].map(|folder| tensors(&folder.join(CODEC_WEIGHTS)));
    for name in ["codec_encoder.conv_in.weight", "codec_encoder.out.weight", "codec_quantizer.codebooks"] {
        let moved = old[name].iter().zip(&new[name]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // More than weight decay alone; gradients go straight through the quantiser to the encoder.
        assert!(moved > 1e-4, "{name} moved by {moved}");
    }
}

#[test]
fn fresh_values_depend_on_the_seed_only() {
    let with_seed = |seed| {
        let run = RunSettings { seed, ..settings().run };
        let settings = CodecSettings { fresh: true, run, ..settings() };
        let trainer = Coding::trainer(&tiny(), &settings, &Device::flex()).unwrap();
        trainer.names.values(&trainer.model).into_iter().map(|(name, values)| (name, nn::to_f32_vec(&values))).collect()
    };
    let [a, again, other]: [BTreeMap<String, Vec<f32>>; 3] = [1, 1, 2].map(with_seed);
    assert_eq!(a, again);
    let deviation = |values: &[f32]| (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
    for (name, values) in &a {
        let constant = values.iter().all(|value| *value == values[0]);
        assert_eq!(constant, *values == other[name], "{name}");
    }
    // Fan-in 32 * 7; two of 48 inputs; a tenth of 6 * 7.
    for (name, expected) in [
        ("code2wav.decoder.0.conv.weight", 1.0 / 224f32.sqrt()),
        ("code2wav.decoder.1.block.1.conv.weight", 1.0 / 96f32.sqrt()),
        ("code2wav.decoder.5.conv.weight", 0.1 / 42f32.sqrt()),
    ] {
        let found = deviation(&a[name]);
        assert!((found / expected - 1.0).abs() < 0.25, "{name}: {found}, expected {expected}");
    }
}

#[test]
fn codecs_that_do_not_fit_are_refused() {
    let device = Device::flex();
    let error = |settings: CodecSettings| Coding::trainer(&tiny(), &settings, &device).unwrap_err().to_string();
    assert!(error(CodecSettings { frames: 4, ..settings() }).contains("frames"));
    assert!(error(CodecSettings { decay: 1.5, ..settings() }).contains("decay"));
    let narrow = CodecSettings { run: RunSettings { dtype: TrainDtype::Bf16, ..settings().run }, ..settings() };
    let alone = CodecSettings { decoder_only: true, ..narrow.clone() };
    for refused in [error(narrow), Vocoding::trainer(&tiny(), &alone, &device).unwrap_err().to_string()] {
        assert!(refused.contains("`run.dtype`: bf16, expected f32"), "{refused}");
    }
    assert!(error(CodecSettings { width: 0, ..settings() }).contains("width"));
    assert!(error(CodecSettings { quantize_after: STEPS, ..settings() }).contains("quantize_after"));
    let missing = CodecSettings { codec: Some("no/such/codec".into()), ..settings() };
    assert!(error(missing).contains("no/such/codec"));

    let (_run, source) = trained();
    let place = Place::Device(device.clone());
    let error = SpeechEncoder::open(&source, Some(16), &place).unwrap_err().to_string();
    assert!(error.contains("16") && error.contains("expected 4"), "{error}");
    assert!(SpeechEncoder::open(&tiny(), Some(4), &place).unwrap_err().to_string().contains(CODEC_CONFIG));
    // Another number of codes than the file has.
    edit(&source.join(CODEC_CONFIG), "codebook_size", 32);
    let error = WaveEncoder::open(&source, &device).unwrap_err().to_string();
    assert!(error.contains(CODEC_WEIGHTS) && error.contains("32"), "{error}");
    edit(&source.join(CODEC_CONFIG), "width", 25);
    let error = WaveEncoder::open(&source, &device).unwrap_err().to_string();
    assert!(error.contains("codec_encoder.conv_in.weight"), "{error}");
    edit(&source.join(CODEC_CONFIG), "samples_per_frame", 241);
    let error = WaveEncoder::open(&source, &device).unwrap_err().to_string();
    assert!(error.contains("241") && error.contains("multiple of 4"), "{error}");

    let begun = tempfile::tempdir().unwrap();
    train_codec(begun.path(), &settings(), 1);
    let error = WaveEncoder::open(&begun.path().join("step-000001"), &device).unwrap_err().to_string();
    assert!(error.contains("a later checkpoint"), "{error}");
}

fn edit(path: &Path, key: &str, value: usize) {
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    json[key] = value.into();
    std::fs::write(path, json.to_string()).unwrap();
}
