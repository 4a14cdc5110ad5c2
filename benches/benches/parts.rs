//! Thinker decode, talker step, code predictor frame and vocoder frame of the small checkpoint: overhead, not arithmetic.
#![allow(missing_docs, clippy::unwrap_used)]

use burn::tensor::{Distribution, Int, Tensor};
use checkpoint::{Checkpoint, Weights};
use code2wav::Code2Wav;
use criterion::{Criterion, criterion_group, criterion_main};
use moe_talker::Talker;
use moe_thinker::Thinker;
use mtp::CodePredictor;
use omni_core::{CodeFrames, CodePredictor as _, DecoderInput, Dtype, Positions, SamplingOptions, Stage, TalkerInput};
use qwen3_omni_benches::timing::wait;

const CACHED: usize = 64;

fn parts(criterion: &mut Criterion) {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let device = qwen3_omni::Device::cpu().open().unwrap();
    let weights = Weights::new(&checkpoint, &device, Dtype::F32);
    let config = checkpoint.config();
    let rows = |tokens, width| Tensor::<3>::random([1, tokens, width], Distribution::Default, &device);

    let thinker = Thinker::load(&weights, config).unwrap();
    let width = config.thinker.text.hidden_size;
    let mut state = thinker.start();
    let input = |tokens, start| DecoderInput::text(rows(tokens, width), Positions::sequence(start, tokens));
    thinker.step(&mut state, input(CACHED, 0.0)).unwrap();
    criterion.bench_function("thinker decode", |bencher| {
        bencher.iter(|| {
            let output = thinker.step(&mut state, input(1, CACHED as f32)).unwrap();
            state.truncate(CACHED);
            wait(output.logits.flatten(0, 1)).unwrap()
        })
    });

    let talker = Talker::load(&weights, config).unwrap();
    let width = config.talker().unwrap().text.hidden_size;
    let mut state = talker.start();
    let input =
        |tokens, start| TalkerInput { embeds: rows(tokens, width), positions: Positions::sequence(start, tokens) };
    talker.step(&mut state, input(CACHED, 0.0)).unwrap();
    criterion.bench_function("talker step", |bencher| {
        bencher.iter(|| {
            let output = talker.step(&mut state, input(1, CACHED as f32)).unwrap();
            state.truncate(CACHED);
            wait(output.logits.flatten(0, 1)).unwrap()
        })
    });

    let predictor = CodePredictor::load(&weights, config).unwrap();
    let mut state = predictor.start(&SamplingOptions::code_predictor());
    criterion.bench_function("code predictor frame", |bencher| {
        bencher.iter(|| {
            let codes = predictor.predict(&mut state, rows(1, width), rows(1, width)).residual;
            wait(codes.float().flatten(0, 1)).unwrap()
        })
    });

    let vocoder = Code2Wav::load(&weights, config).unwrap();
    let code2wav = config.code2wav().unwrap();
    let shape = [1, code2wav.num_quantizers, 1];
    let codes = Tensor::<3, Int>::random(shape, Distribution::Uniform(0.0, code2wav.codebook_size as f64), &device);
    let mut state = vocoder.start();
    criterion.bench_function("code2wav frame", |bencher| {
        bencher.iter(|| {
            let sound = vocoder.step(&mut state, CodeFrames { codes: codes.clone() }).unwrap();
            wait(sound.samples.flatten(0, 1)).unwrap()
        })
    });
}

criterion_group!(benches, parts);
criterion_main!(benches);
