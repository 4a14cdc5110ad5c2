//! Sounds that are no speech.

use std::f32::consts::TAU;

use crate::data::sound::surroundings::{RATE, add_noise};
use crate::data::world::draw::Draw;

/// A sound with a name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tone {
    /// White or pink noise.
    Noise,
    /// A high sine.
    High,
    /// A low sine.
    Low,
    /// A sine that rises.
    Rising,
}

impl Tone {
    /// All of them, noise as often as two of the others.
    pub const ALL: [(u32, Self); 4] = [(2, Self::Noise), (1, Self::High), (1, Self::Low), (1, Self::Rising)];

    /// What is said of it.
    pub fn caption(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::High => "a high tone",
            Self::Low => "a low tone",
            Self::Rising => "a rising tone",
        }
    }

    /// The sound, at [`RATE`].
    pub fn sound(self, draw: &mut Draw) -> Vec<f32> {
        let count = (draw.real(1.1, 2.5) * RATE as f32) as usize;
        let (from, to) = match self {
            Self::Noise => {
                let mut noise = vec![0.0; count];
                let (loudness, pink) = (10f32.powf(draw.real(-2.0, -1.0)), draw.chance(0.5));
                add_noise(&mut noise, loudness, pink, draw);
                return noise;
            }
            Self::High => [draw.real(1500.0, 3500.0); 2].into(),
            Self::Low => [draw.real(120.0, 350.0); 2].into(),
            Self::Rising => (draw.real(150.0, 500.0), draw.real(1500.0, 3500.0)),
        };
        let height = draw.real(0.1, 0.6);
        let mut phase = 0f32;
        let mut samples: Vec<f32> = (0..count)
            .map(|number| {
                // By equal steps of pitch, as the ear hears it.
                let frequency = from * (to / from).powf(number as f32 / count as f32);
                phase = (phase + TAU * frequency / RATE as f32) % TAU;
                // Without a click at the ends.
                let edge = number.min(count - number) as f32 / (0.02 * RATE as f32);
                height * edge.min(1.0) * phase.sin()
            })
            .collect();
        add_noise(&mut samples, 10f32.powf(draw.real(-4.5, -3.0)), false, draw);
        samples
    }
}
