use omni_core::Positions;

use crate::RopeConfig;

/// Makes rotation tables from positions.
#[derive(Debug, Clone)]
pub struct Rope {
    frequencies: Vec<f32>,
    axes: Vec<usize>,
}

impl Rope {
    /// Prepares the frequencies of `config`.
    pub fn new(config: &RopeConfig) -> Self {
        Self { frequencies: config.inverse_frequencies(), axes: config.axis_of_frequency() }
    }

    /// Cosines and sines of each token, by frequency: `[B * T, Dh / 2]` each.
    pub fn tables(&self, positions: &Positions) -> [Vec<f32>; 2] {
        let tokens = positions.batch() * positions.tokens();
        let angles = |of: fn(f32) -> f32| {
            let frequencies = || self.frequencies.iter().zip(&self.axes);
            let of_token = |token: usize| frequencies().map(move |(f, axis)| of(positions.axis(*axis)[token] * f));
            (0..tokens).flat_map(of_token).collect()
        };
        [angles(f32::cos), angles(f32::sin)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_those_of_the_angles_and_each_frequency_has_its_axis() {
        let rope = Rope::new(&RopeConfig { head_dim: 8, theta: 1e4, section: Some([2, 1, 1]) });
        let [cos, sin] = rope.tables(&Positions::sequence(0.0, 3));
        assert_eq!((&cos[..4], &sin[..4]), (&[1.0; 4][..], &[0.0; 4][..]));
        for (token, (cos, sin)) in cos.chunks(4).zip(sin.chunks(4)).enumerate() {
            for (at, (cos, sin)) in cos.iter().zip(sin).enumerate() {
                let angle = token as f64 / 1e4f64.powf(at as f64 / 4.0);
                let (c, s) = (f64::from(*cos) - angle.cos(), f64::from(*sin) - angle.sin());
                assert!(c.abs() < 1e-6 && s.abs() < 1e-6, "token {token}, frequency {at}");
            }
        }
    }
}
