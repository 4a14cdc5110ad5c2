//! The whole report, in words and in JSON.

use std::fmt;

use qwen3_omni::Result;
use serde::Serialize;
use weights_tools::quantize::Recipe;
use weights_tools::released;

use super::machine::{Cache, DeviceReport, Memory, Processor, ffmpeg};

/// All that is told.
#[derive(Debug, Serialize)]
pub struct Report {
    version: &'static str,
    devices: Vec<DeviceReport>,
    memory: Memory,
    processor: Processor,
    ffmpeg: Option<String>,
    cache: Option<Cache>,
    models: Vec<Model>,
}

/// A form of the released model.
#[derive(Debug, Serialize)]
struct Model {
    /// The name of its recipe, or `bf16`.
    form: &'static str,
    /// Size of its weights in bytes.
    bytes: u64,
    /// Whether the weights fit into the memory of this machine. If not, the CPU reads them from the disk again and again.
    fits: bool,
}

impl Report {
    /// Looks at the machine.
    ///
    /// # Errors
    /// The errors of [`released::memory_estimate`].
    pub fn new() -> Result<Self> {
        let memory = Memory::now();
        let forms = Recipe::ALL.map(Some).into_iter().chain([None]);
        let model = |recipe: Option<Recipe>| {
            let bytes = released::memory_estimate(recipe)?.total();
            Ok(Model { form: recipe.map_or("bf16", Recipe::name), bytes, fits: bytes <= memory.available })
        };
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            devices: DeviceReport::all(),
            models: forms.map(model).collect::<Result<_>>()?,
            memory,
            processor: Processor::this(),
            ffmpeg: ffmpeg(),
            cache: Cache::of_user(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "qwen3-omni {}", self.version)?;
        for device in &self.devices {
            let state = match (&device.reason, device.built) {
                (None, _) => device.card.as_deref().unwrap_or("ready"),
                (Some(_), false) => "not in this build",
                (Some(reason), true) => reason,
            };
            writeln!(f, "device {:8} {state}", device.name)?;
        }
        let Processor { architecture, cores, instructions, used } = &self.processor;
        writeln!(f, "processor       {architecture}, {cores} threads, {instructions}")?;
        if used != instructions {
            writeln!(f, "                but only {used} is used: QWEN3_OMNI_SIMD says so")?;
        }
        let Memory { total, available } = self.memory;
        writeln!(f, "memory          {:.1} GB, {:.1} GB available", gigabytes(total), gigabytes(available))?;
        match &self.ffmpeg {
            Some(version) => writeln!(f, "ffmpeg          {version}")?,
            None => writeln!(
                f,
                "ffmpeg          not found: video other than H.264 in MP4, HEIC, AVIF and rare sound need it"
            )?,
        }
        if let Some(Cache { folder, free }) = &self.cache {
            let free = free.map_or_else(String::new, |free| format!(", {:.1} GB free", gigabytes(free)));
            writeln!(f, "cache           {}{free}", folder.display())?;
        }
        write!(f, "the released model in this memory:")?;
        for Model { form, bytes, fits } in &self.models {
            let fits =
                if *fits { "fits" } else { "does not fit; runs, but reads its weights from the disk again and again" };
            write!(f, "\n  {form:6} {:>5.1} GB  {fits}", gigabytes(*bytes))?;
        }
        Ok(())
    }
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
