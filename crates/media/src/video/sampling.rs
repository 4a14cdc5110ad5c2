use super::options::{VideoOptions, VideoSampling};
use super::track::Timing;

/// Indices of the frames taken from a video with a constant rate.
pub fn sample_indices(frames: usize, source_rate: f64, options: &VideoOptions) -> Vec<usize> {
    let timestamps = (0..frames as i64).collect();
    choose(&Timing { timestamps, duration: frames as i64, ticks_per_second: source_rate }, options)
}

/// Chooses an even number of frames, by the options' rate and within their bounds.
pub(super) fn choose(timing: &Timing, options: &VideoOptions) -> Vec<usize> {
    let total = timing.frames();
    let even = |frames: f64| (frames / 2.0).floor() as usize * 2;
    let most = even(options.max_frames.min(total) as f64);
    let wanted = (timing.seconds() * options.frames_per_second).max(options.min_frames as f64);
    let count = even(wanted.min(most as f64));
    match options.sampling {
        // One frame cannot be an even number of frames.
        _ if count == 0 => (0..total.min(1)).collect(),
        VideoSampling::Processor => (0..count).map(|i| shown(timing, i, count)).collect(),
        VideoSampling::Utilities => (0..count).map(|i| spread(total, i, count)).collect(),
    }
}

/// The frame shown at the start of stretch `i` of `count`.
fn shown(timing: &Timing, i: usize, count: usize) -> usize {
    // In integers: a frame that begins exactly at the time counts as shown.
    let time = i as i128 * i128::from(timing.duration);
    timing.timestamps.partition_point(|start| i128::from(*start) * count as i128 <= time).saturating_sub(1)
}

/// Number `i` of `torch.linspace(0, total - 1, count).round()`, which counts from the nearer end, in single precision and with one
/// rounding for product and sum.
fn spread(total: usize, i: usize, count: usize) -> usize {
    let last = (total - 1) as f32;
    let step = last / (count - 1) as f32;
    let place = if i < count / 2 { step * i as f32 } else { step.mul_add(-((count - 1 - i) as f32), last) };
    place.round_ties_even() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_variable_rate_is_sampled_evenly_in_time() {
        // One second at 10 frames per second, then one still frame for three seconds.
        let timestamps = (0..11).map(|i| i * 100).collect();
        let timing = Timing { timestamps, duration: 4000, ticks_per_second: 1000.0 };
        assert_eq!(choose(&timing, &VideoOptions::default()), [0, 5, 10, 10, 10, 10, 10, 10]);
    }

    proptest! {
        #[test]
        fn indices_ascend_within_the_video_and_the_bounds(frames in 1usize..5000, rate in 1.0f64..120.0) {
            for sampling in [VideoSampling::Processor, VideoSampling::Utilities] {
                let options = VideoOptions { sampling, ..VideoOptions::default() };
                let chosen = sample_indices(frames, rate, &options);
                prop_assert!(!chosen.is_empty() && chosen.len() <= options.max_frames);
                prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(*chosen.last().unwrap() < frames);
            }
        }
    }
}
