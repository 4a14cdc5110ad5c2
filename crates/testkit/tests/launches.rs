//! How many kernels a step of each part launches on a GPU: what bounds its speed there, whatever the card.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use aut_encoder::{AudioConfig, AutEncoder};
use burn::tensor::{Device, DeviceKind, Tensor, TensorData};
use checkpoint::{Checkpoint, Scheme, Weights};
use code2wav::{Code2Wav, Code2WavConfig, VocoderRun};
use gpu_kernels::{Launches, counted};
use moe_talker::{Talker, TalkerConfig, TalkerInput, TalkerRun, TalkerState};
use moe_thinker::{Thinker, ThinkerConfig, ThinkerInput, ThinkerRun, ThinkerState};
use mtp::{CodePredictor, CodePredictorConfig, FrameRun, FrameStart};
use nn::sampler::Suppressed;
use nn::{Logits, Sampler};
use omni_core::{Dtype, ModalityEncoder, Place, Positions, SamplingOptions};
use qwen3_omni_testkit as testkit;
use vision_encoder::{PixelPatches, VisionConfig, VisionEncoder};

/// All launches of the process are counted, so the tests take turns.
static ALONE: Mutex<()> = Mutex::new(());

fn gpu() -> Device {
    Device::wgpu(DeviceKind::DefaultDevice)
}

/// Launches of the second of two equal steps; the first allocates caches.
fn of_second(mut step: impl FnMut()) -> Launches {
    step();
    counted(step).1
}

/// Weights in f32, or random ones of which all matrices are packed alike.
fn weights(checkpoint: &Checkpoint, bits: Option<u32>) -> Weights<'_> {
    let place = Place::Device(gpu());
    match bits {
        None => Weights::new(checkpoint, &place, Dtype::F32),
        Some(bits) => Weights::random_packed(&place, Dtype::F32, Scheme { bits, group: Some(8), symmetric: true }),
    }
}

/// The thinker of the tiny checkpoint with that many layers.
fn thinker(layers: usize, bits: Option<u32>) -> Thinker {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config: ThinkerConfig = checkpoint.config().section().unwrap();
    config.text.num_hidden_layers = layers;
    let weights = weights(&checkpoint, bits);
    Thinker::load(&weights, &config, None).unwrap()
}

/// Reads some tokens.
fn read(thinker: &Thinker, state: &mut ThinkerState, ids: &[u32]) {
    let input = ThinkerInput::text(thinker.embed(ids), Positions::sequence(state.tokens() as f32, ids.len()));
    thinker.forward(vec![ThinkerRun::new(state, &input)]).remove(0).unwrap();
}

/// Launches of one token of a thinker of that many layers, its logits left on the device.
fn thinker_token(layers: usize, bits: Option<u32>) -> Launches {
    let thinker = thinker(layers, bits);
    let mut state = thinker.start();
    read(&thinker, &mut state, &[5, 6, 7]);
    of_second(|| read(&thinker, &mut state, &[8]))
}

/// Launches of a prompt of that many tokens through a thinker of that many layers, its last logits left on the device.
fn thinker_prompt(layers: usize, tokens: u32) -> Launches {
    let thinker = thinker(layers, None);
    let ids: Vec<u32> = (0..tokens).map(|at| 5 + at % 90).collect();
    of_second(|| read(&thinker, &mut thinker.start(), &ids))
}

/// Launches of a prompt of some rows, or of a step behind one, through a talker of that many layers, its logits left on the device.
fn talker(layers: usize, rows: usize, step: bool, bits: Option<u32>) -> Launches {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config: TalkerConfig = checkpoint.config().section().unwrap();
    config.text.num_hidden_layers = layers;
    let weights = weights(&checkpoint, bits);
    let talker = Talker::load(&weights, &config, checkpoint.config().section().unwrap()).unwrap();
    let width = config.text.hidden_size;
    let read = |state: &mut TalkerState, rows: usize| {
        let embeds = Tensor::from_data(TensorData::new(testkit::noise(rows * width, 1), [rows, width]), &gpu());
        let input = TalkerInput { embeds, positions: Positions::sequence(state.tokens() as f32, rows) };
        talker.forward(vec![TalkerRun::new(state, &input)]).remove(0).unwrap();
    };
    let mut state = talker.start();
    read(&mut state, rows);
    match step {
        true => of_second(|| read(&mut state, 1)),
        false => of_second(|| read(&mut talker.start(), rows)),
    }
}

/// Launches of one frame of a code predictor of that many layers, drawn as the released model does, and its number of codes.
fn predictor_frame(layers: usize, bits: Option<u32>) -> (Launches, usize) {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config: CodePredictorConfig = checkpoint.config().section().unwrap();
    config.num_hidden_layers = layers;
    let weights = weights(&checkpoint, bits);
    let predictor = CodePredictor::load(&weights, &config).unwrap();
    let width = config.hidden_size;
    let row = |seed| Tensor::from_data(TensorData::new(testkit::noise(width, seed), [1, width]), &gpu());
    let start = FrameStart { hidden: row(1), first: row(2) };
    let mut state = predictor.start(&SamplingOptions::code_predictor());
    let launches = of_second(|| {
        predictor.predict(vec![FrameRun::new(&mut state, &start)]).unwrap().remove(0).unwrap();
    });
    (launches, config.num_code_groups - 1)
}

/// Launches of an audio encoder of that many layers for a sound of several windows, few enough for one batch.
fn audio_encoder(layers: usize) -> Launches {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config: AudioConfig = checkpoint.config().section().unwrap();
    config.encoder_layers = layers;
    let weights = Weights::new(&checkpoint, &Place::Device(gpu()), Dtype::F32);
    let encoder = AutEncoder::load(&weights, &config).unwrap();
    let [frames, bins] = [530, config.num_mel_bins];
    let sound = TensorData::new(testkit::noise(frames * bins, 1), [frames, bins]);
    of_second(|| drop(encoder.encode(vec![Tensor::from_data(sound.clone(), &gpu())]).unwrap()))
}

/// Launches of a vision encoder of that many layers for two pictures.
fn vision_encoder(layers: usize) -> Launches {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config: VisionConfig = checkpoint.config().section().unwrap();
    config.depth = layers;
    config.deepstack_visual_indexes.clear();
    let weights = Weights::new(&checkpoint, &Place::Device(gpu()), Dtype::F32);
    let encoder = VisionEncoder::load(&weights, &config).unwrap();
    let width = config.in_channels * config.temporal_patch_size * config.patch_size * config.patch_size;
    let pictures = [[1, 8, 12], [1, 4, 4]].map(|grid: [usize; 3]| {
        let patches = grid.iter().product();
        let values = testkit::noise(patches * width, patches as u64);
        let patches = Tensor::<2>::from_data(TensorData::new(values, [patches, width]), &gpu());
        PixelPatches { patches, grid, seconds_per_step: 0.0 }
    });
    of_second(|| drop(encoder.encode(pictures.to_vec()).unwrap()))
}

/// Launches of one frame of a vocoder with that many layers in its transformer.
fn vocoder_frame(layers: usize) -> Launches {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config: Code2WavConfig = checkpoint.config().section().unwrap();
    config.num_hidden_layers = layers;
    let weights = Weights::new(&checkpoint, &Place::Device(gpu()), Dtype::F32);
    let vocoder = Code2Wav::load(&weights, &config).unwrap();
    let frames = [vec![3; config.num_quantizers]];
    let mut state = vocoder.start();
    let mut step = || drop(vocoder.forward(vec![VocoderRun { state: &mut state, frames: &frames }]).remove(0).unwrap());
    // Until the window is full, as it is in all but the first frames.
    (0..config.sliding_window).for_each(|_| step());
    of_second(step)
}

/// Bits of packed matrices that are tried, beside f32.
const BITS: [Option<u32>; 3] = [None, Some(4), Some(8)];

/// Launches per layer, by the difference of two depths, and those outside the layers.
fn per_layer(launches: impl Fn(usize) -> usize) -> (usize, usize) {
    let [one, two] = [1, 2].map(launches);
    (two - one, 2 * one - two)
}

#[test]
fn a_token_of_the_thinker_takes_few() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for bits in BITS {
        let (layer, rest) = per_layer(|layers| thinker_token(layers, bits).total());
        // Three projections at once with the norm before them, attention with rotation and cache, its output with the residual, router
        // with the norm before it, choice, and experts twice. Besides them the embedding, and the head with the last norm.
        let besides = bits.is_some() || rest == 2;
        assert!(layer == 7 && besides, "{bits:?}: {layer} a layer, {rest} besides; {:#?}", thinker_token(3, bits));
    }
}

#[test]
fn a_prompt_of_the_thinker_takes_few() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for tokens in [40, 200] {
        let (layer, rest) = per_layer(|layers| thinker_prompt(layers, tokens).total());
        // Two norms, three projections, their rotation, attention, its output and the sum with the residual, router, choice, and
        // experts in four: 15, whatever experts are chosen. Only how a product is tuned may add to them.
        assert!(
            layer <= 16 && rest <= 4,
            "{tokens}: {layer} a layer, {rest} besides; {:#?}",
            thinker_prompt(3, tokens)
        );
    }
}

#[test]
fn a_step_of_the_talker_takes_few() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let prompt = per_layer(|layers| talker(layers, 40, false, None).total());
    // As in the thinker, and four for the shared expert: its gate, gate with up, down, and the sum with what comes out. Besides them
    // the head with the last norm.
    for bits in BITS {
        let step = per_layer(|layers| talker(layers, 20, true, bits).total());
        assert_eq!(step, (11, 1), "{bits:?}: {:#?}", talker(2, 20, true, bits));
    }
    // In a prompt the shared expert takes six, and tuning may add a copy for the product with a single output.
    let (layer, rest) = prompt;
    assert!(layer <= 22 && rest <= 3, "{layer} a layer, {rest} besides; {:#?}", talker(2, 40, false, None));
}

#[test]
fn a_frame_of_the_code_predictor_takes_few() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let codes = predictor_frame(1, None).1;
    for bits in BITS {
        let (layer, rest) = per_layer(|layers| predictor_frame(layers, bits).0.total());
        let found = || predictor_frame(2, bits).0;
        // Per code: three projections at once with the norm before them, attention with rotation and cache, its output with the residual,
        // gate with up and the norm before them, down with the residual.
        assert_eq!(layer, 5 * codes, "{bits:?}: {:#?}", found());
        // Per code: the head with the last norm, the draw, and the code's row with the sum of rows. Per frame: its first two rows. Packed
        // tables of embeddings, which no recipe makes, are unpacked in many more.
        assert!(bits.is_some() || rest == 3 * codes + 2, "{codes} codes: {rest} besides; {:#?}", found());
    }
}

#[test]
fn a_layer_of_an_encoder_takes_few() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for encoder in [audio_encoder, vision_encoder] {
        let (layer, rest) = per_layer(|layers| encoder(layers).total());
        // One product for queries, keys and values, attention with their bias and rotation, its output, the sum with the norm behind it,
        // and two products more, each with what stands behind it.
        assert!(layer <= 8, "{layer} a layer, {rest} besides; {:#?}", encoder(3));
    }
}

#[test]
fn a_frame_of_the_vocoder_takes_few() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (layer, rest) = per_layer(|layers| vocoder_frame(layers).total());
    // A layer of the transformer as in the code predictor; 7 for each decoder block: its transposed convolution and three times two
    // more; 7 for each of the two upsampling stages: two convolutions, LayerNorm, and two products with what stands behind each; two
    // convolutions around them, the last norm, and two for the mean of the codes' embeddings.
    let blocks = 3;
    assert_eq!((layer, rest), (5, 7 * blocks + 2 * 7 + 5), "{:#?}", vocoder_frame(2));
}

#[test]
fn a_draw_takes_few() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let row = || Tensor::<2>::from_data(TensorData::new(testkit::noise(2048, 3), [1, 2048]), &gpu());
    for options in [SamplingOptions::code_predictor(), SamplingOptions::greedy()] {
        let mut sampler = Sampler::new(&options, Suppressed::default());
        let [first, second] = [row(), row()].map(Logits::Device);
        sampler.choose(first);
        let launches = counted(|| sampler.choose(second)).1;
        assert_eq!(launches.total(), 1, "{launches:?}");
    }
}
