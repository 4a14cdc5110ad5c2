use crate::engine::pool::Buffer;

/// Rows `[N, D]` in pooled memory.
#[derive(Debug)]
pub struct HostRows(pub(super) Buffer);

impl HostRows {
    /// The values, row after row.
    pub fn values(&self) -> &[f32] {
        self.0.plain()
    }

    /// The values, mutable.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.0.plain_mut()
    }

    /// Fills the rows with an output whose size is known only once it is computed: `f` writes the values and returns the width of a
    /// row.
    ///
    /// # Panics
    /// If the values do not fill whole rows.
    pub fn fill_with(&mut self, f: impl FnOnce(&mut Vec<f32>) -> usize) {
        self.0.fill_with(f);
    }

    /// `[N, D]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.0.rows(), self.0.width()]
    }
}
