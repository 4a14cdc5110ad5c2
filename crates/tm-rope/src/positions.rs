use omni_core::{Error, Positions, Result, SpanLayout};

/// Positions of one row of tokens, and the *position delta*: a later token at cache length `n` sits at `n + delta`.
///
/// Text and sound take one position per token on all axes. A picture stands still in time and spreads over height and
/// width; a video also advances by `seconds_per_step * ids_per_second` in time, not rounded. Whatever follows starts one
/// after the largest position of the span, on any axis.
pub fn positions(spans: &[SpanLayout], ids_per_second: f32) -> (Positions, f32) {
    let mut rows: Vec<[f32; 3]> = Vec::new();
    let mut next = 0.0;
    for span in spans {
        next = match *span {
            SpanLayout::Sequence { tokens } | SpanLayout::Audio { tokens } => extend(&mut rows, sequence(next, tokens)),
            SpanLayout::Grid { t, h, w, seconds_per_step } => {
                extend(&mut rows, grid(next, [t, h, w], seconds_per_step * ids_per_second))
            }
            SpanLayout::AudioInVideo { audio_tokens, grid: size, seconds_per_step } => {
                let video = grid(next, size, seconds_per_step * ids_per_second);
                audio_in_video(&mut rows, sequence(next, audio_tokens), video)
            }
            _ => unreachable!("every layout of this version of the contracts is handled"),
        }
        .unwrap_or(next);
    }
    let largest = rows.iter().flatten().copied().fold(-1.0, f32::max);
    let delta = largest + 1.0 - rows.len() as f32;
    let axes = [0, 1, 2].map(|axis| rows.iter().map(|row| row[axis]).collect());
    (Positions::new(1, axes), delta)
}

/// Joins rows of different lengths into one batch, padded at the left with position 0.
///
/// Returns the positions and the padding of each row.
pub fn left_padded(rows: &[Positions]) -> (Positions, Vec<usize>) {
    let longest = rows.iter().map(Positions::tokens).max().unwrap_or(0);
    let padding: Vec<usize> = rows.iter().map(|row| longest - row.tokens()).collect();
    let axes = [0, 1, 2].map(|axis| {
        let padded = rows.iter().zip(&padding).map(|(row, pad)| [vec![0.0; *pad], row.axis(axis).to_vec()].concat());
        padded.collect::<Vec<_>>().concat()
    });
    (Positions::new(rows.len().max(1), axes), padding)
}

/// Order of sound and video rows by time: `true` for a row of sound.
///
/// A video row goes first if its time is not later than the next sound row's; what is left of either follows.
pub fn interleave(audio_tokens: usize, grid: [usize; 3], seconds_per_step: f32, ids_per_second: f32) -> Vec<bool> {
    let video = self::grid(0.0, grid, seconds_per_step * ids_per_second);
    merge(&sequence(0.0, audio_tokens), &video)
}

fn sequence(start: f32, tokens: usize) -> Vec<[f32; 3]> {
    (0..tokens).map(|i| [start + i as f32; 3]).collect()
}

fn grid(start: f32, [t, h, w]: [usize; 3], ids_per_step: f32) -> Vec<[f32; 3]> {
    let mut rows = Vec::with_capacity(t * h * w);
    for k in 0..t {
        for i in 0..h {
            for j in 0..w {
                rows.push([start + k as f32 * ids_per_step, start + i as f32, start + j as f32]);
            }
        }
    }
    rows
}

/// Appends a span and returns the next free position, one after the span's largest; `None` for an empty span.
fn extend(rows: &mut Vec<[f32; 3]>, span: Vec<[f32; 3]>) -> Option<f32> {
    let next = span.iter().flatten().copied().reduce(f32::max).map(|largest| largest + 1.0);
    rows.extend(span);
    next
}

fn merge(audio: &[[f32; 3]], video: &[[f32; 3]]) -> Vec<bool> {
    let (mut a, mut v) = (0, 0);
    let mut order = Vec::with_capacity(audio.len() + video.len());
    while a < audio.len() || v < video.len() {
        let take_audio = v == video.len() || (a < audio.len() && video[v][0] > audio[a][0]);
        order.push(take_audio);
        if take_audio { a += 1 } else { v += 1 }
    }
    order
}

/// Appends sound and video rows in order of time and returns the next free position. As in the reference, only the rows at the end
/// that are all of one kind decide it.
fn audio_in_video(rows: &mut Vec<[f32; 3]>, audio: Vec<[f32; 3]>, video: Vec<[f32; 3]>) -> Option<f32> {
    let order = merge(&audio, &video);
    let (mut audio, mut video) = (audio.into_iter(), video.into_iter());
    let merged: Vec<[f32; 3]> = order
        .iter()
        .map(|from_audio| if *from_audio { audio.next() } else { video.next() }.expect("the order counts both lists"))
        .collect();
    let last = *order.last()?;
    let left_over = order.iter().rev().take_while(|kind| **kind == last).count();
    let next = merged[merged.len() - left_over..].iter().flatten().copied().fold(0.0, f32::max) + 1.0;
    rows.extend(merged);
    Some(next)
}

/// The token ids that mark media in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaIds {
    /// Placeholder of one row of sound.
    pub audio: u32,
    /// Placeholder of one row of a picture.
    pub image: u32,
    /// Placeholder of one row of a video.
    pub video: u32,
    /// Token that opens sound.
    pub audio_start: u32,
    /// Token that opens a picture or video.
    pub vision_start: u32,
}

/// One item of media, in the order of its placeholders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MediaItem {
    /// Sound, with its number of rows.
    Audio(usize),
    /// A picture of `[h, w]` rows and columns, in merged units.
    Image([usize; 2]),
    /// A video of `[t, h, w]` steps, rows and columns, in merged units, and its seconds per step.
    Video([usize; 3], f32),
}

/// Splits an expanded prompt into spans. `media` lists the items of each kind in order of appearance.
///
/// With `audio_in_video`, a vision start that is directly followed by an audio start opens interleaved rows of a video and
/// its sound.
///
/// # Errors
/// [`Error::Request`] if placeholders and items do not match.
pub fn scan_spans(
    ids: &[u32],
    tokens: &MediaIds,
    media: &[MediaItem],
    audio_in_video: bool,
) -> Result<Vec<SpanLayout>> {
    let mut audios = media.iter().filter(|m| matches!(m, MediaItem::Audio(_)));
    let mut images = media.iter().filter(|m| matches!(m, MediaItem::Image(_)));
    let mut videos = media.iter().filter(|m| matches!(m, MediaItem::Video(..)));
    let mut spans = Vec::new();
    let (mut at, mut text) = (0, 0);
    while at < ids.len() {
        let joint = audio_in_video && at >= 2 && ids[at - 2..at] == [tokens.vision_start, tokens.audio_start];
        let item = match ids[at] {
            id if joint && (id == tokens.audio || id == tokens.video) => match (videos.next(), audios.next()) {
                (Some(MediaItem::Video(grid, seconds)), Some(MediaItem::Audio(audio_tokens))) => {
                    Some(SpanLayout::AudioInVideo {
                        audio_tokens: *audio_tokens,
                        grid: *grid,
                        seconds_per_step: *seconds,
                    })
                }
                _ => None,
            },
            id if id == tokens.audio => audios.next().and_then(layout),
            id if id == tokens.image => images.next().and_then(layout),
            id if id == tokens.video => videos.next().and_then(layout),
            _ => {
                text += 1;
                at += 1;
                continue;
            }
        };
        let span = item.ok_or_else(|| mismatch(at, "a placeholder without a media item"))?;
        let placeholders = |id: &u32| [tokens.audio, tokens.image, tokens.video].contains(id);
        if span.tokens() == 0 || at + span.tokens() > ids.len() || !ids[at..at + span.tokens()].iter().all(placeholders)
        {
            return Err(mismatch(at, &format!("fewer placeholders than the {} rows of the item", span.tokens())));
        }
        if text > 0 {
            spans.push(SpanLayout::Sequence { tokens: std::mem::take(&mut text) });
        }
        at += span.tokens();
        spans.push(span);
    }
    if text > 0 {
        spans.push(SpanLayout::Sequence { tokens: text });
    }
    if audios.next().is_some() || images.next().is_some() || videos.next().is_some() {
        return Err(mismatch(ids.len(), "a media item without a placeholder"));
    }
    Ok(spans)
}

impl MediaItem {
    /// Rows of the item.
    pub fn tokens(&self) -> usize {
        match *self {
            Self::Audio(tokens) => tokens,
            Self::Image([h, w]) => h * w,
            Self::Video([t, h, w], _) => t * h * w,
        }
    }

    /// The media item that an encoder's span describes; `None` for sound in video.
    pub fn of(span: &SpanLayout) -> Option<Self> {
        match *span {
            SpanLayout::Audio { tokens } | SpanLayout::Sequence { tokens } => Some(Self::Audio(tokens)),
            SpanLayout::Grid { t: 1, h, w, seconds_per_step: 0.0 } => Some(Self::Image([h, w])),
            SpanLayout::Grid { t, h, w, seconds_per_step } => Some(Self::Video([t, h, w], seconds_per_step)),
            _ => None,
        }
    }
}

fn layout(item: &MediaItem) -> Option<SpanLayout> {
    Some(match *item {
        MediaItem::Audio(tokens) => SpanLayout::Audio { tokens },
        MediaItem::Image([h, w]) => SpanLayout::Grid { t: 1, h, w, seconds_per_step: 0.0 },
        MediaItem::Video([t, h, w], seconds_per_step) => SpanLayout::Grid { t, h, w, seconds_per_step },
    })
}

fn mismatch(at: usize, what: &str) -> Error {
    Error::Request(format!("media placeholders do not match the media: {what} at token {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_picture_stands_still_in_time_and_text_follows_its_largest_side() {
        let spans = [
            SpanLayout::Sequence { tokens: 4 },
            SpanLayout::Grid { t: 1, h: 3, w: 4, seconds_per_step: 0.0 },
            SpanLayout::Sequence { tokens: 4 },
        ];
        let (positions, delta) = positions(&spans, 13.0);
        assert_eq!(positions.axis(0)[4..16], [4.0; 12]);
        assert_eq!(positions.axis(1)[4..16], [4., 4., 4., 4., 5., 5., 5., 5., 6., 6., 6., 6.]);
        assert_eq!(positions.axis(2)[4..8], [4., 5., 6., 7.]);
        assert_eq!((positions.axis(0)[16], delta), (8.0, -8.0));
    }

    #[test]
    fn a_video_advances_in_fractions() {
        let spans = [
            SpanLayout::Sequence { tokens: 4 },
            SpanLayout::Grid { t: 4, h: 2, w: 2, seconds_per_step: 2.0 / 3.0 },
            SpanLayout::Sequence { tokens: 1 },
        ];
        let (positions, _) = positions(&spans, 13.0);
        assert!((positions.axis(0)[8] - 12.667).abs() < 1e-3);
        assert_eq!(*positions.axis(0).last().unwrap(), 31.0);
    }

    #[test]
    fn sound_and_video_take_turns_by_time() {
        // Steps of a second and a half at two positions a second: the video stands at 0 and 3, the sound at 0, 1, 2, 3, 4.
        let order = interleave(5, [2, 1, 1], 1.5, 2.0);
        assert_eq!(order, [false, true, true, true, false, true, true]);
        let span = SpanLayout::AudioInVideo { audio_tokens: 5, grid: [2, 1, 1], seconds_per_step: 1.5 };
        let (positions, _) = positions(&[span, SpanLayout::Sequence { tokens: 1 }], 2.0);
        assert_eq!(positions.axis(0), [0., 0., 1., 2., 3., 3., 4., 5.]);
    }

    #[test]
    fn what_follows_sound_in_video_is_decided_by_the_rows_left_over() {
        // The reference's rule: the picture is wider than its time, and the sound at the end is short.
        let span = SpanLayout::AudioInVideo { audio_tokens: 3, grid: [1, 1, 9], seconds_per_step: 1.0 };
        let (positions, _) = positions(&[span, SpanLayout::Sequence { tokens: 1 }], 1.0);
        assert_eq!(*positions.axis(0).last().unwrap(), 3.0);
    }

    #[test]
    fn either_kind_may_open_sound_in_video() {
        let ids = MediaIds { audio: 1, image: 2, video: 3, audio_start: 4, vision_start: 5 };
        let media = [MediaItem::Video([1, 1, 1], 1.0), MediaItem::Audio(1)];
        for row in [vec![5, 4, 3, 1], vec![5, 4, 1, 3]] {
            let spans = scan_spans(&row, &ids, &media, true).unwrap();
            assert!(matches!(spans[..], [_, SpanLayout::AudioInVideo { .. }]), "{row:?}: {spans:?}");
        }
    }

    #[test]
    fn an_item_alone_leaves_no_empty_text_around_it() {
        let ids = MediaIds { audio: 1, image: 2, video: 3, audio_start: 4, vision_start: 5 };
        assert_eq!(
            scan_spans(&[1, 1], &ids, &[MediaItem::Audio(2)], false).unwrap(),
            [SpanLayout::Audio { tokens: 2 }]
        );
    }

    #[test]
    fn items_are_told_by_their_spans_and_count_their_rows() {
        let grid = |t, seconds_per_step| SpanLayout::Grid { t, h: 3, w: 5, seconds_per_step };
        for (span, item, tokens) in [
            (SpanLayout::Audio { tokens: 7 }, MediaItem::Audio(7), 7),
            (SpanLayout::Sequence { tokens: 7 }, MediaItem::Audio(7), 7),
            (grid(1, 0.0), MediaItem::Image([3, 5]), 15),
            (grid(1, 0.5), MediaItem::Video([1, 3, 5], 0.5), 15),
            (grid(4, 0.5), MediaItem::Video([4, 3, 5], 0.5), 60),
        ] {
            assert_eq!(MediaItem::of(&span), Some(item));
            assert_eq!(item.tokens(), tokens);
        }
        let joint = SpanLayout::AudioInVideo { audio_tokens: 1, grid: [1, 1, 1], seconds_per_step: 1.0 };
        assert_eq!(MediaItem::of(&joint), None);
    }

    #[test]
    fn placeholders_that_do_not_match_are_refused() {
        let ids = MediaIds { audio: 1, image: 2, video: 3, audio_start: 4, vision_start: 5 };
        for (row, media) in [
            (vec![9, 1, 1], vec![]),
            (vec![9, 1, 1], vec![MediaItem::Audio(3)]),
            (vec![9, 9], vec![MediaItem::Image([1, 1])]),
        ] {
            let error = scan_spans(&row, &ids, &media, false).unwrap_err();
            assert!(error.to_string().contains("placeholder"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn text_and_sound_count_one_each(lengths in prop::collection::vec(0usize..20, 0..6)) {
            let spans: Vec<_> = lengths.iter().map(|n| SpanLayout::Audio { tokens: *n }).collect();
            let (positions, delta) = positions(&spans, 13.0);
            let expected: Vec<f32> = (0..lengths.iter().sum()).map(|i: usize| i as f32).collect();
            prop_assert_eq!(positions.axis(0), expected.as_slice());
            prop_assert_eq!(delta, 0.0);
        }

        #[test]
        fn interleaving_keeps_every_row(audio in 0usize..40, t in 1usize..5, side in 1usize..4, seconds in 0.1f32..3.0) {
            let order = interleave(audio, [t, side, side], seconds, 13.0);
            prop_assert_eq!(order.iter().filter(|a| **a).count(), audio);
            prop_assert_eq!(order.len(), audio + t * side * side);
        }
    }
}
