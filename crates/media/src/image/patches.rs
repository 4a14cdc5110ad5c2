use std::fmt;

use serde::{Deserialize, Serialize};

use super::pixels::Pixels;
use crate::{MediaError, Result};

/// How the vision encoder cuts pictures; `Default` is the released encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PatchSpec {
    /// Side of a patch in pixels.
    pub side: usize,
    /// Frames per patch.
    pub frames: usize,
    /// Patches per side of a merged row.
    pub merge: usize,
}

impl PatchSpec {
    /// Sides of a resized picture are multiples of this.
    pub fn factor(&self) -> usize {
        self.side * self.merge
    }

    /// Patches per time step, row and column of `frames` frames of `[height, width]` pixels.
    pub(crate) fn grid(&self, frames: usize, [height, width]: [usize; 2]) -> [usize; 3] {
        [frames.div_ceil(self.frames.max(1)), height / self.side.max(1), width / self.side.max(1)]
    }
}

impl Default for PatchSpec {
    fn default() -> Self {
        Self { side: 16, frames: 2, merge: 2 }
    }
}

/// A picture or video cut into patches: what the vision encoder takes.
///
/// The patches are held as 8-bit colours, a quarter of what the encoder's numbers take; [`Patches::to_values`] makes those.
#[derive(Clone, PartialEq)]
pub struct Patches {
    colours: Vec<u8>,
    grid: [usize; 3],
}

impl Patches {
    /// Cuts frames of one size, whose sides are multiples of `spec.factor()`. The last frame is repeated until the frames
    /// divide into groups of `spec.frames`; a picture fills one group.
    ///
    /// Order of patches: time, block row, block column, row in block, column in block; inside a patch: colour, frame, row, column.
    ///
    /// # Errors
    /// [`MediaError::Unusable`] if there are no frames, or their sizes differ or do not divide.
    pub fn cut(frames: &[Pixels], spec: PatchSpec) -> Result<Self> {
        let first = frames.first().ok_or_else(|| MediaError::unusable("video", "there are no frames"))?;
        let mut cutter = Cutter::new(spec, [first.height(), first.width()], frames.len())?;
        frames.iter().try_for_each(|frame| cutter.push(frame.clone()))?;
        cutter.finish()
    }

    /// Patches per time step, row and column: `[t, h, w]`.
    pub fn grid(&self) -> [usize; 3] {
        self.grid
    }

    /// Number of patches `P`.
    pub fn patches(&self) -> usize {
        self.grid.iter().product()
    }

    /// Values of one patch: `3 * frames * side * side`.
    pub fn patch_len(&self) -> usize {
        self.colours.len() / self.patches()
    }

    /// The colours, 0 to 255: `[P, 3 * frames * side * side]`.
    pub fn colours(&self) -> &[u8] {
        &self.colours
    }

    /// The values that the encoder takes, `(x - 127.5) / 127.5` of each colour: `[P, 3 * frames * side * side]`.
    pub fn to_values(&self) -> Vec<f32> {
        self.colours.iter().map(|colour| (f32::from(*colour) - 127.5) / 127.5).collect()
    }
}

impl fmt::Debug for Patches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [t, h, w] = self.grid;
        write!(f, "{t} × {h} × {w} patches")
    }
}

/// Cuts frames as they come: of the frames themselves, only those of one time step are held.
pub(crate) struct Cutter {
    spec: PatchSpec,
    size: [usize; 2],
    step: Vec<Pixels>,
    steps: usize,
    colours: Vec<u8>,
}

impl Cutter {
    /// Makes room for `frames` frames of `[height, width]` pixels.
    pub(crate) fn new(spec: PatchSpec, size: [usize; 2], frames: usize) -> Result<Self> {
        if spec.frames == 0 || spec.factor() == 0 {
            return Err(MediaError::unusable("picture options", format!("{spec:?} has a size of 0")));
        }
        let [height, width] = size;
        if !width.is_multiple_of(spec.factor()) || !height.is_multiple_of(spec.factor()) {
            let reason = format!("{width} × {height} pixels, expected sides that are multiples of {}", spec.factor());
            return Err(MediaError::unusable("picture", reason));
        }
        let mut colours = Vec::new();
        let bytes = frames.next_multiple_of(spec.frames).saturating_mul(height * width * 3);
        let large = |error| {
            let reason = format!("{frames} frames of {width} × {height} pixels: too large");
            MediaError::unusable("video", reason).caused_by(error)
        };
        colours.try_reserve_exact(bytes).map_err(large)?;
        Ok(Self { spec, size, step: Vec::with_capacity(spec.frames), steps: 0, colours })
    }

    pub(crate) fn push(&mut self, frame: Pixels) -> Result<()> {
        let [height, width] = self.size;
        if (frame.width(), frame.height()) != (width, height) {
            let reason = format!("frames differ in size: {width} × {height} pixels and {frame:?}");
            return Err(MediaError::unusable("video", reason));
        }
        self.step.push(frame);
        if self.step.len() == self.spec.frames {
            self.cut_step();
        }
        Ok(())
    }

    /// Repeats the last frame to fill its time step.
    pub(crate) fn finish(mut self) -> Result<Patches> {
        if let Some(last) = self.step.last().cloned() {
            self.step.resize(self.spec.frames, last);
            self.cut_step();
        }
        if self.steps == 0 {
            return Err(MediaError::unusable("video", "there are no frames"));
        }
        let grid = self.grid();
        Ok(Patches { colours: self.colours, grid })
    }

    fn grid(&self) -> [usize; 3] {
        let [height, width] = self.size;
        [self.steps, height / self.spec.side, width / self.spec.side]
    }

    fn cut_step(&mut self) {
        for place in order(self.grid(), self.spec.merge) {
            cut_one(&self.step, place, self.spec.side, &mut self.colours);
        }
        self.step.clear();
        self.steps += 1;
    }
}

/// Rows and columns of the patches of one time step, merge block by merge block.
fn order([_, height, width]: [usize; 3], merge: usize) -> impl Iterator<Item = [usize; 2]> {
    let blocks = (0..height / merge).flat_map(move |y| (0..width / merge).map(move |x| [y, x]));
    blocks.flat_map(move |[y, x]| {
        (0..merge).flat_map(move |row| (0..merge).map(move |column| [y * merge + row, x * merge + column]))
    })
}

fn cut_one(frames: &[Pixels], [row, column]: [usize; 2], side: usize, colours: &mut Vec<u8>) {
    for colour in 0..3 {
        for frame in frames {
            for y in row * side..(row + 1) * side {
                let start = (y * frame.width() + column * side) * 3;
                let (pixels, _) = frame.rgb()[start..start + side * 3].as_chunks::<3>();
                colours.extend(pixels.iter().map(|pixel| pixel[colour]));
            }
        }
    }
}
