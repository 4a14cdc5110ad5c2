use crate::grid::patch_places;

/// Base of the frequencies; no config names it.
const THETA: f32 = 10_000.0;

/// Cosines and sines of one frame's patches, in merge-block order: each `[P, Dh / 2]` row-major, half of them by row, half by
/// column. The second half of a head repeats them.
pub(crate) fn rotation_tables([height, width]: [usize; 2], merge: usize, head_dim: usize) -> [Vec<f32>; 2] {
    let quarter = head_dim / 4;
    let frequencies: Vec<f32> = (0..quarter).map(|i| 1.0 / THETA.powf(i as f32 / quarter as f32)).collect();
    // A row and a column of the same index have the same angles.
    let of_numbers = |turn: fn(f32) -> f32| {
        let angle = |at: usize, frequency: &f32| turn(at as f32 * frequency);
        let table = (0..height.max(width)).map(|at| frequencies.iter().map(|f| angle(at, f)).collect::<Vec<_>>());
        table.collect::<Vec<_>>()
    };
    let places = patch_places(height, width, merge);
    [of_numbers(f32::cos), of_numbers(f32::sin)]
        .map(|table| places.iter().flatten().flat_map(|at| &table[*at]).copied().collect())
}
