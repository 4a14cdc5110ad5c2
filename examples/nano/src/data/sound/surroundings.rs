//! A recording as it would be heard somewhere: faster or slower, from near or far, in a room, in noise.

use crate::data::sound::resample::resample;
use crate::data::sound::wave::{Wave, rms};
use crate::data::world::draw::Draw;

/// Samples per second of what is heard.
pub const RATE: u32 = 16_000;
/// The shortest sound: the encoder convolves a lone one below a second without padding.
const LEAST: usize = (RATE as usize * 106) / 100;
/// The peak of a recording before it is made louder or softer.
const PEAK: f32 = 0.75;

/// What may surround a recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Around {
    /// Anything.
    Any,
    /// Anything, but with little silence, for films of a few seconds.
    Short,
    /// Seconds of silence on both sides, and hardly any noise.
    Silence(f32),
}

/// Places a recording. The draws decide how.
pub fn place(wave: &Wave, around: Around, draw: &mut Draw) -> Vec<f32> {
    let wave = wave.clone().trimmed(0.02);
    let peak = wave.peak().max(1e-3);
    let quiet = matches!(around, Around::Silence(_));
    let pace = if quiet { 1.0 } else { draw.real(0.8, 1.25) };
    // In steps of a 320th: so the usual rates are exact.
    let down = (320.0 * wave.rate as f32 / RATE as f32 * pace).round() as usize;
    let gain = if quiet { 1.0 } else { draw.real(0.3, 1.2) };
    let [before, after] = [(), ()].map(|()| silence(around, draw));
    let mut samples = vec![0.0; before];
    samples.extend(resample(&wave.samples, 320, down).into_iter().map(|sample| sample * gain * PEAK / peak));
    samples.resize((samples.len() + after).max(LEAST), 0.0);
    if !quiet && draw.chance(0.5) {
        let [bass, treble] = [(), ()].map(|()| draw.real(-9.0, 9.0));
        samples = coloured(&samples, bass, treble);
    }
    if !quiet && draw.chance(1.0 / 3.0) {
        samples = room(&samples, draw);
    }
    let loudness = if quiet { 1e-4 } else { 10f32.powf(draw.real(-4.5, -2.2)) };
    let pink = draw.chance(0.5);
    add_noise(&mut samples, loudness, pink, draw);
    samples
}

/// Samples of silence at one end.
fn silence(around: Around, draw: &mut Draw) -> usize {
    let seconds = match around {
        Around::Silence(seconds) => seconds,
        Around::Short => draw.real(0.0, 0.4),
        Around::Any if draw.chance(0.3) => draw.real(0.0, 0.1),
        Around::Any => draw.real(0.0, 1.0),
    };
    (seconds * RATE as f32).round() as usize
}

/// The sound through another microphone: below 500 Hz and above 2 kHz louder or softer by decibels, and as loud as it was.
fn coloured(samples: &[f32], bass: f32, treble: f32) -> Vec<f32> {
    let [low, high] = [500.0, 2000.0].map(|hertz: f32| 1.0 - (-std::f32::consts::TAU * hertz / RATE as f32).exp());
    let [bass, treble] = [bass, treble].map(|decibels| 10f32.powf(decibels / 20.0));
    let (mut below, mut middle) = (0.0, 0.0);
    let coloured = samples.iter().map(|sample| {
        below += low * (sample - below);
        middle += high * (sample - middle);
        bass * below + (middle - below) + treble * (sample - middle)
    });
    level(coloured.collect(), samples)
}

/// Adds white noise, or pink noise, which has as much of it in every octave.
pub fn add_noise(samples: &mut [f32], loudness: f32, pink: bool, draw: &mut Draw) {
    let mut noise: Vec<f32> = samples.iter().map(|_| draw.normal()).collect();
    if pink {
        // Kellet's filter: slow parts of three speeds, added to the white noise.
        let mut slow = [0.0f32; 3];
        for value in &mut noise {
            let white = *value;
            for (part, (keep, take)) in
                slow.iter_mut().zip([(0.99765, 0.099_046), (0.963, 0.296_516), (0.57, 1.052_69)])
            {
                *part = keep * *part + take * white;
            }
            *value = slow.iter().sum::<f32>() + 0.1848 * white;
        }
    }
    let factor = loudness / rms(&noise).max(1e-9);
    samples.iter_mut().zip(noise).for_each(|(sample, noise)| *sample += noise * factor);
}

/// The sound in a room: itself, and its echoes at random times, which die away within 0.1 to 0.4 seconds. It keeps its length, so
/// the last echoes are lost; and its loudness.
pub fn room(samples: &[f32], draw: &mut Draw) -> Vec<f32> {
    let length = draw.real(0.1, 0.4) * RATE as f32;
    let share = draw.real(0.2, 0.7);
    // Some 2,000 echoes a second are as dense as the ear can tell, and much fewer than samples.
    let count = (length / 8.0) as usize;
    let echoes: Vec<(usize, f32)> = (0..count)
        .map(|_| {
            let at = draw.real(1.0, length);
            // To a thousandth, 60 dB, at the end.
            (at as usize, draw.normal() * (-6.9 * at / length).exp())
        })
        .collect();
    let energy = echoes.iter().map(|(_, height)| height * height).sum::<f32>().sqrt().max(1e-9);
    let mut heard = samples.to_vec();
    for (at, height) in echoes {
        let height = height * share / energy;
        let end = samples.len().saturating_sub(at);
        heard.iter_mut().skip(at).zip(&samples[..end]).for_each(|(heard, sample)| *heard += height * sample);
    }
    level(heard, samples)
}

/// Makes a sound as loud as another, but for peaks that would be clipped.
fn level(mut sound: Vec<f32>, other: &[f32]) -> Vec<f32> {
    let factor = rms(other) / rms(&sound).max(1e-9);
    let peak = sound.iter().fold(0f32, |peak, sample| peak.max(sample.abs())) * factor;
    let factor = factor * (0.98 / peak.max(0.98));
    sound.iter_mut().for_each(|sample| *sample *= factor);
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn click() -> Wave {
        let samples = (0..8000).map(|i| (i as f32 * 0.3).sin() * 0.4).collect();
        Wave { rate: 16_000, samples }
    }

    #[test]
    fn a_room_keeps_length_and_loudness() {
        let wave = click();
        let heard = room(&wave.samples, &mut Draw::new(1, "room", 0));
        assert_eq!(heard.len(), wave.samples.len());
        assert!((rms(&heard) / rms(&wave.samples) - 1.0).abs() < 0.01);
        assert!(heard != wave.samples);
    }

    #[test]
    fn a_microphone_makes_bass_louder_and_treble_softer() {
        let sine = |hertz: f32| -> Vec<f32> {
            (0..16_000).map(|i| (std::f32::consts::TAU * hertz * i as f32 / RATE as f32).sin() * 0.1).collect()
        };
        let both: Vec<f32> = sine(100.0).iter().zip(sine(6000.0)).map(|(low, high)| low + high).collect();
        let heard = coloured(&both, 6.0, -6.0);
        assert!((rms(&heard) / rms(&both) - 1.0).abs() < 0.01);
        let share = |hertz: f32| sine(hertz).iter().zip(&heard).map(|(sine, heard)| sine * heard).sum::<f32>().abs();
        assert!(share(100.0) > 1.8 * share(6000.0), "{} {}", share(100.0), share(6000.0));
    }

    #[test]
    fn nothing_is_short_or_clipped() {
        for number in 0..40 {
            let heard = place(&click(), Around::Any, &mut Draw::new(2, "place", number));
            assert!(heard.len() >= 16_960);
            assert!(heard.iter().all(|sample| sample.abs() < 1.0));
        }
        let heard = place(&click(), Around::Silence(0.5), &mut Draw::new(2, "place", 0));
        assert!(rms(&heard[..7500]) < 2e-4 && rms(&heard[8400..15_500]) > 0.3);
    }
}
