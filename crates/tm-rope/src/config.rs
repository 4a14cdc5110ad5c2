/// Parameters of RoPE: how a model rotates its queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Head width `Dh`; even.
    pub head_dim: usize,
    /// Base of the RoPE frequencies.
    pub theta: f64,
    /// Number of frequencies per axis `[time, height, width]`, interleaved; `None` for plain one-dimensional RoPE.
    pub section: Option<[usize; 3]>,
}

impl RopeConfig {
    /// Plain one-dimensional RoPE.
    pub fn plain(head_dim: usize, theta: f64) -> Self {
        Self { head_dim, theta, section: None }
    }

    /// The axis (0 time, 1 height, 2 width) that each of the `Dh / 2` frequencies takes its position from.
    ///
    /// Height has the frequencies 1, 4, 7, … below `3 * section[1]`, width 2, 5, 8, … below `3 * section[2]`, time the rest.
    pub fn axis_of_frequency(&self) -> Vec<usize> {
        let [_, height, width] = self.section.unwrap_or([0; 3]);
        (0..self.head_dim / 2)
            .map(|i| match i % 3 {
                1 if i < 3 * height => 1,
                2 if i < 3 * width => 2,
                _ => 0,
            })
            .collect()
    }

    /// `1 / theta^(2i / Dh)` for each frequency `i`, in f32 as the reference computes it.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let width = self.head_dim as f32;
        (0..self.head_dim / 2).map(|i| 1.0 / (self.theta as f32).powf((2 * i) as f32 / width)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_sections_have_24_20_20_frequencies() {
        let config = RopeConfig { head_dim: 128, theta: 1e6, section: Some([24, 20, 20]) };
        let axes = config.axis_of_frequency();
        assert_eq!([0, 1, 2].map(|axis| axes.iter().filter(|a| **a == axis).count()), [24, 20, 20]);
        assert_eq!(axes[57..], [0, 1, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn there_is_a_frequency_for_every_two_of_the_head() {
        let frequencies = RopeConfig::plain(8, 1e4).inverse_frequencies();
        let expected = [1.0, 0.1, 0.01, 0.001];
        assert_eq!(frequencies.len(), expected.len());
        assert!(frequencies.iter().zip(expected).all(|(found, expected)| (found / expected - 1.0).abs() < 1e-5));
    }
}
