use qwen3_omni::SpeechFinish;

use super::settings::PairSettings;

/// One way in which the talker spoke a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Take {
    /// `[F, Q]`: the codes.
    pub codes: Vec<Vec<u32>>,
    /// What the recogniser heard.
    pub heard: String,
    /// Word error rate of that.
    pub wer: f64,
    /// Why the speech ended. All but [`SpeechFinish::End`] are faults: a loop, silence, speech far beyond its text.
    pub finish_reason: SpeechFinish,
}

/// A speech to prefer, and another one that it is preferred to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair<'a> {
    /// The better one.
    pub chosen: &'a Take,
    /// The worse one.
    pub rejected: &'a Take,
}

/// Rounding of a difference of rates: 0.3 − 0.2 is a margin of 0.1.
const ROUNDING: f64 = 1e-9;

impl Take {
    /// Whether the talker ended the speech itself.
    pub fn ends(&self) -> bool {
        self.finish_reason == SpeechFinish::End
    }
}

impl<'a> Pair<'a> {
    /// Takes the best and the worst of several speeches of a text: those of the lowest and the highest word error rate, among equals one
    /// without and one with a fault, and one of a usual and one of an unusual length. The best has no fault; the two differ by the margin
    /// at least and are not too different in length. `None` if there are no such.
    pub fn best_and_worst(takes: &'a [Take], settings: &PairSettings) -> Option<Self> {
        let usual = median(takes.iter().map(|take| take.codes.len()).collect())?;
        let badness = |take: &Take| (take.wer, !take.ends(), take.codes.len().abs_diff(usual));
        let compare = |a: &&Take, b: &&Take| {
            let ((wer, fault, length), (other_wer, other_fault, other_length)) = (badness(a), badness(b));
            wer.total_cmp(&other_wer).then(fault.cmp(&other_fault)).then(length.cmp(&other_length))
        };
        let spoken = || takes.iter().filter(|take| !take.codes.is_empty());
        let chosen = spoken().filter(|take| take.ends()).min_by(compare)?;
        let is_worse = |take: &&Take| take.wer - chosen.wer >= settings.margin - ROUNDING && take.codes != chosen.codes;
        let is_similar = |take: &&Take| {
            let [a, b] = [take, chosen].map(|take| take.codes.len() as f64);
            a.max(b) <= settings.longest * a.min(b)
        };
        let rejected = spoken().filter(is_worse).filter(is_similar).max_by(compare)?;
        Some(Self { chosen, rejected })
    }
}

fn median(mut values: Vec<usize>) -> Option<usize> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(wer: f64, frames: usize, finish_reason: SpeechFinish) -> Take {
        let codes = (0..frames as u32).map(|frame| vec![frame, (wer * 100.0) as u32]).collect();
        Take { codes, heard: String::new(), wer, finish_reason }
    }

    /// Places of the pair.
    fn chosen(takes: &[Take]) -> Option<[usize; 2]> {
        let pair = Pair::best_and_worst(takes, &PairSettings::default())?;
        Some([pair.chosen, pair.rejected].map(|side| takes.iter().position(|take| std::ptr::eq(take, side)).unwrap()))
    }

    use SpeechFinish::{End, Loop, Silence};

    #[test]
    fn the_lowest_and_the_highest_rate_make_a_pair() {
        let takes = [take(0.25, 20, End), take(0.0, 21, End), take(0.5, 22, End), take(0.3, 20, End)];
        assert_eq!(chosen(&takes), Some([1, 2]));
    }

    #[test]
    fn a_difference_below_the_margin_makes_none() {
        assert_eq!(chosen(&[take(0.2, 20, End), take(0.29, 20, End)]), None);
        // 0.3 − 0.2 is a little less than 0.1 in binary.
        assert_eq!(chosen(&[take(0.2, 20, End), take(0.3, 20, End)]), Some([0, 1]));
        assert_eq!(chosen(&vec![take(0.4, 20, End); 3]), None);
        assert_eq!(chosen(&[]), None);
        // A recogniser that hears two things in one speech says nothing of the speech.
        let heard_twice = Take { wer: 0.9, ..take(0.2, 20, End) };
        assert_eq!(chosen(&[take(0.2, 20, End), heard_twice]), None);
    }

    #[test]
    fn faults_are_never_chosen_and_rejected_first() {
        let takes = [take(0.0, 20, Loop), take(0.1, 20, End), take(0.6, 20, End), take(0.6, 20, Silence)];
        assert_eq!(chosen(&takes), Some([1, 3]));
        assert_eq!(chosen(&[take(0.0, 20, Loop), take(1.0, 20, Silence)]), None);
    }

    #[test]
    fn speeches_of_very_different_lengths_make_no_pair() {
        let takes = [take(0.0, 20, End), take(1.0, 41, Loop), take(0.5, 40, End)];
        assert_eq!(chosen(&takes), Some([0, 2]));
        assert_eq!(chosen(&[take(0.0, 20, End), take(1.0, 0, End)]), None);
    }

    #[test]
    fn among_equals_the_usual_length_is_better() {
        let takes =
            [take(0.0, 30, End), take(0.0, 20, End), take(0.5, 20, End), take(0.5, 13, End), take(0.2, 20, End)];
        assert_eq!(chosen(&takes), Some([1, 3]));
    }
}
