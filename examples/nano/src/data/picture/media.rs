//! Media of one side: what is to be painted, filmed or sounded, and under which path.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::data::picture::film::Film;
use crate::data::picture::mp4::encode;
use crate::data::picture::paint::paint;
use crate::data::picture::scene::Scene;
use crate::data::sound::surroundings::RATE;
use crate::data::sound::tone::Tone;
use crate::data::sound::wave::Wave;
use crate::data::world::draw::Draw;
use crate::data::world::held::Side;
use crate::data::{Result, in_file};

/// Films that are encoded at a time.
const FILMS: usize = 20;

/// Media that are planned, in order.
#[derive(Debug)]
pub struct Media {
    side: Side,
    scenes: Vec<Scene>,
    films: Vec<(Film, Option<String>)>,
    tones: Vec<Tone>,
}

impl Media {
    /// Nothing yet.
    pub fn new(side: Side) -> Self {
        Self { side, scenes: Vec::new(), films: Vec::new(), tones: Vec::new() }
    }

    /// Plans a picture; its path.
    pub fn picture(&mut self, scene: Scene) -> String {
        self.scenes.push(scene);
        self.path("pictures", self.scenes.len(), "png")
    }

    /// Plans a film; its path.
    pub fn film(&mut self, film: Film, sound: Option<String>) -> String {
        self.films.push((film, sound));
        self.path("clips", self.films.len(), "mp4")
    }

    /// Plans a sound that is no speech; its path.
    pub fn tone(&mut self, tone: Tone) -> String {
        self.tones.push(tone);
        self.path("tones", self.tones.len(), "wav")
    }

    fn path(&self, folder: &str, number: usize, extension: &str) -> String {
        format!("../media/{folder}/{}/{:06}.{extension}", self.side.name(), number - 1)
    }

    fn file(&self, out: &Path, folder: &str, number: usize, extension: &str) -> PathBuf {
        on_disk(out, &self.path(folder, number + 1, extension))
    }

    fn make_folder(&self, out: &Path, folder: &str) -> Result<()> {
        let path = out.join("media").join(folder).join(self.side.name());
        std::fs::create_dir_all(&path).map_err(in_file(&path))
    }

    /// Makes pictures and tones.
    ///
    /// # Errors
    /// Errors of files.
    pub fn render_stills(&self, out: &Path, seed: u64) -> Result<()> {
        self.make_folder(out, "pictures")?;
        self.make_folder(out, "tones")?;
        self.scenes.par_iter().enumerate().try_for_each(|(number, scene)| -> Result<()> {
            let path = self.file(out, "pictures", number, "png");
            paint(scene).save(&path).map_err(in_file(&path))
        })?;
        self.tones.par_iter().enumerate().try_for_each(|(number, tone)| {
            let mut draw = Draw::new(seed, &format!("tone {}", self.side.name()), number as u64);
            Wave { rate: RATE, samples: tone.sound(&mut draw) }.write(&self.file(out, "tones", number, "wav"))
        })
    }

    /// Makes films. Recordings that they sound like must be there.
    ///
    /// # Errors
    /// Errors of files and of `ffmpeg`.
    pub fn render_films(&self, out: &Path, seed: u64) -> Result<()> {
        self.make_folder(out, "clips")?;
        let films: Vec<_> = self.films.iter().enumerate().collect();
        films.par_chunks(FILMS).try_for_each(|films| {
            let take = |(number, (film, sound)): &(usize, &(Film, Option<String>))| {
                let mut draw = Draw::new(seed, &format!("film {}", self.side.name()), *number as u64);
                let sound = sound.as_ref().map(|path| on_disk(out, path));
                film.take(self.file(out, "clips", *number, "mp4"), sound.as_deref(), &mut draw)
            };
            encode(&films.iter().map(take).collect::<Result<Vec<_>>>()?)
        })
    }

    /// How many pictures, tones and films there are.
    pub fn counts(&self) -> [usize; 3] {
        [self.scenes.len(), self.tones.len(), self.films.len()]
    }
}

/// Where a file of a line lies.
pub fn on_disk(out: &Path, path: &str) -> PathBuf {
    out.join(path.strip_prefix("../").unwrap_or(path))
}
