//! Sound at another rate: a windowed sinc, one row of weights for each phase between two samples.

use std::f64::consts::PI;

/// Zero crossings of the sinc on each side.
const CROSSINGS: f64 = 24.0;
/// The cut-off below half the lower rate, for the width of the filter's slope.
const PASSED: f64 = 0.94;

/// Makes `up` samples of each `down` of the input. If these are fewer, what would be above half the new rate is filtered out.
pub fn resample(samples: &[f32], up: usize, down: usize) -> Vec<f32> {
    let shared = common_divisor(up, down);
    let (up, down) = (up / shared, down / shared);
    let cutoff = PASSED * (up as f64 / down as f64).min(1.0);
    // Samples before the place and behind it; rows of a multiple of eight are added up fastest.
    let side = ((CROSSINGS / cutoff).ceil() as usize).next_multiple_of(4);
    let rows: Vec<Vec<f32>> = (0..up).map(|phase| row(side, phase as f64 / up as f64, cutoff)).collect();
    let mut padded = vec![0.0; side - 1];
    padded.extend_from_slice(samples);
    padded.resize(padded.len() + side + 1, 0.0);
    let count = (samples.len() * up).div_ceil(down);
    let at = |number: usize| {
        let (first, phase) = (number * down / up, number * down % up);
        dot(&padded[first..first + 2 * side], &rows[phase])
    };
    (0..count).map(at).collect()
}

/// From one number of samples per second to another.
pub fn to_rate(samples: &[f32], from: u32, to: u32) -> Vec<f32> {
    resample(samples, to as usize, from as usize)
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Weights of the samples around a place that is a fraction behind the middle one.
fn row(side: usize, fraction: f64, cutoff: f64) -> Vec<f32> {
    let weight = |index: usize| {
        let x = (index as f64 - (side - 1) as f64 - fraction) * cutoff;
        if x.abs() >= CROSSINGS {
            return 0.0;
        }
        let sinc = if x.abs() < 1e-9 { 1.0 } else { (PI * x).sin() / (PI * x) };
        // Blackman's window: what is folded back is 74 dB below.
        let angle = PI * x / CROSSINGS;
        cutoff * sinc * (0.42 + 0.5 * angle.cos() + 0.08 * (2.0 * angle).cos())
    };
    (0..2 * side).map(|index| weight(index) as f32).collect()
}

/// Eight sums side by side, which a processor adds at once.
fn dot(samples: &[f32], row: &[f32]) -> f32 {
    let (samples, row) = (samples.as_chunks::<8>().0, row.as_chunks::<8>().0);
    let sums = samples
        .iter()
        .zip(row)
        .fold([0f32; 8], |sums, (samples, row)| std::array::from_fn(|lane| sums[lane] + samples[lane] * row[lane]));
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sound::wave::rms;

    fn sine(frequency: f64, rate: u32) -> Vec<f32> {
        (0..rate).map(|i| (2.0 * PI * frequency * f64::from(i) / f64::from(rate)).sin() as f32).collect()
    }

    #[test]
    fn a_sine_stays_the_same_sine() {
        for (from, to) in [(32_000, 24_000), (16_000, 24_000), (22_050, 16_000), (22_050, 24_000)] {
            let (made, exact) = (to_rate(&sine(1000.0, from), from, to), sine(1000.0, to));
            assert_eq!(made.len(), exact.len());
            // The ends have no neighbours.
            let error: Vec<f32> = made.iter().zip(&exact).map(|(a, b)| a - b).collect();
            assert!(rms(&error[200..error.len() - 200]) < 1e-3, "{from} to {to}");
        }
    }

    #[test]
    fn what_is_above_half_the_new_rate_is_silent() {
        let made = to_rate(&sine(13_500.0, 32_000), 32_000, 24_000);
        assert!(rms(&made[200..made.len() - 200]) < 1e-3);
    }
}
