use burn::tensor::{Int, Tensor, TensorData};
use omni_core::{Encoded, Error, Result, VisualRows};
use tm_rope::{MediaIds, MediaItem};

/// Encoder outputs of a prompt's media: each kind joined, in order of appearance.
#[derive(Debug, Clone, Default)]
pub struct MediaRows {
    /// Sound, that of videos included.
    pub audio: Option<Encoded>,
    /// Pictures.
    pub image: Option<Encoded>,
    /// Videos.
    pub video: Option<Encoded>,
}

impl MediaRows {
    /// The media items, from the encoders' spans.
    pub fn items(&self) -> Vec<MediaItem> {
        let spans = |kind: &Option<Encoded>| kind.iter().flat_map(|e| e.spans.clone()).collect::<Vec<_>>();
        let audio = spans(&self.audio).into_iter().map(|span| MediaItem::Audio(span.tokens()));
        let visual = [spans(&self.image), spans(&self.video)].concat();
        audio.chain(visual.iter().filter_map(MediaItem::of)).collect()
    }

    /// Removes and returns the first rows of each kind: one per placeholder in `ids`, a piece of the prompt, or all where there are
    /// fewer.
    #[must_use]
    pub fn take(&mut self, ids: &[u32], media: &MediaIds) -> Self {
        let take = |rows: &mut Option<Encoded>, placeholder: u32| {
            let wanted = ids.iter().filter(|id| **id == placeholder).count();
            rows.take_if(|_| wanted > 0).map(|all| {
                let (first, rest) = split(all, wanted);
                *rows = rest;
                first
            })
        };
        Self {
            audio: take(&mut self.audio, media.audio),
            image: take(&mut self.image, media.image),
            video: take(&mut self.video, media.video),
        }
    }
}

/// Splits into the first rows and the others, if there are any. Spans are not split: they belong to whole items.
fn split(all: Encoded, first: usize) -> (Encoded, Option<Encoded>) {
    let rows = all.embeds.dims()[0];
    if first >= rows {
        return (all, None);
    }
    let part = |start: usize, count: usize| Encoded {
        embeds: all.embeds.clone().narrow(0, start, count),
        spans: Vec::new(),
        deepstack: all.deepstack.iter().map(|feature| feature.clone().narrow(0, start, count)).collect(),
    };
    (part(0, first), Some(part(first, rows - first)))
}

/// Replaces placeholders by the encoders' rows.
///
/// Deepstack features of pictures and videos are joined in the order of their tokens.
///
/// # Shapes
/// `embeds` `[T, D]` of the `T` ids, placeholders expanded. Returns the same shape.
///
/// # Errors
/// [`Error::Request`] if placeholders and rows differ in number.
pub fn merge(
    embeds: Tensor<2>,
    ids: &[u32],
    media: &MediaIds,
    rows: MediaRows,
) -> Result<(Tensor<2>, Option<VisualRows>)> {
    let kinds =
        [(media.audio, "sound", rows.audio), (media.image, "picture", rows.image), (media.video, "video", rows.video)];
    let mut sources = vec![embeds]; // [T, D]
    let mut order: Vec<i64> = (0..ids.len() as i64).collect();
    let (mut start, mut visual, mut deepstack) = (ids.len(), Vec::new(), Vec::new());
    for (placeholder, name, encoded) in kinds {
        let places: Vec<usize> = (0..ids.len()).filter(|i| ids[*i] == placeholder).collect();
        let count = encoded.as_ref().map_or(0, |encoded| encoded.embeds.dims()[0]);
        if places.len() != count {
            let found = places.len();
            return Err(Error::Request(format!("the prompt has {found} {name} placeholders for {count} encoded rows")));
        }
        for (row, place) in places.iter().enumerate() {
            order[*place] = (start + row) as i64;
        }
        let Some(encoded) = encoded else { continue };
        if placeholder != media.audio {
            visual.extend(places);
            deepstack.push(encoded.deepstack);
        }
        start += count;
        sources.push(encoded.embeds);
    }
    if sources.len() == 1 {
        let [embeds] = <[_; 1]>::try_from(sources).expect("one source");
        return Ok((embeds, None));
    }
    let merged = select(Tensor::cat(sources, 0), &order);
    Ok((merged, visual_rows(&visual, deepstack)?))
}

/// Visual rows in the order of their tokens.
fn visual_rows(places: &[usize], deepstack: Vec<Vec<Tensor<2>>>) -> Result<Option<VisualRows>> {
    let features = deepstack.first().map_or(0, Vec::len);
    if deepstack.iter().any(|kind| kind.len() != features) {
        let reason = "pictures and videos of one prompt have different numbers of deepstack features";
        return Err(Error::Request(reason.into()));
    }
    if features == 0 {
        return Ok(None);
    }
    let mut order: Vec<i64> = (0..places.len() as i64).collect();
    order.sort_by_key(|row| places[*row as usize]);
    let joined = (0..features).map(|index| {
        let kinds = deepstack.iter().map(|kind| kind[index].clone()).collect();
        select(Tensor::cat(kinds, 0), &order)
    });
    let deepstack: Vec<Tensor<2>> = joined.collect();
    let indices = order.iter().map(|row| places[*row as usize]).collect();
    Ok(Some(VisualRows { indices, deepstack }))
}

fn select(rows: Tensor<2>, order: &[i64]) -> Tensor<2> {
    let indices = Tensor::<1, Int>::from_data(TensorData::new(order.to_vec(), [order.len()]), &rows.device());
    rows.select(0, indices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use omni_core::SpanLayout;

    const IDS: MediaIds = MediaIds { audio: 1, image: 2, video: 3, audio_start: 4, vision_start: 5 };

    fn encoded(values: &[f32], deepstack: bool) -> Encoded {
        let rows = Tensor::<1>::from_floats(values, &Device::flex()).unsqueeze_dim::<2>(1);
        let spans = vec![SpanLayout::Audio { tokens: values.len() }];
        Encoded { embeds: rows.clone(), spans, deepstack: if deepstack { vec![rows * 10.0] } else { vec![] } }
    }

    #[test]
    fn rows_of_each_kind_go_to_its_placeholders_and_deepstack_follows_the_tokens() {
        let ids = [9, 3, 1, 2, 3, 9, 1];
        let embeds = Tensor::<1>::from_floats([0.0; 7], &Device::flex()).reshape([7, 1]);
        let rows = MediaRows {
            audio: Some(encoded(&[1.0, 1.5], false)),
            image: Some(encoded(&[2.0], true)),
            video: Some(encoded(&[3.0, 3.5], true)),
        };
        let (merged, visual) = merge(embeds, &ids, &IDS, rows).unwrap();
        let values: Vec<f32> = merged.into_data().try_to_vec_as().unwrap();
        assert_eq!(values, [0.0, 3.0, 1.0, 2.0, 3.5, 0.0, 1.5]);
        let visual = visual.unwrap();
        let indices = visual.indices;
        let features: Vec<f32> = visual.deepstack[0].clone().into_data().try_to_vec_as().unwrap();
        assert_eq!((indices, features), (vec![1, 3, 4], vec![30.0, 20.0, 35.0]));
    }

    #[test]
    fn a_prompt_in_pieces_takes_its_rows_in_order() {
        let ids = [9, 3, 1, 2, 3, 9, 1];
        let mut rows = MediaRows {
            audio: Some(encoded(&[1.0, 1.5], false)),
            image: Some(encoded(&[2.0], true)),
            video: Some(encoded(&[3.0, 3.5], true)),
        };
        let (mut values, mut features) = (Vec::<f32>::new(), Vec::<f32>::new());
        for piece in ids.chunks(3) {
            let embeds = Tensor::<2>::zeros([piece.len(), 1], &Device::flex());
            let (merged, visual) = merge(embeds, piece, &IDS, rows.take(piece, &IDS)).unwrap();
            values.extend(merged.into_data().try_to_vec_as::<f32>().unwrap());
            let deepstack = visual.map(|visual| visual.deepstack[0].clone());
            features.extend(deepstack.into_iter().flat_map(|rows| rows.into_data().try_to_vec_as::<f32>().unwrap()));
        }
        assert_eq!(values, [0.0, 3.0, 1.0, 2.0, 3.5, 0.0, 1.5]);
        assert_eq!(features, [30.0, 20.0, 35.0]);
        assert!(rows.audio.is_none() && rows.image.is_none() && rows.video.is_none());
        // Too few rows are taken as they are; `merge` refuses them.
        let mut few = MediaRows { audio: Some(encoded(&[1.0], false)), ..Default::default() };
        assert_eq!(few.take(&[1, 1], &IDS).audio.unwrap().embeds.dims(), [1, 1]);
    }

    #[test]
    fn placeholders_without_rows_and_rows_without_placeholders_are_refused() {
        let embeds = || Tensor::<2>::zeros([2, 1], &Device::flex());
        let audio = || MediaRows { audio: Some(encoded(&[1.0, 2.0], false)), ..Default::default() };
        for (ids, rows) in [([1, 9], MediaRows::default()), ([1, 9], audio()), ([9, 9], audio())] {
            let message = merge(embeds(), &ids, &IDS, rows).unwrap_err().to_string();
            assert!(message.contains("sound placeholders"), "{message}");
        }
    }
}
