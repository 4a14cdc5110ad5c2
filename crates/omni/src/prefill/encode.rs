//! Encoding of prepared media to rows for the thinker.

use burn::tensor::{Device, Tensor, TensorData};
use media::audio::Mel;
use media::image::Patches;
use moe_thinker::MediaRows;
use omni_core::{Dtype, Encoded, Error, Result};
use tm_rope::MediaItem;
use vision_encoder::PixelPatches;

use crate::model::{AnyAudioEncoder, Model};
use crate::prompt::{Feature, Media, Prompt};

/// Number of cached rows of each kind, which come before the others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CachedRows {
    pub(crate) audio: usize,
    pub(crate) image: usize,
    pub(crate) video: usize,
}

/// Encodes the media of a prompt, except for cached rows, and removes them from the prompt.
pub(crate) fn encode(model: &Model, prompt: &mut Prompt, cached: CachedRows) -> Result<MediaRows> {
    let (device, dtype) = (&model.device, model.dtype);
    let encoders = || {
        let missing =
            || Error::NotLoaded("the conversation holds media, but the model was loaded without encoders".into());
        model.encoders.as_ref().ok_or_else(missing)
    };
    let of_kind = |wanted: fn(&MediaItem) -> bool| -> Vec<usize> {
        prompt.layout.items.iter().filter(|item| wanted(item)).map(MediaItem::tokens).collect()
    };
    let audio_rows = of_kind(|item| matches!(item, MediaItem::Audio(_)));
    let image_rows = of_kind(|item| matches!(item, MediaItem::Image(_)));
    let video_rows = of_kind(|item| matches!(item, MediaItem::Video(..)));
    let mel_rows = |mel: Mel| {
        let shape = [mel.frames(), mel.bins()];
        upload(mel.into_values(), shape, device, dtype)
    };
    let encode_audio = |items: Vec<Mel>| {
        let _span = tracing::info_span!("audio_encoder", items = items.len()).entered();
        encoders()?.audio.encode(items.into_iter().map(mel_rows).collect())
    };
    // The built-in encoder need not compute cached windows again.
    let windowed = match model.encoders.as_ref().map(|encoders| &encoders.audio) {
        Some(AnyAudioEncoder::Builtin(encoder)) => Some(encoder),
        _ => None,
    };
    let (mut items, mut images, mut videos) = (Vec::new(), Vec::new(), Vec::new());
    for item in prompt.media.drain(..) {
        match item {
            Media::Audio(item) => items.push(item),
            Media::Image(item) => images.push(item),
            Media::Video(item) => videos.push(item),
        }
    }
    let audio = match items.iter().all(|item| matches!(item, Feature::Raw(_))) {
        // All items stay in the call, since it decides how short ones are padded; cached windows are not computed.
        true if windowed.is_some() && cached.audio > 0 && cached.audio < audio_rows.iter().sum() => {
            let _span = tracing::info_span!("audio_encoder", items = items.len()).entered();
            let raw = items.into_iter().filter_map(|item| match item {
                Feature::Raw(mel) => Some(mel_rows(mel)),
                Feature::Encoded(_) => None,
            });
            let embeds =
                windowed.map(|encoder| encoder.encode_after(&raw.collect::<Vec<_>>(), cached.audio)).transpose()?;
            embeds.map(|embeds| Encoded { embeds, spans: Vec::new(), deepstack: Vec::new() })
        }
        // Between rows of custom encoders all are encoded, for the same reason.
        false if cached.audio < audio_rows.iter().sum() => encode_uncached(items, &[], cached.audio, encode_audio)?,
        _ => encode_uncached(items, &audio_rows, cached.audio, encode_audio)?,
    };
    let pixels = |patches: Patches, seconds_per_step: f32| {
        let (grid, shape) = (patches.grid(), [patches.patches(), patches.values().len() / patches.patches()]);
        PixelPatches { patches: upload(patches.into_values(), shape, device, dtype), grid, seconds_per_step }
    };
    let encode_vision = |items: Vec<PixelPatches>| {
        let _span = tracing::info_span!("vision_encoder", items = items.len()).entered();
        encoders()?.vision.encode(items)
    };
    let audio = checked(model, "sound", &audio_rows, cached.audio, audio)?;
    let image = encode_uncached(images, &image_rows, cached.image, |items: Vec<Patches>| {
        encode_vision(items.into_iter().map(|patches| pixels(patches, 0.0)).collect())
    })?;
    let video = encode_uncached(videos, &video_rows, cached.video, |items| {
        let item = |clip: media::video::Clip| {
            let seconds = clip.seconds_per_step();
            pixels(clip.into_patches(), seconds)
        };
        encode_vision(items.into_iter().map(item).collect())
    })?;
    let image = checked(model, "picture", &image_rows, cached.image, image)?;
    let video = checked(model, "video", &video_rows, cached.video, video)?;
    Ok(MediaRows { audio, image, video })
}

/// Checks that an encoder made the rows that the prompt has tokens for.
fn checked(
    model: &Model,
    kind: &str,
    rows: &[usize],
    cached: usize,
    encoded: Option<Encoded>,
) -> Result<Option<Encoded>> {
    let Some(encoded) = encoded else { return Ok(None) };
    let shape = [rows.iter().sum::<usize>().saturating_sub(cached), model.config.thinker.text.hidden_size];
    let found = std::iter::once(&encoded.embeds).chain(&encoded.deepstack).find(|rows| rows.dims() != shape);
    match found {
        Some(rows) => {
            let reason = format!("the encoder made rows {:?}, expected {shape:?}", rows.dims());
            Err(Error::Media { part: kind.into(), reason })
        }
        None => Ok(Some(encoded)),
    }
}

/// Encodes items to the rows after the cached ones; items whose rows are all cached are left out.
fn encode_uncached<T>(
    items: Vec<Feature<T>>,
    rows: &[usize],
    cached: usize,
    encode: impl FnOnce(Vec<T>) -> Result<Encoded>,
) -> Result<Option<Encoded>> {
    let (mut items, mut skip) = (items, cached);
    let mut whole = 0;
    while whole < rows.len() && rows[whole] <= skip {
        skip -= rows[whole];
        whole += 1;
    }
    items.drain(..whole.min(items.len()));
    let Some(encoded) = encode_in_order(items, encode)? else {
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

fn upload(values: Vec<f32>, shape: [usize; 2], device: &Device, dtype: Dtype) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (device, dtype.into()))
}

/// Encodes the raw items in one call and puts the rows of custom encoders between them, in order.
fn encode_in_order<T>(
    items: Vec<Feature<T>>,
    encode: impl FnOnce(Vec<T>) -> Result<Encoded>,
) -> Result<Option<Encoded>> {
    if items.is_empty() {
        return Ok(None);
    }
    let mut custom = Vec::new();
    let (mut raw, mut is_raw) = (Vec::new(), Vec::new());
    for item in items {
        is_raw.push(matches!(item, Feature::Raw(_)));
        match item {
            Feature::Raw(item) => raw.push(item),
            Feature::Encoded(encoded) => custom.push(*encoded),
        }
    }
    if custom.is_empty() {
        return encode(raw).map(Some);
    }
    let mut raw = if raw.is_empty() { Vec::new() } else { split(&encode(raw)?) }.into_iter();
    let mut custom = custom.into_iter();
    let next = |is_raw: bool| if is_raw { raw.next() } else { custom.next() }.expect("every item was counted");
    concatenate(is_raw.into_iter().map(next).collect()).map(Some)
}

/// Splits rows into one `Encoded` per span.
fn split(encoded: &Encoded) -> Vec<Encoded> {
    let mut start = 0;
    let mut piece = |span: &omni_core::SpanLayout| {
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
