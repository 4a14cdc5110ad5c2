//! Encoding of prepared media to rows for the thinker.

use burn::tensor::{Tensor, TensorData};
use media::audio::Mel;
use media::image::Patches;
use media::video::Clip;
use moe_thinker::MediaRows;
use omni_core::{Encoded, Error, Result};
use tm_rope::MediaItem;
use vision_encoder::PixelPatches;

use crate::model::{AnyAudioEncoder, Encoders, Model, Stopped};
use crate::prompt::{Feature, Media, Prompt};

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
    let audio = checked(model, "sound", &audio_rows, cached.audio, audio)?;
    let image = encode_uncached(images, &image_rows, cached.image, |items: Vec<Patches>| {
        encode_pixels(model, items.into_iter().map(|patches| (patches, 0.0)).collect(), stopped)
    })?;
    let timed = |clip: Clip| {
        let seconds = clip.seconds_per_step();
        (clip.into_patches(), seconds)
    };
    let video = encode_uncached(videos, &video_rows, cached.video, |items: Vec<Clip>| {
        encode_pixels(model, items.into_iter().map(timed).collect(), stopped)
    })?;
    let image = checked(model, "picture", &image_rows, cached.image, image)?;
    let video = checked(model, "video", &video_rows, cached.video, video)?;
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
    let encode = |items: Vec<Mel>| encoders(model)?.audio.encode(items.into_iter().map(upload_mel).collect(), stopped);
    let all: usize = rows.iter().sum();
    if cached == 0 || cached >= all {
        return encode_uncached(items, rows, cached, encode);
    }
    if items.iter().any(|item| matches!(item, Feature::Encoded(_))) {
        // Between rows of custom encoders all are encoded.
        return encode_uncached(items, &[], cached, encode);
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
        None if !std::iter::once(&encoded.embeds).chain(&encoded.deepstack).all(is_finite) => {
            Err(Error::NotFinite { stage: if kind == "sound" { "audio encoder" } else { "vision encoder" } })
        }
        None => Ok(Some(encoded)),
    }
}

fn is_finite(rows: &Tensor<2>) -> bool {
    rows.dims()[0] == 0 || rows.clone().is_finite().all().into_scalar::<bool>()
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

fn upload(model: &Model, values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (&model.device, model.dtype.into()))
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
