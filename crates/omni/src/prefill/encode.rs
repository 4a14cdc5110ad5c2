//! Encoding of prepared media to rows for the thinker.

use burn::tensor::{Tensor, TensorData};
use media::audio::Mel;
use media::image::Patches;
use media::video::Clip;
use moe_thinker::MediaRows;
use omni_core::{Encoded, Error, Result, SpanLayout};
use tm_rope::MediaItem;
use vision_encoder::PixelPatches;

use crate::model::{AnyAudioEncoder, Encoders, Model, Stopped};
use crate::prompt::{Feature, Media, Prompt, on_device};

/// Number of cached rows of each kind, which come before the others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CachedRows {
    pub(crate) audio: usize,
    pub(crate) image: usize,
    pub(crate) video: usize,
}

/// Encodes the media of a prompt, except for cached rows, and removes them from the prompt.
///
/// # Errors
/// [`Error::Cancelled`] when `stopped` says so; the errors of the encoders.
pub(crate) fn encode(model: &Model, prompt: &mut Prompt, cached: CachedRows, stopped: Stopped) -> Result<MediaRows> {
    let of_kind = |wanted: fn(&MediaItem) -> bool| -> Vec<usize> {
        prompt.layout.items.iter().filter(|item| wanted(item)).map(MediaItem::tokens).collect()
    };
    let audio_rows = of_kind(|item| matches!(item, MediaItem::Audio(_)));
    let image_rows = of_kind(|item| matches!(item, MediaItem::Image(_)));
    let video_rows = of_kind(|item| matches!(item, MediaItem::Video(..)));
    let (mut audio, mut images, mut videos) = (Vec::new(), Vec::new(), Vec::new());
    for item in prompt.media.drain(..) {
        match item {
            Media::Audio(item) => audio.push(item),
            Media::Image(item) => images.push(item),
            Media::Video(item) => videos.push(item),
        }
    }
    let audio = encode_audio(model, audio, &audio_rows, cached.audio, stopped)?;
    let image = encode_uncached(images, &image_rows, cached.image, |items: Vec<Patches>, rows: &[usize]| {
        let patches = items.into_iter().map(|patches| (patches, 0.0)).collect();
        accepted(model, "picture", rows, encode_pixels(model, patches, stopped)?)
    })?;
    let timed = |clip: Clip| {
        let seconds = clip.seconds_per_step();
        (clip.into_patches(), seconds)
    };
    let video = encode_uncached(videos, &video_rows, cached.video, |items: Vec<Clip>, rows: &[usize]| {
        accepted(model, "video", rows, encode_pixels(model, items.into_iter().map(timed).collect(), stopped)?)
    })?;
    let (audio, image, video) =
        (finite("audio encoder", audio)?, finite("vision encoder", image)?, finite("vision encoder", video)?);
    Ok(MediaRows { audio, image, video })
}

fn encoders(model: &Model) -> Result<&Encoders> {
    let missing = || Error::NotLoaded("the conversation holds media, but the model was loaded without encoders".into());
    model.encoders.as_ref().ok_or_else(missing)
}

/// Encodes sound to the rows after the cached ones. How short items are padded depends on all items of a call, so the built-in encoder is
/// given all of them and leaves out cached windows.
fn encode_audio(
    model: &Model,
    items: Vec<Feature<Mel>>,
    rows: &[usize],
    cached: usize,
    stopped: Stopped,
) -> Result<Option<Encoded>> {
    let _span = tracing::info_span!("audio_encoder", items = items.len()).entered();
    let upload_mel = |mel: Mel| {
        let shape = [mel.frames(), mel.bins()];
        upload(model, mel.into_values(), shape)
    };
    let encode = |items: Vec<Mel>, rows: &[usize]| {
        let encoded = encoders(model)?.audio.encode(items.into_iter().map(upload_mel).collect(), stopped)?;
        accepted(model, "sound", rows, encoded)
    };
    let all: usize = rows.iter().sum();
    if cached == 0 || cached >= all {
        return encode_uncached(items, rows, cached, encode);
    }
    if items.iter().any(|item| matches!(item, Feature::Encoded(_))) {
        return encode_behind(items, rows, cached, encode);
    }
    let Some(AnyAudioEncoder::Builtin(encoder)) = model.encoders.as_ref().map(|encoders| &encoders.audio) else {
        return encode_uncached(items, rows, cached, encode);
    };
    let raw = items.into_iter().filter_map(|item| match item {
        Feature::Raw(mel) => Some(upload_mel(mel)),
        Feature::Encoded(_) => None,
    });
    let embeds = encoder.encode_after(&raw.collect::<Vec<_>>(), cached, stopped)?;
    Ok(Some(Encoded { embeds, spans: Vec::new(), deepstack: Vec::new() }))
}

/// Encodes patches, each with the seconds from one time step to the next.
fn encode_pixels(model: &Model, items: Vec<(Patches, f32)>, stopped: Stopped) -> Result<Encoded> {
    let _span = tracing::info_span!("vision_encoder", items = items.len()).entered();
    let pixels = |(patches, seconds_per_step): (Patches, f32)| {
        let (grid, shape) = (patches.grid(), [patches.patches(), patches.patch_len()]);
        PixelPatches { patches: upload(model, patches.to_values(), shape), grid, seconds_per_step }
    };
    encoders(model)?.vision.encode(items.into_iter().map(pixels).collect(), stopped)
}

/// Takes the output of an encoder, which may be an application's: checks that each item has the rows that the prompt has tokens for, and
/// brings them to the model's device and number type.
fn accepted(model: &Model, kind: &str, rows: &[usize], encoded: Encoded) -> Result<Encoded> {
    let shape = [rows.iter().sum(), model.config.thinker.text.hidden_size];
    let spans: Vec<usize> = encoded.spans.iter().map(SpanLayout::tokens).collect();
    let wrong = all_rows(&encoded).find(|rows| rows.dims() != shape);
    if wrong.is_some() || spans != rows {
        let found = wrong.unwrap_or(&encoded.embeds).dims();
        let reason =
            format!("the encoder made rows {found:?} in items of {spans:?}, expected {shape:?} in items of {rows:?}");
        return Err(Error::media(kind, reason));
    }
    Ok(on_device(&encoded, &model.device, model.dtype))
}

/// Refuses rows that are not finite, whoever made them.
fn finite(stage: &'static str, encoded: Option<Encoded>) -> Result<Option<Encoded>> {
    match encoded.as_ref().is_none_or(|encoded| all_rows(encoded).all(is_finite)) {
        true => Ok(encoded),
        false => Err(Error::NotFinite { stage }),
    }
}

fn all_rows(encoded: &Encoded) -> impl Iterator<Item = &Tensor<2>> {
    std::iter::once(&encoded.embeds).chain(&encoded.deepstack)
}

fn is_finite(rows: &Tensor<2>) -> bool {
    rows.dims()[0] == 0 || rows.clone().is_finite().all().into_scalar::<bool>()
}

/// Encodes items to the rows after the cached ones; items whose rows are all cached are left out.
fn encode_uncached<T>(
    mut items: Vec<Feature<T>>,
    mut rows: &[usize],
    mut cached: usize,
    encode: impl FnOnce(Vec<T>, &[usize]) -> Result<Encoded>,
) -> Result<Option<Encoded>> {
    while let Some((first, rest)) = rows.split_first().filter(|(first, _)| **first <= cached) {
        (cached, rows) = (cached - first, rest);
    }
    items.drain(..items.len() - rows.len());
    encode_behind(items, rows, cached, encode)
}

/// Encodes all items and leaves out the first `skip` rows.
fn encode_behind<T>(
    items: Vec<Feature<T>>,
    rows: &[usize],
    skip: usize,
    encode: impl FnOnce(Vec<T>, &[usize]) -> Result<Encoded>,
) -> Result<Option<Encoded>> {
    let Some(encoded) = encode_in_order(items, rows, encode)? else {
        return Ok(None);
    };
    let cut = |tensor: Tensor<2>| {
        let rows = tensor.dims()[0];
        tensor.narrow(0, skip, rows - skip)
    };
    Ok(Some(Encoded {
        embeds: cut(encoded.embeds),
        spans: encoded.spans,
        deepstack: encoded.deepstack.into_iter().map(cut).collect(),
    }))
}

fn upload(model: &Model, values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (&model.device, model.dtype.into()))
}

/// Encodes the raw items in one call and puts rows that the application gave between them, in order.
fn encode_in_order<T>(
    items: Vec<Feature<T>>,
    rows: &[usize],
    encode: impl FnOnce(Vec<T>, &[usize]) -> Result<Encoded>,
) -> Result<Option<Encoded>> {
    if items.is_empty() {
        return Ok(None);
    }
    let mut given = Vec::new();
    let (mut raw, mut raw_rows, mut is_raw) = (Vec::new(), Vec::new(), Vec::new());
    for (item, rows) in items.into_iter().zip(rows) {
        is_raw.push(matches!(item, Feature::Raw(_)));
        match item {
            Feature::Raw(item) => {
                raw.push(item);
                raw_rows.push(*rows);
            }
            Feature::Encoded(encoded) => given.push(*encoded),
        }
    }
    if given.is_empty() {
        return encode(raw, &raw_rows).map(Some);
    }
    let mut raw = if raw.is_empty() { Vec::new() } else { split(&encode(raw, &raw_rows)?) }.into_iter();
    let mut given = given.into_iter();
    let next = |is_raw: bool| if is_raw { raw.next() } else { given.next() }.expect("every item was counted");
    concatenate(is_raw.into_iter().map(next).collect()).map(Some)
}

/// Splits rows into one `Encoded` per span.
fn split(encoded: &Encoded) -> Vec<Encoded> {
    let mut start = 0;
    let mut piece = |span: &SpanLayout| {
        let rows = span.tokens();
        let cut = |tensor: &Tensor<2>| tensor.clone().narrow(0, start, rows);
        let one = Encoded {
            embeds: cut(&encoded.embeds),
            spans: vec![span.clone()],
            deepstack: encoded.deepstack.iter().map(cut).collect(),
        };
        start += rows;
        one
    };
    encoded.spans.iter().map(&mut piece).collect()
}

fn concatenate(items: Vec<Encoded>) -> Result<Encoded> {
    let features = items[0].deepstack.len();
    if items.iter().any(|item| item.deepstack.len() != features) {
        let reason = "encoded parts of one kind have different numbers of deepstack features".to_owned();
        return Err(Error::Request(reason));
    }
    let join = |tensors: Vec<Tensor<2>>| Tensor::cat(tensors, 0);
    Ok(Encoded {
        embeds: join(items.iter().map(|item| item.embeds.clone()).collect()),
        deepstack: (0..features).map(|i| join(items.iter().map(|item| item.deepstack[i].clone()).collect())).collect(),
        spans: items.into_iter().flat_map(|item| item.spans).collect(),
    })
}
