/// The sinusoid table: sines in the first half of the columns, cosines in the second.
///
/// # Shapes
/// `[rows, D]`.
pub fn sinusoids(rows: usize, width: usize) -> Vec<f32> {
    sinusoids_from(0, rows, width)
}

/// The rows of [`sinusoids`] from `first` on.
pub(crate) fn sinusoids_from(first: usize, rows: usize, width: usize) -> Vec<f32> {
    let half = width / 2;
    let step = 10_000f32.ln() / (half.max(2) - 1) as f32;
    let mut values = Vec::with_capacity(rows * width);
    for row in first..first + rows {
        let angle = |i: usize| row as f32 * (-step * i as f32).exp();
        values.extend((0..half).map(|i| angle(i).sin()));
        values.extend((0..half).map(|i| angle(i).cos()));
    }
    values
}
