//! From prepared media to rows for the thinker: the encoders' turn.

use burn::tensor::{Device, Tensor, TensorData};
use media::audio::Mel;
use media::image::Patches;
use moe_thinker::MediaRows;
use omni_core::{Dtype, Encoded, Error, ModalityEncoder, Result};
use vision_encoder::PixelPatches;

use crate::omni::{Encoders, Inner};
use crate::processor::{Feature, Prompt};

/// Encodes the media of a prompt and lets go of them.
pub(crate) fn encode(model: &Inner, prompt: &mut Prompt) -> Result<MediaRows> {
    let (device, dtype) = (&model.device, model.dtype);
    let encoders = || {
        let missing =
            || Error::NotLoaded("the conversation holds media, but the model was loaded without encoders".into());
        model.encoders.as_ref().ok_or_else(missing)
    };
    let audio = joined(std::mem::take(&mut prompt.audio), |items: Vec<Mel>| {
        let _span = tracing::info_span!("audio_encoder", items = items.len()).entered();
        let Encoders { audio, .. } = encoders()?;
        let rows = |mel: Mel| {
            let shape = [mel.frames(), mel.bins()];
            upload(mel.into_values(), shape, device, dtype)
        };
        audio.encode(items.into_iter().map(rows).collect())
    })?;
    let pixels = |patches: Patches, seconds_per_step: f32| {
        let (grid, shape) = (patches.grid(), [patches.patches(), patches.values().len() / patches.patches()]);
        PixelPatches { patches: upload(patches.into_values(), shape, device, dtype), grid, seconds_per_step }
    };
    let see = |items: Vec<PixelPatches>| {
        let _span = tracing::info_span!("vision_encoder", items = items.len()).entered();
        encoders()?.vision.encode(items)
    };
    let image = joined(std::mem::take(&mut prompt.image), |items| {
        see(items.into_iter().map(|patches| pixels(patches, 0.0)).collect())
    })?;
    let video = joined(std::mem::take(&mut prompt.video), |items| {
        let item = |clip: media::video::Clip| {
            let seconds = clip.seconds_per_step();
            pixels(clip.into_patches(), seconds)
        };
        see(items.into_iter().map(item).collect())
    })?;
    Ok(MediaRows { audio, image, video })
}

fn upload(values: Vec<f32>, shape: [usize; 2], device: &Device, dtype: Dtype) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (device, dtype.into()))
}

/// Encodes the raw items in one call and puts those of other encoders between them, in order.
fn joined<T>(items: Vec<Feature<T>>, encode: impl FnOnce(Vec<T>) -> Result<Encoded>) -> Result<Option<Encoded>> {
    if items.is_empty() {
        return Ok(None);
    }
    let mut own = Vec::new();
    let (mut raw, mut is_raw) = (Vec::new(), Vec::new());
    for item in items {
        is_raw.push(matches!(item, Feature::Raw(_)));
        match item {
            Feature::Raw(item) => raw.push(item),
            Feature::Encoded(encoded) => own.push(*encoded),
        }
    }
    if own.is_empty() {
        return encode(raw).map(Some);
    }
    let mut raw = if raw.is_empty() { Vec::new() } else { split(&encode(raw)?) }.into_iter();
    let mut own = own.into_iter();
    let next = |is_raw: bool| if is_raw { raw.next() } else { own.next() }.expect("every item was counted");
    concatenate(is_raw.into_iter().map(next).collect()).map(Some)
}

/// One `Encoded` per span.
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
