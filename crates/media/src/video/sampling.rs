use super::VideoOptions;
use super::track::Timing;

/// Indices of the frames taken from a video with a constant rate.
pub fn sample_indices(frames: usize, source_rate: f64, options: &VideoOptions) -> Vec<usize> {
    let timestamps = (0..frames as i64).collect();
    choose(&Timing { timestamps, duration: frames as i64, ticks_per_second: source_rate }, options)
}

/// Chooses the frames shown at evenly spaced times, an even number of them, by the options' rate and within their bounds.
///
/// With a constant rate this is frame `i * frames / n`, as the reference takes it; with a variable one the times stay even.
pub(super) fn choose(timing: &Timing, options: &VideoOptions) -> Vec<usize> {
    let total = timing.frames();
    let even = |frames: f64| (frames / 2.0).floor() as usize * 2;
    let most = even(options.max_frames.min(total) as f64);
    let wanted = (timing.seconds() * options.frames_per_second).max(options.min_frames as f64);
    let count = even(wanted.min(most as f64));
    if count == 0 {
        // One frame cannot be an even number of frames.
        return (0..total.min(1)).collect();
    }
    let shown = |i: usize| {
        // In integers: a frame that begins exactly at the time counts as shown.
        let time = i as i128 * i128::from(timing.duration);
        timing.timestamps.partition_point(|start| i128::from(*start) * count as i128 <= time).saturating_sub(1)
    };
    (0..count).map(shown).collect()
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
            let options = VideoOptions::default();
            let chosen = sample_indices(frames, rate, &options);
            prop_assert!(!chosen.is_empty() && chosen.len() <= options.max_frames);
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(*chosen.last().unwrap() < frames);
        }
    }
}
