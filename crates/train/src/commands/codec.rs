use std::path::PathBuf;

use clap::Args;
use code2wav::{Code2WavConfig, SAMPLE_RATE};
use omni_core::Dtype;
use qwen3_omni::Device;
use qwen3_omni_train::data::{LineEncoder, SegmentOptions, Segments};
use qwen3_omni_train::stage::{
    BatchFeed, CodecSettings, CodedWaves, Coding, DiscriminatorSettings, Recordings, SpeechEncoder, Vocoding,
};
use qwen3_omni_train::{Error, Result};
use serde_json::Value;

use super::checks::StepBatches;
use super::stage::{Common, batches_state, sources};
use super::{note, say};

/// Train the codec on recordings: encoder, quantiser and vocoder together, or the vocoder or an encoder alone.
#[derive(Args)]
#[command(after_help = "Example: qwen3-omni-train codec --model nano --data voice.jsonl --out run --fresh\n\n\
    A line names a recording: {\"speech\": \"a.wav\"}; lines of other stages may be taken too.")]
pub(crate) struct CodecCommand {
    #[command(flatten)]
    common: Common,
    /// Folder of the encoder to begin with; with --decoder-only, also one of Mimi [default: the model's, if it has one]
    #[arg(long, value_name = "DIR")]
    codec: Option<PathBuf>,
    /// Train the vocoder alone, on codes of the encoder, which stay valid
    #[arg(long)]
    decoder_only: bool,
    /// Train an encoder alone, for the vocoder and the codebooks that the model has
    #[arg(long, conflicts_with_all = ["decoder_only", "fresh", "discriminator"])]
    encoder_only: bool,
    /// Begin with random values of the vocoder, and of the encoder unless --codec names one
    #[arg(long)]
    fresh: bool,
    /// Judge spectra by a discriminator in the second half of the steps
    #[arg(long, conflicts_with = "decoder_only")]
    discriminator: bool,
}

/// Turn the recordings of lines, `speech` and `rejected_speech`, into `codes`, as `talker` and `dpo` take them.
#[derive(Args)]
#[command(after_help = "Example: qwen3-omni-train encode --codec run/step-002500 --data talks.jsonl --out codes\n\
    writes codes/talks.jsonl, and the codes to codes/talks/")]
pub(crate) struct EncodeCommand {
    /// Folder of the encoder: a checkpoint of a codec's run, or one of Mimi
    #[arg(long, value_name = "DIR")]
    codec: PathBuf,
    /// JSON lines whose recordings are encoded; each file becomes one of the same name
    #[arg(long, required = true, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Folder of the new lines and of the codes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Checkpoint whose vocoder is to take the codes: their sizes are compared
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Number of Mimi's first codebooks [default: those of the model's vocoder]
    #[arg(long, value_name = "N")]
    codebooks: Option<usize>,
    /// Stop at the first bad line instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// Where to encode: cpu, wgpu or cuda:0
    #[arg(long, default_value = "cpu")]
    device: Device,
}

impl CodecCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let settings = self.common.settings(self.defaults())?;
        settings.validate()?;
        match settings.decoder_only {
            true => self.vocoder(&settings),
            false => {
                let build = |on: &_| Coding::trainer(&self.common.model, &settings, on);
                let (trainer, device) = self.common.trainer(&settings, &settings.run, StepBatches::InOrder, build)?;
                let feed = |state| self.feed(&settings, state, |segments| Ok(Recordings::from(segments)));
                self.common.train(&settings, &settings.run, (trainer, &device), feed)
            }
        }
    }

    fn defaults(&self) -> CodecSettings {
        CodecSettings {
            decoder_only: self.decoder_only,
            encoder_only: self.encoder_only,
            codec: self.codec.clone(),
            fresh: self.fresh,
            discriminator: self.discriminator.then(DiscriminatorSettings::default),
            ..CodecSettings::default()
        }
    }

    fn vocoder(&self, settings: &CodecSettings) -> Result<bool> {
        self.common.check(settings, &settings.run, StepBatches::Set)?;
        let folder = settings.codec.as_deref().unwrap_or(&self.common.model);
        let codebooks = self.vocoder_config()?.num_quantizers;
        let encoder = SpeechEncoder::open(folder, Some(codebooks), &self.common.device().place(Dtype::F32)?)?;
        let build = |on: &_| Vocoding::trainer_for((&encoder, folder), &self.common.model, settings, on);
        let (trainer, device) = self.common.trainer(settings, &settings.run, StepBatches::Set, build)?;
        let feed = |state| self.feed(settings, state, move |segments| CodedWaves::of_segments(segments, &encoder));
        self.common.train(settings, &settings.run, (trainer, &device), feed)
    }

    fn feed<F>(&self, settings: &CodecSettings, state: Option<Value>, convert: F) -> Result<BatchFeed<Segments, F>> {
        let options = SegmentOptions {
            frames: settings.frames,
            samples_per_frame: self.vocoder_config()?.samples_per_frame(),
            sample_rate: SAMPLE_RATE,
            per_batch: settings.segments(),
            seed: settings.run.seed,
            strict: self.common.strict,
        };
        let segments = Segments::start(sources(&self.common.data)?, options, batches_state(state)?)?;
        Ok(BatchFeed::new(segments, settings.run.batches_per_step, convert))
    }

    fn vocoder_config(&self) -> Result<Code2WavConfig> {
        Ok(checkpoint::Checkpoint::open(&self.common.model)?.config().section()?)
    }
}

impl EncodeCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let mut names = std::collections::BTreeSet::new();
        if let Some(data) = self.data.iter().find(|data| !names.insert(data.file_stem())) {
            let reason = format!("{}: another file has this name, expected files of different names", data.display());
            return Err(Error::Option { name: "data", reason });
        }
        let vocoder: Option<Code2WavConfig> = match &self.model {
            Some(model) => Some(checkpoint::Checkpoint::open(model)?.config().section()?),
            None => None,
        };
        let codebooks = self.codebooks.or(vocoder.as_ref().map(|vocoder| vocoder.num_quantizers));
        let encoder = SpeechEncoder::open(&self.codec, codebooks, &self.device.place(Dtype::F32)?)?;
        if let Some(vocoder) = &vocoder {
            encoder.check(vocoder)?;
        }
        let lines = LineEncoder {
            sample_rate: encoder.sample_rate(),
            encode: &|samples| encoder.encode(samples),
            strict: self.strict,
            told: &|error| note(format_args!("line left out: {error}")),
        };
        for data in &self.data {
            let encoded = lines.file(data, &self.out)?;
            let (recordings, lines) = (encoded.recordings, encoded.lines);
            note(format_args!("{recordings} recordings of {lines} lines encoded, {} lines left out", encoded.bad));
            say(format_args!("{}", encoded.path.display()));
        }
        Ok(true)
    }
}
