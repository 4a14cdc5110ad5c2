/// Three-axis positions (time, height, width) of a batch of tokens, held on the host.
///
/// They are floats: after a video, text may sit on fractional positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Positions {
    batch: usize,
    axes: [Vec<f32>; 3],
}

impl Positions {
    /// Makes positions from one list per axis, each `[B * T]` row-major.
    ///
    /// # Panics
    /// If the lists differ in length or do not divide into `batch` rows.
    pub fn new(batch: usize, axes: [Vec<f32>; 3]) -> Self {
        assert!(axes.iter().all(|a| a.len() == axes[0].len()), "the axes have different lengths");
        assert!(batch > 0 && axes[0].len().is_multiple_of(batch), "positions do not divide into {batch} rows");
        Self { batch, axes }
    }

    /// Makes positions that are equal on all axes, as those of text are: `[B * T]` row-major.
    pub fn uniform(batch: usize, positions: Vec<f32>) -> Self {
        Self::new(batch, [positions.clone(), positions.clone(), positions])
    }

    /// Makes `tokens` consecutive positions from `start`, for one row.
    pub fn sequence(start: f32, tokens: usize) -> Self {
        Self::uniform(1, (0..tokens).map(|i| start + i as f32).collect())
    }

    /// Number of rows `B`.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens per row `T`.
    pub fn tokens(&self) -> usize {
        self.axes[0].len() / self.batch
    }

    /// One axis (0 time, 1 height, 2 width), `[B * T]`.
    pub fn axis(&self, axis: usize) -> &[f32] {
        &self.axes[axis]
    }

    /// Positions of a range of tokens, out of a single row.
    ///
    /// # Panics
    /// If the range goes beyond the tokens, or there are several rows.
    #[must_use]
    pub fn slice(&self, tokens: std::ops::Range<usize>) -> Self {
        assert_eq!(self.batch, 1, "positions of several rows");
        Self::new(1, self.axes.each_ref().map(|axis| axis[tokens.clone()].to_vec()))
    }

    /// The largest position on any axis; `None` without tokens.
    pub fn max(&self) -> Option<f32> {
        self.axes.iter().flatten().copied().reduce(f32::max)
    }
}
