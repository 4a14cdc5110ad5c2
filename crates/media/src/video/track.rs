/// The reason given for contents without a video track.
pub(super) const NO_VIDEO: &str = "there is no video track";

/// Assumed length of a lone frame, in seconds, where the file does not state it.
const LONE_FRAME_SECONDS: f64 = 0.04;

/// When each frame of a video is shown, in order of time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Timing {
    /// The start of each frame in ticks, never falling, the first at 0.
    pub(crate) timestamps: Vec<i64>,
    /// From the start of the first frame to the end of the last, in ticks; above 0.
    pub(crate) duration: i64,
    /// Ticks per second.
    pub(crate) ticks_per_second: f64,
}

impl Timing {
    /// Makes the timing from the frames' starts and the length of the last one, which is 0 where it is not known.
    ///
    /// Starts are shifted so that the first is 0; one that lies before its predecessor's is raised to it.
    pub(crate) fn new(mut starts: Vec<i64>, last_length: i64, ticks_per_second: f64) -> Self {
        let first = starts.first().copied().unwrap_or(0);
        let mut latest = 0;
        for start in &mut starts {
            latest = start.saturating_sub(first).max(latest);
            *start = latest;
        }
        let last_length = if last_length > 0 { last_length } else { usual_length(&starts, ticks_per_second) };
        Self { timestamps: starts, duration: latest.saturating_add(last_length), ticks_per_second }
    }

    /// The number of frames.
    pub(crate) fn frames(&self) -> usize {
        self.timestamps.len()
    }

    /// How long the whole video is shown.
    pub(crate) fn seconds(&self) -> f64 {
        self.duration as f64 / self.ticks_per_second
    }
}

/// Mean distance between two frames; at least one tick.
fn usual_length(starts: &[i64], ticks_per_second: f64) -> i64 {
    let steps = starts.len().saturating_sub(1) as i64;
    let lone = (ticks_per_second * LONE_FRAME_SECONDS) as i64;
    starts.last().map_or(0, |last| if steps == 0 { lone } else { last / steps }).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_normalised_and_the_last_frame_has_a_length() {
        let timing = Timing::new(vec![500, 600, 590, 800], 0, 1000.0);
        assert_eq!(timing.timestamps, [0, 100, 100, 300]);
        assert_eq!(timing.duration, 400);
        assert_eq!(timing.frames(), 4);
        assert_eq!(timing.seconds(), 0.4);
    }

    #[test]
    fn a_lone_frame_takes_time() {
        assert_eq!(Timing::new(vec![7], 0, 1000.0).duration, 40);
        assert_eq!(Timing::new(vec![7], 0, 1.0).duration, 1);
        assert_eq!(Timing::new(vec![7], 30, 1000.0).duration, 30);
    }

    #[test]
    fn extreme_starts_do_not_overflow() {
        let timing = Timing::new(vec![i64::MIN, i64::MAX], i64::MAX, 1.0);
        assert_eq!(timing.duration, i64::MAX);
    }
}
