use std::path::PathBuf;

use clap::Args;
use eval::CommandRecogniser;
use qwen3_omni::{Device, Omni};
use qwen3_omni_train::data::DataSource;
use qwen3_omni_train::pairs::{PairCounts, PairSettings, Pairing, write_pairs};
use qwen3_omni_train::{Error, Result};

use super::{note, say};

/// Let the talker speak each answer several times, and write its best and its worst speech as a pair for `dpo`.
#[derive(Args)]
#[command(
    after_help = "Example: qwen3-omni-train pairs --model nano --data talks.jsonl --recogniser \"asr {wav}\" --out pairs.jsonl"
)]
pub(crate) struct PairsCommand {
    /// Checkpoint whose talker speaks.
    #[arg(long)]
    model: PathBuf,
    /// JSON lines that end with an answer, which is spoken.
    #[arg(long)]
    data: PathBuf,
    /// File of pairs to write; their codes lie in a folder beside it.
    #[arg(long)]
    out: PathBuf,
    /// Program that prints what it hears; {wav} stands for a sound file.
    #[arg(long, value_name = "COMMAND")]
    recogniser: String,
    /// Times that each answer is spoken.
    #[arg(long, default_value_t = PairSettings::default().samples)]
    samples: usize,
    /// Least difference of the word error rates of a pair.
    #[arg(long, default_value_t = PairSettings::default().margin)]
    margin: f64,
    /// How many times as long as the other one speech of a pair may be.
    #[arg(long, default_value_t = PairSettings::default().longest)]
    longest: f64,
    /// Language of lines without a key `language`, as a code of ISO 639: en, de or zh.
    #[arg(long, default_value_t = PairSettings::default().language)]
    language: String,
    /// Voice of lines without one.
    #[arg(long)]
    speaker: Option<String>,
    /// Temperature of the first codes instead of the checkpoint's settings.
    #[arg(long)]
    temperature: Option<f32>,
    /// Most frames of a speech, 80 ms each.
    #[arg(long)]
    max_codes: Option<usize>,
    /// Decides what is drawn at random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Begin at this line, counted from 1, and add to pairs that are there already.
    #[arg(long, value_name = "LINE")]
    from: Option<u32>,
    /// Stop at the first bad line instead of counting it.
    #[arg(long)]
    strict: bool,
    /// Where to speak: cpu, wgpu or cuda:0.
    #[arg(long, default_value = "cpu")]
    device: Device,
}

impl PairsCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let settings = self.settings();
        settings.validate()?;
        if self.from.is_none() && self.out.exists() {
            let reason =
                format!("{} is there already, expected a new file, or `--from` to add to it", self.out.display());
            return Err(Error::Option { name: "out", reason });
        }
        let failed = |error: eval::Error| Error::Option { name: "recogniser", reason: error.to_string() };
        let recogniser = CommandRecogniser::new(&self.recogniser).map_err(failed)?;
        let source = DataSource::open(self.data.to_string_lossy(), [&self.data])?;
        // An answer may begin before the one before it has quite ended.
        let answers = self.samples.saturating_mul(2);
        let omni = Omni::builder(&self.model).device(self.device.clone()).max_answers(answers).load()?;
        let pairing = Pairing { omni: &omni, recogniser: &recogniser, settings: &settings };
        let told = &mut |counts: &PairCounts, error: Option<&Error>| {
            if let Some(error) = error {
                note(format_args!("line dropped: {error}"));
            } else if counts.spoken < 10 || counts.spoken.is_multiple_of(10) {
                note(format_args!("{} lines, {} pairs", counts.spoken, counts.pairs));
            }
        };
        let counts = write_pairs(pairing, (&source, self.from.unwrap_or(1)), &self.out, self.strict, told)?;
        let PairCounts { spoken, pairs, bad, takes, faults } = counts;
        note(format_args!("{pairs} pairs of {spoken} lines, {bad} bad; {faults} of {takes} speeches were stopped"));
        say(format_args!("{}", self.out.display()));
        Ok(pairs > 0)
    }

    fn settings(&self) -> PairSettings {
        PairSettings {
            samples: self.samples,
            margin: self.margin,
            longest: self.longest,
            language: self.language.clone(),
            speaker: self.speaker.clone(),
            temperature: self.temperature,
            max_codes: self.max_codes,
            seed: self.seed,
        }
    }
}
