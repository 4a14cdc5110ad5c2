use super::{PatchSpec, Pixels};
use crate::{MediaError, Result};

/// A picture or video cut into patches: what the vision encoder takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    values: Vec<f32>,
    grid: [usize; 3],
}

impl Patches {
    /// Cuts frames of one size, whose sides are multiples of `spec.factor()`. The last frame is repeated until the frames
    /// divide into groups of `spec.frames`; a picture fills one group.
    ///
    /// Values are `(x - 127.5) / 127.5`. Order of patches: time, block row, block column, row in block, column in block;
    /// inside a patch: colour, frame, row, column.
    ///
    /// # Errors
    /// [`MediaError::Unusable`] if there are no frames, or their sizes differ or do not divide.
    pub fn cut(frames: &[Pixels], spec: PatchSpec) -> Result<Self> {
        let first = frames.first().ok_or_else(|| MediaError::unusable("video", "there are no frames"))?;
        let (width, height) = (first.width(), first.height());
        if let Some(odd) = frames.iter().find(|frame| (frame.width(), frame.height()) != (width, height)) {
            return Err(MediaError::unusable("video", format!("frames differ in size: {first:?} and {odd:?}")));
        }
        if spec.frames == 0 || spec.factor() == 0 {
            return Err(MediaError::unusable("picture options", format!("{spec:?} has a size of 0")));
        }
        if !width.is_multiple_of(spec.factor()) || !height.is_multiple_of(spec.factor()) {
            let reason = format!("{first:?}, expected sides that are multiples of {}", spec.factor());
            return Err(MediaError::unusable("picture", reason));
        }
        let grid = [frames.len().div_ceil(spec.frames), height / spec.side, width / spec.side];
        let mut values = Vec::with_capacity(grid.iter().product::<usize>() * 3 * spec.frames * spec.side * spec.side);
        for group in frames.chunks(spec.frames) {
            let padded: Vec<&Pixels> = (0..spec.frames).map(|i| &group[i.min(group.len() - 1)]).collect();
            for [row, column] in order(grid, spec.merge) {
                cut_one(&padded, [row, column], spec.side, &mut values);
            }
        }
        Ok(Self { values, grid })
    }

    /// Patches per time step, row and column: `[t, h, w]`.
    pub fn grid(&self) -> [usize; 3] {
        self.grid
    }

    /// Number of patches `P`.
    pub fn patches(&self) -> usize {
        self.grid.iter().product()
    }

    /// `[P, 3 * frames * side * side]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// `[P, 3 * frames * side * side]`.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

/// Rows and columns of the patches of one time step, merge block by merge block.
fn order([_, height, width]: [usize; 3], merge: usize) -> impl Iterator<Item = [usize; 2]> {
    let blocks = (0..height / merge).flat_map(move |y| (0..width / merge).map(move |x| [y, x]));
    blocks.flat_map(move |[y, x]| {
        (0..merge).flat_map(move |row| (0..merge).map(move |column| [y * merge + row, x * merge + column]))
    })
}

fn cut_one(frames: &[&Pixels], [row, column]: [usize; 2], side: usize, values: &mut Vec<f32>) {
    for colour in 0..3 {
        for frame in frames {
            for y in row * side..(row + 1) * side {
                let start = (y * frame.width() + column * side) * 3;
                let (pixels, _) = frame.rgb()[start..start + side * 3].as_chunks::<3>();
                values.extend(pixels.iter().map(|pixel| (f32::from(pixel[colour]) - 127.5) / 127.5));
            }
        }
    }
}
