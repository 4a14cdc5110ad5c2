//! Times the parts of the model, with random weights made in memory.

use std::path::PathBuf;

use aut_encoder::{AutEncoder, MEL_PER_SECOND};
use burn::tensor::{Distribution, Tensor};
use checkpoint::{ConfigFile, Manifest, Weights};
use clap::Args;
use code2wav::{Code2Wav, VocoderRun};
use moe_talker::{DecoderConfig, Talker, TalkerConfig, TalkerInput, TalkerRun};
use moe_thinker::{Thinker, ThinkerInput, ThinkerRun};
use mtp::{CodePredictor, FrameRun};
use nn::sampler::Suppressed;
use nn::{AnyEngine, Engine as _, Linear, Logits, Sampler, on_engine, to_f32_vec};
use omni_core::{Dtype, Error, FrameStart, ModalityEncoder, Place, PlaceKind, Positions, Result, SamplingOptions};
use qwen3_omni::{Device, OmniConfig};
use rayon::prelude::*;
use serde_json::{Value, json};
use vision_encoder::{PixelPatches, VisionEncoder};

use crate::launches::counted;
use crate::stored::Stored;
use crate::timing::{median, rounded, timed, wait};

/// What is timed, and how long.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// f32, bf16, f16, int8 (groups of 128) or int4 (groups of 32); beside integers everything is bf16, or what the device has
    #[arg(long, default_value = "f32")]
    pub dtype: Stored,
    /// Threads of the CPU; 0 for all
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Runs of each measurement
    #[arg(long, default_value = "10", value_parser = positive)]
    pub runs: usize,
    /// Stop a measurement after this long (3 runs at least)
    #[arg(long, default_value_t = 20.0)]
    pub budget_s: f64,
    /// A config.json of other sizes than the full ones
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Layers of the thinker that are built (the released model has 48)
    #[arg(long, default_value = "4", value_parser = positive)]
    pub thinker_layers: usize,
    /// Prefill length, and cache length before decode
    #[arg(long, default_value = "256", value_parser = positive)]
    pub prompt: usize,
    /// MiB that `memory` reads, and on a GPU writes
    #[arg(long, default_value = "1024", value_parser = positive)]
    pub memory_mib: usize,
    /// Parts to time; besides these there are `launch`, `draw` and `answers`
    #[arg(long, num_args = 1.., default_values = ["memory", "aut", "vision", "thinker", "talker", "mtp", "code2wav"])]
    pub only: Vec<String>,
}

fn positive(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}

/// A config, random weights, and where the times go.
#[allow(missing_debug_implementations)] // It holds a callback.
pub struct Bench<'a> {
    arguments: &'a Arguments,
    emit: &'a dyn Fn(Value),
    config: OmniConfig,
    manifest: Manifest,
    /// Layers of the thinker in the config; fewer are built.
    layers: usize,
    place: Place,
    dtype: Dtype,
}

impl<'a> Bench<'a> {
    /// Opens the device; each measurement goes to `emit`, as a JSON object.
    ///
    /// # Errors
    /// [`Error::Device`] for an absent device, [`Error::Config`] for a bad config.
    pub fn new(arguments: &'a Arguments, emit: &'a dyn Fn(Value)) -> Result<Self> {
        // Before the pool's first use, so it cannot fail.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build_global();
        let text = match &arguments.config {
            Some(path) => std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?,
            None => weights_tools::inspect::RELEASED.to_owned(),
        };
        let bad = |error: serde_json::Error| Error::config(error.to_string()).caused_by(error);
        let mut json: Value = serde_json::from_str(&text).map_err(bad)?;
        let layers = &mut json["thinker_config"]["text_config"]["num_hidden_layers"];
        let of = layers.as_u64().unwrap_or_default() as usize;
        *layers = json!(arguments.thinker_layers);
        let path = arguments.config.clone().unwrap_or_else(|| "released_config.json".into());
        let config = OmniConfig::of(&ConfigFile::of_json(&path, json))?;
        let manifest = config.manifest()?;
        let (place, dtype) = arguments.dtype.open(&arguments.device)?;
        Ok(Self { arguments, emit, config, manifest, layers: of, place, dtype })
    }

    /// Times all parts that the arguments name.
    ///
    /// # Errors
    /// The errors of [`Bench::part`].
    pub fn run(&self) -> Result<()> {
        self.arguments.only.iter().try_for_each(|part| self.part(part))
    }

    /// Times one part.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an unknown name, [`Error::Device`] if the device fails.
    pub fn part(&self, part: &str) -> Result<()> {
        // Memory that the part before has left goes back to the device.
        self.place.device().memory_cleanup();
        match part {
            "memory" => self.memory(),
            "launch" => self.launch(),
            "thinker" => self.thinker(),
            "talker" => self.talker(),
            "mtp" => self.mtp(),
            "code2wav" => self.code2wav(),
            "aut" => self.aut(),
            "vision" => self.vision(),
            "draw" => self.draw(),
            "answers" => self.answers(),
            other => {
                let known = "memory, launch, draw, aut, vision, thinker, talker, mtp, code2wav or answers";
                Err(Error::unsupported(format!("part `{other}`: expected {known}")))
            }
        }
    }

    fn weights(&self) -> Weights<'static> {
        self.arguments.dtype.weights(&self.place, self.dtype)
    }

    /// Number of parameters of the tensors whose names begin with `prefix`.
    fn parameters(&self, prefix: &str) -> usize {
        let wanted = self.manifest.iter().filter(|(name, _)| name.starts_with(prefix));
        wanted.map(|(_, expected)| expected.elements()).sum()
    }

    /// Measures how fast memory is read: the limit of everything that reads each weight once. On a GPU it is copied, read and
    /// written.
    fn memory(&self) -> Result<()> {
        let (mib, bytes) = (self.arguments.memory_mib, self.arguments.memory_mib << 20);
        if self.place.kind() == PlaceKind::Device {
            let numbers = Tensor::<1>::ones([bytes / 4], self.place.device());
            let case = format!("{mib} MiB read and written");
            return self.measure(["memory", &case, "pass"], 0, 2 * bytes, || Ok(numbers.clone().mul_scalar(2.0)));
        }
        let words = vec![1u64; bytes / 8];
        let share = words.len().div_ceil(rayon::current_num_threads());
        self.measure(["memory", &format!("{mib} MiB read"), "pass"], 0, bytes, || {
            let sums = words.par_chunks(share).map(cpu_kernels::read_all).sum::<u64>();
            Ok(Tensor::from_floats([sums as f32], self.place.device()))
        })
    }

    /// Measures the cost of one operation that computes next to nothing.
    fn launch(&self) -> Result<()> {
        const OPERATIONS: usize = 1000;
        let one = Tensor::<1>::ones([1], self.place.device());
        self.measure(["launch", &format!("{OPERATIONS} sums of one number"), "all, one after the other"], 0, 0, || {
            Ok((0..OPERATIONS).fold(one.clone(), |sum, _| sum + 1.0))
        })
    }

    /// Measures the choice of an id from the logits of each model, greedy and drawn with the released settings.
    fn draw(&self) -> Result<()> {
        let (text, talker, mtp) = (&self.config.thinker.text, self.config.talker()?, self.config.code_predictor()?);
        for (model, ids, options) in [
            ("thinker", text.vocab_size, SamplingOptions::greedy()),
            ("thinker", text.vocab_size, SamplingOptions::greedy().sampled().top_p(0.95)),
            ("talker", talker.text.vocab_size, SamplingOptions::talker()),
            ("code predictor", mtp.vocab_size, SamplingOptions::code_predictor()),
        ] {
            let how = if options.greedy { "greedy" } else { "drawn" };
            let mut sampler = Sampler::new(&options, Suppressed::default());
            let scores = self.random(1, ids);
            self.measure(["draw", &format!("1 of {ids} ids of the {model}, {how}"), "id"], 0, 0, || {
                let logits = match self.place.kind() {
                    PlaceKind::Device => Logits::Device(scores.clone()),
                    PlaceKind::Host => Logits::Host(to_f32_vec(&scores)),
                };
                // The id has been read, so nothing is left to wait for.
                Ok(Tensor::from_floats([sampler.choose(logits) as f32], self.place.device()))
            })?;
        }
        Ok(())
    }

    fn random(&self, tokens: usize, width: usize) -> Tensor<2> {
        let dtype = self.weights().tensor_dtype();
        Tensor::random([tokens, width], Distribution::Normal(0.0, 1.0), (self.place.device(), dtype.into()))
    }

    /// Logits or samples, as the tensor to wait for.
    fn scores(&self, scores: Logits) -> Result<Tensor<1>> {
        Ok(match scores {
            Logits::Device(scores) => scores.flatten(0, 1),
            Logits::Host(scores) => Tensor::from_floats(&scores[..], self.place.device()),
        })
    }

    /// Measures `work`, which queues the computation and returns the tensor to wait for.
    fn measure(
        &self,
        [part, case, per]: [&str; 3],
        parameters: usize,
        bytes: usize,
        mut work: impl FnMut() -> Result<Tensor<1>>,
    ) -> Result<()> {
        let mut last = 0.0;
        let mut run = || {
            last = wait(work()?)?;
            Ok(())
        };
        let times = timed(&mut run, self.arguments.runs, self.arguments.budget_s)?;
        let (again, launches) = counted(run);
        again?;
        let seconds = median(&times) / 1e3;
        let mut line = json!({
            "part": part, "case": case, "per": per,
            "median_ms": rounded(median(&times), 3), "min_ms": rounded(times[0], 3), "runs": times.len(),
            "dtype": self.arguments.dtype.name, "device": self.arguments.device.to_string(),
            "params_m": rounded(parameters as f64 / 1e6, 1),
            // What one unit must read at least, and how fast that was read.
            "read_mb": rounded(bytes as f64 / 1e6, 1), "gb_per_s": rounded(bytes as f64 / seconds / 1e9, 1),
        });
        if let Some(launches) = launches.filter(|_| self.place.kind() == PlaceKind::Device) {
            line["launches"] = json!(launches);
        }
        if !last.is_finite() {
            line["not_finite"] = json!(true);
        }
        (self.emit)(line);
        Ok(())
    }

    /// Bytes of this number of weights.
    fn bytes(&self, weights: usize) -> usize {
        (weights as f64 * self.arguments.dtype.bytes_per_weight()) as usize
    }

    fn aut(&self) -> Result<()> {
        let config = &self.config.audio;
        let encoder = AutEncoder::load_parts(&self.weights(), config)?;
        let parameters = self.parameters("thinker.audio_tower");
        for seconds in [4, 30] {
            let mel = self.random(seconds * MEL_PER_SECOND, config.num_mel_bins);
            self.measure(
                ["aut", &format!("{seconds} s of audio"), "encode"],
                parameters,
                self.bytes(parameters),
                || Ok(encoder.encode(vec![mel.clone()])?.embeds.flatten(0, 1)),
            )?;
        }
        Ok(())
    }

    fn vision(&self) -> Result<()> {
        let config = &self.config.vision;
        let encoder = VisionEncoder::load_parts(&self.weights(), config)?;
        let parameters = self.parameters("thinker.visual");
        let width = config.in_channels * config.temporal_patch_size * config.patch_size.pow(2);
        for side in [256, 512] {
            let grid = side / config.patch_size;
            let patches = self.random(grid * grid, width);
            let item = PixelPatches { patches, grid: [1, grid, grid], seconds_per_step: 0.0 };
            self.measure(
                ["vision", &format!("image {side}x{side}"), "encode"],
                parameters,
                self.bytes(parameters),
                || Ok(encoder.encode(vec![item.clone()])?.embeds.flatten(0, 1)),
            )?;
        }
        Ok(())
    }

    fn thinker(&self) -> Result<()> {
        // The layers alone, with a head of a few rows; the real one is measured on its own.
        let text = &self.config.thinker.text;
        let thinker = Thinker::load_parts(&self.weights(), &headless(text), None)?;
        let (head, prompt) = (text.vocab_size * text.hidden_size, self.arguments.prompt);
        let body = self.parameters("thinker.model.layers");
        let active = active(text) * text.num_hidden_layers;
        let layers = format!("{} layers of {}", self.arguments.thinker_layers, self.layers);
        let rows = self.random(prompt, text.hidden_size);
        let prefill = |state: &mut _| {
            let input = ThinkerInput::text(rows.clone(), Positions::sequence(0.0, prompt));
            self.scores(thinker.forward(vec![ThinkerRun::new(state, &input)]).remove(0)?.logits)
        };
        let case = format!("prefill {prompt} tokens");
        self.measure(["thinker", &case, &layers], body, self.bytes(body), || prefill(&mut thinker.start()))?;
        let mut state = thinker.start();
        prefill(&mut state)?;
        let one = self.random(1, text.hidden_size);
        self.measure(["thinker", &format!("decode 1 token at {prompt}"), &layers], body, self.bytes(active), || {
            let input = ThinkerInput::text(one.clone(), Positions::sequence(prompt as f32, 1));
            let output = thinker.forward(vec![ThinkerRun::new(&mut state, &input)]).remove(0)?;
            state.truncate(prompt);
            self.scores(output.logits)
        })?;
        let weights = self.weights();
        let (layer, engine) = (
            Linear::load(&weights.at("lm_head"), [text.vocab_size, text.hidden_size], false)?,
            AnyEngine::of(&weights),
        );
        self.measure(["thinker", "lm_head 1 token", "once per token"], head, self.bytes(head), || {
            Ok(on_engine!(engine, |e| {
                let [scores] = e.linear(&mut e.rows(&[&one]), [&layer]);
                e.tensor(&scores, 0..1).flatten(0, 1)
            }))
        })
    }

    /// Times steps of several answers at once. Their rows are different, so the thinker's choose different experts.
    fn answers(&self) -> Result<()> {
        let (text, mtp) = (&self.config.thinker.text, &self.config.code_predictor()?);
        let thinker = Thinker::load_parts(&self.weights(), text, None)?;
        let predictor = CodePredictor::load_parts(&self.weights(), mtp)?;
        let prompt = self.arguments.prompt;
        let layers = format!("{} layers of {}, lm_head", self.arguments.thinker_layers, self.layers);
        for answers in [1, 2, 4, 8] {
            let input =
                |rows, start| ThinkerInput::text(self.random(rows, text.hidden_size), Positions::sequence(start, rows));
            let mut states: Vec<_> = (0..answers).map(|_| thinker.start()).collect();
            for state in &mut states {
                thinker.forward(vec![ThinkerRun::new(state, &input(prompt, 0.0))]).remove(0)?;
            }
            let inputs: Vec<_> = states.iter().map(|_| input(1, prompt as f32)).collect();
            self.measure(["thinker", &format!("1 token of {answers} answers"), &layers], 0, 0, || {
                let runs = states.iter_mut().zip(&inputs).map(|(state, input)| ThinkerRun::new(state, input));
                let outputs = thinker.forward(runs.collect());
                states.iter_mut().for_each(|state| state.truncate(prompt));
                self.scores(outputs.into_iter().last().expect("there are answers")?.logits)
            })?;
            let mut states: Vec<_> = (0..answers).map(|_| predictor.start(&SamplingOptions::greedy())).collect();
            let start =
                || FrameStart { hidden: self.random(1, mtp.hidden_size), first: self.random(1, mtp.hidden_size) };
            let starts: Vec<_> = states.iter().map(|_| start()).collect();
            self.measure(["mtp", &format!("1 frame of {answers} answers"), "frame of each"], 0, 0, || {
                let runs = states.iter_mut().zip(&starts).map(|(state, start)| FrameRun::new(state, start));
                let codes: Vec<_> = predictor.predict(runs.collect())?.into_iter().collect::<Result<_>>()?;
                Ok(codes.into_iter().last().expect("there are answers").embeds.flatten(0, 1))
            })?;
        }
        Ok(())
    }

    fn talker(&self) -> Result<()> {
        const CACHED: usize = 64;
        let config = self.config.talker()?;
        // The layers alone, as with the thinker.
        let small = TalkerConfig { text: headless(&config.text), ..config.clone() };
        let talker = Talker::load_parts(&self.weights(), &small, self.config.turns)?;
        let mut state = talker.start();
        let body = self.parameters("talker.model.layers");
        let active = active(&config.text) * config.text.num_hidden_layers;
        let input = |tokens, start| TalkerInput {
            embeds: self.random(tokens, config.text.hidden_size),
            positions: Positions::sequence(start, tokens),
        };
        talker.forward(vec![TalkerRun::new(&mut state, &input(CACHED, 0.0))]).remove(0)?;
        let one = input(1, CACHED as f32);
        let per = format!("{} layers", config.text.num_hidden_layers);
        self.measure(["talker", &format!("decode 1 frame at {CACHED}"), &per], body, self.bytes(active), || {
            let output = talker.forward(vec![TalkerRun::new(&mut state, &one)]).remove(0)?;
            state.truncate(CACHED);
            Ok(output.hidden.flatten(0, 1))
        })
    }

    fn mtp(&self) -> Result<()> {
        let config = &self.config.code_predictor()?;
        let predictor = CodePredictor::load_parts(&self.weights(), config)?;
        let parameters = self.parameters("talker.code_predictor");
        // All layers for each code, and each code's own head.
        let (layers, codes) = (self.parameters("talker.code_predictor.model.layers"), config.num_code_groups - 1);
        let read = layers * codes + self.parameters("talker.code_predictor.lm_head");
        let [hidden, first] = [0, 1].map(|_| self.random(1, config.hidden_size));
        let start = FrameStart { hidden, first };
        let mut state = predictor.start(&SamplingOptions::greedy());
        let case = format!("{} residual codes of 1 frame", config.num_code_groups - 1);
        self.measure(["mtp", &case, "frame, as the reference does it"], parameters, self.bytes(read), || {
            Ok(predictor.predict(vec![FrameRun::new(&mut state, &start)])?.remove(0)?.embeds.flatten(0, 1))
        })
    }

    fn code2wav(&self) -> Result<()> {
        let config = self.config.code2wav()?;
        let vocoder = Code2Wav::load_parts(&self.weights(), config)?;
        let parameters = self.parameters("code2wav.");
        let codes = |frames| {
            let (books, size) = (config.num_quantizers, config.codebook_size);
            let frame = |frame| (0..books).map(|book| ((frame * books + book) * 31 % size) as u32).collect();
            (0..frames).map(frame).collect::<Vec<Vec<u32>>>()
        };
        for frames in [1, 25, 100] {
            let codes = codes(frames);
            let case = format!("{frames} frames ({} ms of speech)", frames * 80);
            self.measure(["code2wav", &case, "whole decode"], parameters, self.bytes(parameters), || {
                self.scores(Logits::Host(vocoder.decode(&codes)?))
            })?;
        }
        for (streams, frames) in [(1, 1), (4, 1), (1, 8), (4, 8)] {
            let codes: Vec<_> = (0..streams).map(|_| codes(frames)).collect();
            let mut states = vec![vocoder.start(); streams];
            let case = format!("{frames} frames of each of {streams} streams");
            self.measure(["code2wav", &case, "step together"], parameters, self.bytes(parameters), || {
                let runs = states.iter_mut().zip(&codes).map(|(state, frames)| VocoderRun { state, frames });
                let sound: Result<Vec<_>> = vocoder.forward(runs.collect()).into_iter().collect();
                self.scores(Logits::Host(sound?.concat()))
            })?;
        }
        Ok(())
    }
}

/// The same layers with a head that costs next to nothing.
fn headless(config: &DecoderConfig) -> DecoderConfig {
    let mut config = config.clone();
    config.vocab_size = 64;
    config
}

/// Weights of a layer that one token passes through.
fn active(config: &DecoderConfig) -> usize {
    let (width, heads) = (config.hidden_size, config.num_attention_heads + config.num_key_value_heads);
    let attention = 2 * width * heads * config.head_dim;
    let experts = 3 * width * (config.num_experts_per_tok * config.moe_intermediate_size);
    attention + experts + width * config.experts() + 3 * width * config.shared_expert_intermediate_size
}
