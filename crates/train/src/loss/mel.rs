//! Slaney's mel filters, as of the codec's encoder and its loss.

/// Samples of the frames whose magnitudes are seen in mel bins.
pub(crate) const MEL_WINDOW: usize = 1024;
/// Number of mel bins.
pub(crate) const MEL_BINS: usize = 80;
/// Sound above this is in no mel bin.
const MEL_HIGHEST: f64 = 11_000.0;

/// Slaney's triangular mel filters, normalised by their width: `[bins, mel]`.
pub(crate) fn mel_filters(rate: f64, window: usize) -> Vec<f32> {
    let bins = window / 2 + 1;
    let top = mel_of(MEL_HIGHEST);
    let edges: Vec<f64> = (0..MEL_BINS + 2).map(|i| hertz_of(top * i as f64 / (MEL_BINS + 1) as f64)).collect();
    let of_bin = |bin: usize| {
        let frequency = rate / 2.0 * bin as f64 / (bins - 1) as f64;
        let edges = &edges;
        (0..MEL_BINS).map(move |mel| {
            let [low, middle, high] = [edges[mel], edges[mel + 1], edges[mel + 2]];
            let height = ((frequency - low) / (middle - low)).min((high - frequency) / (high - middle)).max(0.0);
            (height * 2.0 / (high - low)) as f32
        })
    };
    (0..bins).flat_map(of_bin).collect()
}

/// Slaney's mel scale is linear below this frequency, and logarithmic above it.
const LINEAR_BELOW: f64 = 1000.0;
const HERTZ_PER_MEL: f64 = 200.0 / 3.0;
const LINEAR_MELS: f64 = LINEAR_BELOW / HERTZ_PER_MEL;

fn log_step() -> f64 {
    6.4f64.ln() / 27.0
}

fn mel_of(hertz: f64) -> f64 {
    match hertz < LINEAR_BELOW {
        true => hertz / HERTZ_PER_MEL,
        false => LINEAR_MELS + (hertz / LINEAR_BELOW).ln() / log_step(),
    }
}

fn hertz_of(mel: f64) -> f64 {
    match mel < LINEAR_MELS {
        true => mel * HERTZ_PER_MEL,
        false => LINEAR_BELOW * ((mel - LINEAR_MELS) * log_step()).exp(),
    }
}
