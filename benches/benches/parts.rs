//! Thinker decode, talker step, code predictor frame and vocoder frame of the small checkpoint, and a frame of a small Mimi: overhead,
//! not arithmetic.
#![allow(missing_docs, clippy::unwrap_used)]

use burn::tensor::{Distribution, Tensor};
use checkpoint::{Checkpoint, Weights};
use code2wav::{Code2Wav, VocoderRun};
use criterion::{Criterion, criterion_group, criterion_main};
use mimi_encoder::MimiEncoder;
use moe_talker::{Talker, TalkerInput, TalkerRun};
use moe_thinker::{Thinker, ThinkerInput, ThinkerRun};
use mtp::{CodePredictor, FrameRun};
use nn::Logits;
use omni_core::{Dtype, FrameStart, Positions, SamplingOptions};
use qwen3_omni::OmniCheckpoint;
use qwen3_omni_benches::timing::wait;

const CACHED: usize = 64;

/// The logits, as the tensor to wait for.
fn scores(scores: Logits) -> Tensor<1> {
    match scores {
        Logits::Device(scores) => scores.flatten(0, 1),
        Logits::Host(scores) => Tensor::from_floats(&scores[..], &burn::tensor::Device::flex()),
    }
}

fn parts(criterion: &mut Criterion) {
    let checkpoint = OmniCheckpoint::open(testkit::tiny()).unwrap();
    let place = qwen3_omni::Device::cpu().place(Dtype::F32).unwrap();
    let weights = Weights::new(&checkpoint, &place, Dtype::F32);
    let config = checkpoint.config();
    let rows = |tokens, width| Tensor::<2>::random([tokens, width], Distribution::Default, place.device());

    let thinker = Thinker::load(&weights, &config.thinker, config.accept_hidden_layer()).unwrap();
    let width = config.thinker.text.hidden_size;
    let mut state = thinker.start();
    let input = |tokens, start| ThinkerInput::text(rows(tokens, width), Positions::sequence(start, tokens));
    thinker.forward(vec![ThinkerRun::new(&mut state, &input(CACHED, 0.0))]).remove(0).unwrap();
    criterion.bench_function("thinker decode", |bencher| {
        bencher.iter(|| {
            let output =
                thinker.forward(vec![ThinkerRun::new(&mut state, &input(1, CACHED as f32))]).remove(0).unwrap();
            state.truncate(CACHED);
            wait(scores(output.logits)).unwrap()
        })
    });

    let talker = Talker::load(&weights, config.talker().unwrap(), config.turns).unwrap();
    let width = config.talker().unwrap().text.hidden_size;
    let mut state = talker.start();
    let input =
        |tokens, start| TalkerInput { embeds: rows(tokens, width), positions: Positions::sequence(start, tokens) };
    talker.forward(vec![TalkerRun::new(&mut state, &input(CACHED, 0.0))]).remove(0).unwrap();
    criterion.bench_function("talker step", |bencher| {
        bencher.iter(|| {
            let output = talker.forward(vec![TalkerRun::new(&mut state, &input(1, CACHED as f32))]).remove(0).unwrap();
            state.truncate(CACHED);
            wait(scores(output.logits)).unwrap()
        })
    });

    let predictor = CodePredictor::load(&weights, config.code_predictor().unwrap()).unwrap();
    let mut state = predictor.start(&SamplingOptions::code_predictor());
    criterion.bench_function("code predictor frame", |bencher| {
        bencher.iter(|| {
            let start = FrameStart { hidden: rows(1, width), first: rows(1, width) };
            let codes = predictor.predict(vec![FrameRun::new(&mut state, &start)]).unwrap().remove(0).unwrap();
            wait(codes.embeds.flatten(0, 1)).unwrap()
        })
    });

    let vocoder = Code2Wav::load(&weights, config.code2wav().unwrap()).unwrap();
    let code2wav = config.code2wav().unwrap();
    let frames = vec![(0..code2wav.num_quantizers).map(|book| (book * 31 % code2wav.codebook_size) as u32).collect()];
    let mut state = vocoder.start();
    criterion.bench_function("code2wav frame", |bencher| {
        bencher.iter(|| vocoder.forward(vec![VocoderRun { state: &mut state, frames: &frames }]).remove(0).unwrap())
    });
}

fn mimi(criterion: &mut Criterion) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/mimi-encoder/fixtures/tiny");
    let place = qwen3_omni::Device::cpu().place(Dtype::F32).unwrap();
    let encoder = MimiEncoder::from_checkpoint(&Checkpoint::open(directory).unwrap(), &place).unwrap();
    let (mut state, samples) = (encoder.start(), vec![0.1; encoder.samples_per_frame()]);
    criterion
        .bench_function("Mimi frame", |bencher| bencher.iter(|| encoder.encode_step(&mut state, &samples).unwrap()));
}

criterion_group!(benches, parts, mimi);
criterion_main!(benches);
