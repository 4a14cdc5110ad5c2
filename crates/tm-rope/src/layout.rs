use omni_core::{Error, Positions, Result, SpanLayout};

use crate::{MediaIds, MediaItem, interleave, positions, scan_spans};

/// Everything besides its ids that decides the positions of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaLayout {
    /// The token ids that mark media.
    pub ids: MediaIds,
    /// The media, in order of appearance; the sound of a video behind it.
    pub items: Vec<MediaItem>,
    /// For each video, in order, whether it brings its own sound, interleaved; a video beyond the end does not.
    pub audio_in_video: Vec<bool>,
    /// Positions per second of sound and video.
    pub ids_per_second: f32,
}

impl MediaLayout {
    /// Expands the placeholders of a rendered prompt: each is repeated once per row of its item. If a video brings its own sound, its
    /// placeholder becomes the interleaved placeholders of both, opened and closed as sound.
    ///
    /// # Errors
    /// [`Error::Request`] if placeholders and items do not match.
    pub fn expand(&self, ids: &[u32], audio_end: u32) -> Result<Vec<u32>> {
        let of_kind = |wanted: fn(&MediaItem) -> bool| self.items.iter().filter(move |item| wanted(item));
        let mut audios = of_kind(|item| matches!(item, MediaItem::Audio(_)));
        let mut images = of_kind(|item| matches!(item, MediaItem::Image(_)));
        let mut videos = of_kind(|item| matches!(item, MediaItem::Video(..)));
        let MediaIds { audio, image, video, audio_start, .. } = self.ids;
        let mut heard = self.audio_in_video.iter();
        let mut expanded = Vec::with_capacity(ids.len());
        for id in ids {
            let item = match *id {
                id if id == audio => audios.next(),
                id if id == image => images.next(),
                id if id == video => videos.next(),
                _ => {
                    expanded.push(*id);
                    continue;
                }
            };
            match item.ok_or_else(|| mismatch("more placeholders than media"))? {
                MediaItem::Video(grid, seconds) if heard.next() == Some(&true) => {
                    let sound = audios.next().ok_or_else(|| mismatch("a video without its sound"))?;
                    let order = interleave(sound.tokens(), *grid, *seconds, self.ids_per_second);
                    expanded.push(audio_start);
                    expanded.extend(order.into_iter().map(|is_sound| if is_sound { audio } else { video }));
                    expanded.push(audio_end);
                }
                item => expanded.extend(std::iter::repeat_n(*id, item.tokens())),
            }
        }
        match [audios.next(), images.next(), videos.next()] {
            [None, None, None] => Ok(expanded),
            _ => Err(mismatch("fewer placeholders than media")),
        }
    }

    /// Splits an expanded prompt into spans.
    ///
    /// # Errors
    /// The errors of [`scan_spans`].
    pub fn spans(&self, ids: &[u32]) -> Result<Vec<SpanLayout>> {
        scan_spans(ids, &self.ids, &self.items, self.audio_in_video.contains(&true))
    }

    /// Positions and the position delta of an expanded prompt.
    ///
    /// # Errors
    /// The errors of [`scan_spans`].
    pub fn positions(&self, ids: &[u32]) -> Result<(Positions, f32)> {
        Ok(positions(&self.spans(ids)?, self.ids_per_second))
    }

    /// Positions and position delta as the reference's talker has them: sound in video takes one position per row on all axes,
    /// because the reference does not tell its talker of it.
    ///
    /// # Errors
    /// The errors of [`scan_spans`].
    pub fn plain_positions(&self, ids: &[u32]) -> Result<(Positions, f32)> {
        let plain = |span: SpanLayout| match span {
            SpanLayout::AudioInVideo { .. } => SpanLayout::Sequence { tokens: span.tokens() },
            other => other,
        };
        let spans: Vec<SpanLayout> = self.spans(ids)?.into_iter().map(plain).collect();
        Ok(positions(&spans, self.ids_per_second))
    }
}

fn mismatch(what: &str) -> Error {
    Error::Request(format!("media placeholders do not match the media: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: MediaIds = MediaIds { audio: 1, image: 2, video: 3, audio_start: 4, vision_start: 5 };
    const END: u32 = 6;

    fn layout(items: Vec<MediaItem>, audio_in_video: bool) -> MediaLayout {
        MediaLayout { ids: IDS, items, audio_in_video: vec![audio_in_video; 3], ids_per_second: 13.0 }
    }

    #[test]
    fn expanded_prompts_split_into_the_spans_of_their_items() {
        let items =
            vec![MediaItem::Audio(3), MediaItem::Audio(2), MediaItem::Image([1, 2]), MediaItem::Video([2, 1, 1], 0.1)];
        let joint = layout(items.clone(), true);
        let ids = joint.expand(&[9, 4, 1, END, 5, 2, 9, 5, 3, 9], END).unwrap();
        assert_eq!(ids, [9, 4, 1, 1, 1, END, 5, 2, 2, 9, 5, 4, 3, 1, 1, 3, END, 9]);
        let spans = joint.spans(&ids).unwrap();
        assert_eq!(spans[5], SpanLayout::AudioInVideo { audio_tokens: 2, grid: [2, 1, 1], seconds_per_step: 0.1 });
        let (plain, _) = joint.plain_positions(&ids).unwrap();
        assert_eq!(plain.tokens(), ids.len());
    }

    #[test]
    fn a_silent_video_stands_among_others_with_sound() {
        let clip = MediaItem::Video([1, 1, 1], 0.1);
        let items = vec![clip, MediaItem::Audio(2), clip, clip, MediaItem::Audio(1)];
        let mixed = MediaLayout { audio_in_video: vec![true, false, true], ..layout(items, true) };
        let ids = mixed.expand(&[5, 3, 9, 5, 3, 9, 5, 3, 9], END).unwrap();
        assert_eq!(ids, [5, 4, 3, 1, 1, END, 9, 5, 3, 9, 5, 4, 3, 1, END, 9]);
        let sound = |audio_tokens| SpanLayout::AudioInVideo { audio_tokens, grid: [1; 3], seconds_per_step: 0.1 };
        let spans = mixed.spans(&ids).unwrap();
        let silent = SpanLayout::Grid { t: 1, h: 1, w: 1, seconds_per_step: 0.1 };
        assert_eq!([&spans[1], &spans[3], &spans[5]], [&sound(2), &silent, &sound(1)]);
    }

    #[test]
    fn every_kind_of_mismatch_is_refused() {
        let picture = vec![MediaItem::Image([1, 1])];
        for (ids, items, joint) in [
            (vec![9, 2, 2], picture.clone(), false),
            (vec![9], picture.clone(), false),
            (vec![1], picture, false),
            (vec![3], vec![MediaItem::Video([1, 1, 1], 1.0)], true),
        ] {
            let message = layout(items, joint).expand(&ids, END).unwrap_err().to_string();
            assert!(message.contains("placeholders do not match"), "{message}");
        }
    }
}
