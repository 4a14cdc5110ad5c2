use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;
use code2wav::{Code2WavConfig, SAMPLE_RATE};

use super::super::adapters::check_matched;
use super::adversary::Adversary;
use super::settings::CodecSettings;
use super::vocoding::derives;
use super::{CODE_EMBEDDING, targets, vocoder, vocoder_names};
use crate::data::Segment;
use crate::loss::WaveLoss;
use crate::model::{Choice, CodecConfig, CodecEncoder, CodecMel, CodecModel, Learning, ResidualQuantizer, StoredCodec};
use crate::random::{Purpose, seed_of};
use crate::trainer::{BatchLoss, Objective, Trainer};
use crate::{Error, ParamNames, Patterns, Result};

/// Training of the whole codec on recordings: encoder, residual quantiser and vocoder together.
///
/// The quantiser's codebooks are not parameters but moving averages of the latents that chose them; they begin as the k-means of recent
/// latents. Gradients go straight through the quantiser. The vocoder's code embedding is derived from the codebooks after each step.
///
/// With [`CodecSettings::encoder_only`] only the encoder is trained, and the codebooks are those that the vocoder has.
#[derive(Debug)]
pub struct Coding {
    settings: CodecSettings,
    config: CodecConfig,
    loss: WaveLoss,
    mel: CodecMel,
    /// `None` until it begins.
    quantizer: Option<ResidualQuantizer>,
    /// The first step in which the vocoder is given what the quantiser chose.
    quantized_from: usize,
    /// Log-mel rows `[1, 4 F + 2, M]` of the last segments before the quantiser begins.
    recent: VecDeque<Tensor<3>>,
    adversary: Option<Adversary>,
    /// The encoder after the last step, for the files beside a checkpoint.
    encoder: CodecEncoder,
    device: Device,
    step: usize,
    gathered: Mutex<Gathered>,
}

/// What the step that is being taken leaves for the quantiser.
#[derive(Debug, Default)]
struct Gathered {
    choices: Vec<Choice>,
    mels: Vec<Tensor<3>>,
}

/// A batch of recordings, all of as many samples as a segment has.
#[derive(Debug, Clone)]
pub struct Recordings {
    /// Samples at 24 kHz.
    pub segments: Vec<Vec<f32>>,
    /// Where they came from, as `file:line, …`.
    pub origin: String,
}

impl From<Vec<Segment>> for Recordings {
    fn from(segments: Vec<Segment>) -> Self {
        let origins: Vec<&str> = segments.iter().map(|segment| segment.origin.as_str()).collect();
        Self { origin: origins.join(", "), segments: segments.into_iter().map(|segment| segment.samples).collect() }
    }
}

/// Latents per entry of a codebook that the quantiser begins with.
const LATENTS_PER_CODE: usize = 8;
/// Name of the recent log-mel rows in the state.
const RECENT: &str = "codec_recent_mel";

impl Coding {
    /// Loads a checkpoint's vocoder, and an encoder beside it or a fresh one. Returns the trainer before its first step.
    ///
    /// # Errors
    /// The errors of the checkpoint and of the encoder's files, [`Error::NothingTrained`] for patterns that match nothing, and
    /// [`Error::Option`] naming a setting.
    pub fn trainer(directory: &Path, settings: &CodecSettings, device: &Device) -> Result<Trainer<Self>> {
        settings.validate()?;
        let checkpoint = Checkpoint::open(directory)?;
        let (plain, device) = (device.clone(), device.clone().autodiff());
        let vocoder_config: Code2WavConfig = checkpoint.config().section()?;
        let mut stored = stored(directory, settings, &vocoder_config, &plain)?;
        let (is_fresh, after, steps) = (stored.quantizer()?.is_none(), settings.quantize_after, settings.run.steps);
        if is_fresh && after >= steps {
            let reason = format!("{after}, expected fewer than the {steps} steps of the run");
            return Err(Error::Option { name: "quantize_after", reason });
        }
        let frozen = if settings.encoder_only { " -code2wav.*" } else { "" };
        let trained: Patterns = format!("{}{frozen}", settings.train).parse()?;
        let encoder: Vec<String> = stored.names().collect();
        check_matched(vocoder_names(&checkpoint).chain(&encoder), &trained)?;
        let (code2wav, _) = vocoder(&checkpoint, settings, &device)?;
        settings.check_frames(&vocoder_config, code2wav.lookahead())?;
        let names = ParamNames::new(checkpoint.tensors().keys().cloned().chain(encoder));
        if settings.encoder_only {
            stored = stored.with_table(names.values(&code2wav).remove(CODE_EMBEDDING))?;
        }
        let model = CodecModel { encoder: stored.encoder(&device)?, code2wav };
        let (model, _) = names.freeze(model, &trained)?;
        let run = &settings.run;
        let adversary = settings
            .discriminator
            .map(|discriminator| Adversary::new(discriminator, run.optimizer, (run.clip, run.seed), &device));
        let objective = Self {
            loss: WaveLoss::new(SAMPLE_RATE, &device),
            mel: CodecMel::new(&stored.config, &plain),
            quantizer: stored.quantizer()?,
            quantized_from: if settings.encoder_only && is_fresh { after + 1 } else { 0 },
            recent: VecDeque::new(),
            settings: settings.clone(),
            config: stored.config,
            adversary,
            encoder: model.encoder.clone(),
            device,
            step: 0,
            gathered: Mutex::default(),
        };
        let model = objective.with_table(model)?;
        Ok(Trainer::new(objective, model, names, run))
    }

    /// Sets the vocoder's code embedding to what the codebooks make it, if they change.
    fn with_table(&self, model: CodecModel) -> Result<CodecModel> {
        let Some(quantizer) = self.learned_quantizer() else { return Ok(model) };
        let name = CODE_EMBEDDING.to_owned();
        ParamNames::new([name.clone()]).with_values(model, BTreeMap::from([(name, quantizer.table())]))
    }

    /// The quantiser, unless its codebooks are given.
    fn learned_quantizer(&self) -> Option<&ResidualQuantizer> {
        self.quantizer.as_ref().filter(|_| !self.settings.encoder_only)
    }

    /// Quantises latents `[N, D]` with gradients straight through; also returns the weighted commitment and values for the log.
    fn quantised(&self, latents: Tensor<2>, parts: &mut BTreeMap<&'static str, f64>) -> (Tensor<2>, Option<Tensor<1>>) {
        let Some(quantizer) = &self.quantizer else { return (latents, None) };
        let plain = latents.clone().inner();
        let choice = quantizer.choose(&plain);
        // Each codebook commits what it was given to what it chose.
        let terms = choice.sums.iter().map(|sum| (latents.clone() - Tensor::from_inner(sum.clone())).square().mean());
        let commitment = terms.reduce(|sum, term| sum + term);
        let used = choice.used();
        parts.insert("codes", used.iter().sum::<usize>() as f64 / used.len().max(1) as f64);
        let through = match choice.sums.last() {
            Some(sum) if self.step >= self.quantized_from => latents + Tensor::from_inner(sum.clone() - plain),
            _ => latents,
        };
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).choices.push(choice);
        if let Some(term) = &commitment {
            parts.insert("commitment", f64::from(term.clone().into_scalar::<f32>()));
        }
        (through, commitment.map(|term| term * self.settings.commitment))
    }

    /// Most segments that the quantiser begins with.
    fn most_recent(&self) -> usize {
        (LATENTS_PER_CODE * self.config.codebook_size).div_ceil(self.settings.frames)
    }

    /// Remembers segments for the k-means, or makes the codebooks of them when it is time.
    fn begin(&mut self, model: &CodecModel, mels: Vec<Tensor<3>>) {
        self.recent.extend(mels.into_iter().flat_map(|mel| mel.split(1, 0)));
        let surplus = self.recent.len().saturating_sub(self.most_recent());
        self.recent.drain(..surplus);
        if self.step >= self.settings.quantize_after {
            let latents: Vec<Tensor<2>> =
                self.recent.drain(..).map(|mel| model.latents(Tensor::from_inner(mel)).inner()).collect();
            let seed = self.seed();
            self.quantizer = Some(ResidualQuantizer::of_latents(&self.config, &Tensor::cat(latents, 0), seed));
        }
    }

    fn seed(&self) -> u64 {
        seed_of(Purpose::Codebooks, &[self.settings.run.seed, self.step as u64])
    }

    /// Log-mel rows of a batch, `[B, 4 F + 2, M]`.
    fn mels(&self, batch: &Recordings) -> Result<Tensor<3>> {
        let (frames, length) = (self.settings.frames, self.settings.frames * self.config.samples_per_frame);
        if let Some(segment) = batch.segments.iter().find(|segment| segment.len() != length) {
            return Err(Error::Batch(format!("a segment of {} samples, expected {length}", segment.len())));
        }
        Ok(Tensor::stack(batch.segments.iter().map(|segment| self.mel.rows(segment, 0..frames)).collect(), 0))
    }
}

/// The encoder that training begins with.
fn stored(
    directory: &Path,
    settings: &CodecSettings,
    vocoder: &Code2WavConfig,
    device: &Device,
) -> Result<StoredCodec> {
    let fresh = || {
        let config = CodecConfig::for_vocoder(vocoder, settings.width)?;
        Ok(StoredCodec::fresh(config, settings.run.seed, device))
    };
    let stored = match &settings.codec {
        Some(folder) => StoredCodec::read(folder, device)?,
        None if settings.fresh => return fresh(),
        None if StoredCodec::is_in(directory) => StoredCodec::read(directory, device)?,
        None => return fresh(),
    };
    match stored.config.difference(vocoder) {
        Some(reason) => Err(Error::Option { name: "codec", reason }),
        None => Ok(stored),
    }
}

impl Objective for Coding {
    type Model = CodecModel;
    type Batch = Recordings;

    fn rows(&self, batch: &Recordings) -> usize {
        batch.segments.len()
    }

    fn tokens(&self, batch: &Recordings) -> usize {
        batch.segments.len() * self.settings.frames
    }

    fn origin(&self, batch: &Recordings) -> String {
        batch.origin.clone()
    }

    fn derives(&self, name: &str) -> bool {
        derives(name, self.learned_quantizer().is_some(), self.settings.fresh)
    }

    /// One: what the batches of a step leave for the quantiser and the discriminator is taken in their order.
    fn most_workers(&self) -> usize {
        1
    }

    fn before_step(&mut self, step: usize) {
        self.step = step;
        *self.gathered.get_mut().unwrap_or_else(PoisonError::into_inner) = Gathered::default();
        if let Some(adversary) = &mut self.adversary {
            adversary.clear();
        }
    }

    fn loss(&self, model: &CodecModel, batch: &Recordings) -> Result<BatchLoss> {
        let mels = self.mels(batch)?;
        let latents = model.latents(Tensor::from_inner(mels.clone()));
        let mut parts = BTreeMap::new();
        let (quantised, mut extra) = self.quantised(latents, &mut parts);
        if self.quantizer.is_none() {
            self.gathered.lock().unwrap_or_else(PoisonError::into_inner).mels.push(mels);
        }
        let waves = model.waves(quantised, self.settings.frames)?; // [B, T]
        let recorded = targets(batch.segments.iter().map(Vec::as_slice), waves.dims(), &self.device)?;
        let found = self.loss.parts(&waves, &recorded);
        parts.extend(found.values());
        let judges = self.adversary.as_ref().filter(|one| self.step >= one.begins(self.settings.run.steps));
        if let Some(adversary) = judges {
            let judged = adversary.loss(&waves, &recorded);
            parts.extend(judged.parts);
            extra = Some(match extra {
                Some(commitment) => commitment + judged.generator,
                None => judged.generator,
            });
        }
        Ok(BatchLoss { sum: found.weighted(&self.settings.loss) * batch.segments.len() as f64, extra, parts })
    }

    fn after_step(&mut self, model: CodecModel, rate: f64) -> Result<CodecModel> {
        let Gathered { choices, mels } =
            std::mem::take(self.gathered.get_mut().unwrap_or_else(PoisonError::into_inner));
        let learning = Learning { decay: self.settings.decay, dead_below: self.settings.dead_below };
        let seed = self.seed();
        match &mut self.quantizer {
            Some(_) if self.settings.encoder_only => {}
            Some(quantizer) => quantizer.learn(&choices, learning, seed),
            None => self.begin(&model, mels),
        }
        self.encoder = model.encoder.clone();
        if let Some(adversary) = &mut self.adversary {
            adversary.step(rate);
        }
        self.with_table(model)
    }

    fn state(&self) -> BTreeMap<String, Tensor<1>> {
        let mut state = self.learned_quantizer().map(ResidualQuantizer::state).unwrap_or_default();
        if !self.recent.is_empty() {
            let recent: Vec<Tensor<3>> = self.recent.iter().cloned().collect();
            state.insert(RECENT.into(), Tensor::cat(recent, 0).flatten(0, 2));
        }
        state.extend(self.adversary.iter().flat_map(Adversary::state));
        state
    }

    fn restore(&mut self, model: CodecModel, mut state: BTreeMap<String, Tensor<1>>) -> Result<CodecModel> {
        if !self.settings.encoder_only {
            self.quantizer = ResidualQuantizer::restore(&self.config, &mut state)?;
        }
        self.recent = match state.remove(RECENT) {
            Some(recent) => self.mel.split(recent, self.settings.frames)?.into(),
            None => VecDeque::new(),
        };
        if let Some(adversary) = &mut self.adversary {
            adversary.restore(&mut state)?;
        }
        self.encoder = model.encoder.clone();
        self.with_table(model)
    }

    fn export(&self, folder: &Path, parameters: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        let codebooks = self.quantizer.as_ref().map(ResidualQuantizer::vectors);
        StoredCodec::write(folder, &self.config, (&self.encoder, parameters), codebooks)
    }
}
