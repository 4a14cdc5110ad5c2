use super::pixels::Pixels;

/// Resizes with antialiased bicubic interpolation (a = −0.5) in integers, exactly as the reference: width first, then height,
/// rounded and clamped to 8 bits in between.
pub fn resize(pixels: &Pixels, width: usize, height: usize) -> Pixels {
    let columns = Axis::new(pixels.width(), width);
    let rows = Axis::new(pixels.height(), height);
    let wide = match columns {
        None => pixels.rgb().to_vec(),
        Some(axis) => along_width(pixels.rgb(), pixels.width(), &axis),
    };
    let done = match rows {
        None => wide,
        Some(axis) => along_height(&wide, width, &axis),
    };
    Pixels::new(width, height, done).expect("both passes give whole rows")
}

/// Inputs and weights of each output along one axis.
struct Axis {
    taps: Vec<Taps>,
    /// Bits of the integer weights.
    precision: u32,
}

struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Keys' kernel with a = −0.5.
fn kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    match x {
        _ if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => ((x - 5.0) * x + 8.0) * x * A - 4.0 * A,
        _ => 0.0,
    }
}

impl Axis {
    /// Prepares one pass; `None` if the size does not change, so that the pass is skipped.
    fn new(input: usize, output: usize) -> Option<Self> {
        if input == output {
            return None;
        }
        let scale = input as f64 / output as f64;
        let floats: Vec<(usize, Vec<f64>)> = (0..output).map(|o| weights(o, input, scale)).collect();
        let largest = floats.iter().flat_map(|(_, weights)| weights).copied().fold(0.0, f64::max);
        let fits = |bits: &u32| 0.5 + largest * f64::from(1u32 << bits) < f64::from(1u32 << 15);
        let precision = (0..=22).rev().find(fits).unwrap_or(0);
        let unit = f64::from(1u32 << precision);
        let whole = |weight: f64| (weight * unit).round() as i32;
        let taps = floats
            .into_iter()
            .map(|(first, weights)| Taps { first, weights: weights.into_iter().map(whole).collect() });
        Some(Self { taps: taps.collect(), precision })
    }

    fn round(&self, sum: i32) -> u8 {
        let half = if self.precision == 0 { 0 } else { 1 << (self.precision - 1) };
        ((sum + half) >> self.precision).clamp(0, 255) as u8
    }
}

/// First input and normalised weights of one output.
fn weights(output: usize, input: usize, scale: f64) -> (usize, Vec<f64>) {
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let centre = (output as f64 + 0.5) * scale;
    // Casting truncates and stops at 0.
    let first = (centre - support + 0.5) as usize;
    let end = ((centre + support + 0.5) as usize).min(input);
    let raw: Vec<f64> = (first..end).map(|i| kernel((i as f64 - centre + 0.5) / stretch)).collect();
    let sum: f64 = raw.iter().sum();
    (first, raw.into_iter().map(|weight| weight / sum).collect())
}

/// `[height, width, 3]` → `[height, axis, 3]`.
fn along_width(rgb: &[u8], width: usize, axis: &Axis) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len() / width * axis.taps.len());
    for row in rgb.chunks_exact(width * 3) {
        for Taps { first, weights } in &axis.taps {
            let (pixels, _) = row[first * 3..].as_chunks::<3>();
            let mut sums = [0i32; 3];
            for (weight, pixel) in weights.iter().zip(pixels) {
                (0..3).for_each(|c| sums[c] += weight * i32::from(pixel[c]));
            }
            out.extend(sums.map(|sum| axis.round(sum)));
        }
    }
    out
}

/// `[height, width, 3]` → `[axis, width, 3]`.
fn along_height(rgb: &[u8], width: usize, axis: &Axis) -> Vec<u8> {
    let stride = width * 3;
    let mut out = Vec::with_capacity(stride * axis.taps.len());
    let mut sums = vec![0i32; stride];
    for Taps { first, weights } in &axis.taps {
        sums.fill(0);
        for (weight, row) in weights.iter().zip(rgb[first * stride..].chunks_exact(stride)) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * i32::from(*value));
        }
        out.extend(sums.iter().map(|sum| axis.round(*sum)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_colour_stays_and_an_edge_does_not_ring_past_8_bits() {
        let even = Pixels::new(50, 30, vec![77; 50 * 30 * 3]).unwrap();
        for (width, height) in [(20, 10), (100, 90), (50, 31), (49, 30), (1, 1)] {
            assert!(resize(&even, width, height).rgb().iter().all(|value| *value == 77));
        }
        let edge: Vec<u8> = (0..40 * 40).flat_map(|i| [if i % 40 < 20 { 0 } else { 255 }; 3]).collect();
        let edge = Pixels::new(40, 40, edge).unwrap();
        let large = resize(&edge, 97, 40);
        assert_eq!((large.rgb()[0], large.rgb()[96 * 3]), (0, 255));
        assert_eq!(resize(&edge, 40, 40), edge);
    }
}
