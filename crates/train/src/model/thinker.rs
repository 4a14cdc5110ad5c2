use aut_encoder::{AudioConfig, AutEncoder};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use checkpoint::{Checkpoint, Weights};
use moe_thinker::{MediaRows, Thinker, ThinkerConfig, ThinkerInput, ThinkerRun, media_ids, merge};
use omni_core::{Dtype, Encoded, ModalityEncoder, Place, Positions};
use tm_rope::{MediaItem, MediaLayout};
use vision_encoder::{PixelPatches, VisionConfig, VisionEncoder};

use super::moved::moved;
use crate::loss::{RouterTap, cross_entropy, indices, load_balance};
use crate::{Error, Result};

/// The thinker with its two encoders, under their names on disk.
#[derive(Module, Debug)]
pub struct ThinkerModel {
    thinker: Thinker,
    audio_tower: AutEncoder,
    visual: VisionEncoder,
    #[module(skip)]
    config: ThinkerConfig,
}

/// One conversation.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Token ids, placeholders expanded.
    pub ids: Vec<u32>,
    /// The label of each token, at its own index: it is predicted one row earlier. `None` where nothing is learned.
    pub labels: Vec<Option<u32>>,
    /// The media of its placeholders.
    pub media: SampleMedia,
    /// Number of tokens from which on placeholder ids are text, as in an answer that a model wrote; `None`: all may be placeholders.
    pub text_from: Option<usize>,
}

impl Sample {
    /// The tokens that may be placeholders, and those that are text.
    fn split(&self) -> (&[u32], &[u32]) {
        self.ids.split_at(self.text_from.unwrap_or(self.ids.len()).min(self.ids.len()))
    }
}

/// Media of one conversation, each kind in order of appearance.
#[derive(Debug, Clone, Default)]
pub struct SampleMedia {
    /// Log-mel frames `[T, M]`, the sound of videos included.
    pub sounds: Vec<Tensor<2>>,
    /// Patches of pictures.
    pub pictures: Vec<PixelPatches>,
    /// Patches of videos.
    pub videos: Vec<PixelPatches>,
    /// Whether each video brings its own sound, interleaved; a video beyond the end does not.
    pub audio_in_video: Vec<bool>,
}

impl Sample {
    /// Number of tokens that are learned: rows that carry loss.
    pub fn learned(&self) -> usize {
        // The first token has no row that could predict it.
        self.labels.iter().skip(1).flatten().count()
    }

    /// The same conversation for a model that is not trained: its media belong to no graph.
    #[must_use]
    pub fn inner(&self) -> Self {
        Self { media: self.media.map(|tensor| tensor.clone().inner()), ..self.clone() }
    }

    /// The same conversation for a model on another device.
    #[must_use]
    pub fn to_device(&self, device: &Device) -> Self {
        Self { media: self.media.map(|tensor| moved(tensor, device)), ..self.clone() }
    }
}

impl SampleMedia {
    fn map(&self, change: impl Fn(&Tensor<2>) -> Tensor<2>) -> Self {
        let pixels = |item: &PixelPatches| PixelPatches { patches: change(&item.patches), ..item.clone() };
        Self {
            sounds: self.sounds.iter().map(&change).collect(),
            pictures: self.pictures.iter().map(pixels).collect(),
            videos: self.videos.iter().map(pixels).collect(),
            audio_in_video: self.audio_in_video.clone(),
        }
    }
}

/// What the losses need of one pass over a batch.
#[derive(Debug, Clone)]
pub struct ThinkerForward {
    /// `[rows, V]`: logits of all rows that carry loss, one conversation after another.
    pub logits: Tensor<2>,
    /// `[rows]`.
    pub labels: Vec<u32>,
    /// Number of such rows of each conversation.
    pub rows: Vec<usize>,
    /// The balancing loss of the routers; `None` without experts.
    pub balance: Option<Tensor<1>>,
    /// States of the accepted layer of each conversation, if they were asked for.
    pub taps: Vec<Option<Tensor<2>>>,
}

impl ThinkerForward {
    /// Mean cross-entropy of the batch's rows.
    ///
    /// # Errors
    /// The errors of [`cross_entropy`].
    pub fn cross_entropy(&self) -> Result<Tensor<1>> {
        Ok(cross_entropy(self.logits.clone(), &self.labels)? / self.labels.len() as f64)
    }

    /// Logits and labels of each conversation.
    pub fn of_each(&self) -> impl Iterator<Item = (Tensor<2>, &[u32])> {
        let mut start = 0;
        self.rows.iter().map(move |rows| {
            start += rows;
            let range = start - rows..start;
            (self.logits.clone().narrow(0, range.start, *rows), &self.labels[range])
        })
    }
}

impl ThinkerModel {
    /// Loads the thinker and its encoders on a device, to compute in `dtype`; an autodiff device makes them trainable.
    ///
    /// # Errors
    /// The errors of the config's sections and of [`Checkpoint::check`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device, dtype: Dtype) -> Result<Self> {
        let config: ThinkerConfig = checkpoint.config().section()?;
        let (audio, vision): (AudioConfig, VisionConfig) =
            (checkpoint.config().section()?, checkpoint.config().section()?);
        let accepted = checkpoint.config().get("talker_config.accept_hidden_layer").and_then(|layer| layer.as_u64());
        let load = |weights: &Weights| {
            Ok(Self {
                thinker: Thinker::load(weights, &config, accepted.map(|layer| layer as usize))?,
                audio_tower: AutEncoder::load(weights, &audio)?,
                visual: VisionEncoder::load(weights, &vision)?,
                config: config.clone(),
            })
        };
        let in_scope = |name: &str| name.starts_with("thinker.");
        Ok(checkpoint.load(&Place::Device(device.clone()), dtype, in_scope, load)?)
    }

    /// Looks up rows of the embedding table: `[T]` → `[T, D]`.
    pub fn embed(&self, ids: &[u32]) -> Tensor<2> {
        self.thinker.embed(ids)
    }

    /// Runs whole conversations, each at its own length, without padding; `tap` keeps the states the talker reads.
    ///
    /// # Errors
    /// [`Error::Batch`] if no row carries loss or labels and ids differ in number, the errors of the encoders for their media, and
    /// those of the thinker for a conversation beyond its context.
    pub fn forward(&self, samples: &[Sample], tap: bool) -> Result<ThinkerForward> {
        let (places, labels, rows) = labelled(samples)?;
        let inputs = self.inputs(samples, tap)?;
        let mut states: Vec<_> = inputs.iter().map(|_| self.thinker.start_once()).collect();
        let mut routers: Vec<RouterTap> = inputs.iter().map(|_| RouterTap::default()).collect();
        let runs = states.iter_mut().zip(&inputs).zip(&mut routers);
        let runs = runs.map(|((state, input), probe)| ThinkerRun { state, input, probe: Some(probe) });
        let found = self.thinker.hidden_states(runs.collect())?;
        // The head is by far the widest layer: only rows that carry loss go through it.
        let hidden = found.hidden.clone().select(0, indices(places, &found.hidden.device()));
        let logits = self.thinker.logits(&hidden);
        Ok(ThinkerForward { logits, labels, rows, balance: load_balance(&routers), taps: found.taps })
    }

    /// Computes the states of the accepted layer for a whole conversation, `[T, D]`: what the talker reads at rows of media.
    ///
    /// # Errors
    /// The errors of [`ThinkerModel::forward`], and [`Error::Batch`] for a model whose talker reads no layer.
    pub fn tap(&self, sample: &Sample) -> Result<Tensor<2>> {
        let inputs = self.inputs(std::slice::from_ref(sample), true)?;
        let mut state = self.thinker.start_once();
        let found = self.thinker.hidden_states(vec![ThinkerRun::new(&mut state, &inputs[0])])?;
        let tap = found.taps.into_iter().next().flatten();
        tap.ok_or_else(|| Error::Batch("the model has no layer that a talker reads".into()))
    }

    /// Positions of a conversation's tokens.
    ///
    /// # Errors
    /// [`omni_core::Error::Request`] if placeholders and media do not match.
    pub fn positions(&self, sample: &Sample) -> Result<Positions> {
        let (prompt, answer) = sample.split();
        let (positions, delta) = self.layout(&sample.media).positions(prompt)?;
        let later: Vec<f32> = (0..answer.len()).map(|at| (prompt.len() + at) as f32 + delta).collect();
        Ok(Positions::new(1, [0, 1, 2].map(|axis| [positions.axis(axis), &later].concat())))
    }

    /// What decides the positions of a conversation besides its ids.
    pub fn layout(&self, media: &SampleMedia) -> MediaLayout {
        MediaLayout {
            ids: media_ids(&self.config),
            items: self.items(media),
            audio_in_video: media.audio_in_video.clone(),
            ids_per_second: self.config.position_id_per_seconds,
        }
    }

    /// Embedded conversations with their media in place.
    fn inputs(&self, samples: &[Sample], tap: bool) -> Result<Vec<ThinkerInput>> {
        let ids = media_ids(&self.config);
        let mut encoded = self.encode(samples)?;
        let each = samples.iter().map(|sample| {
            let (prompt, answer) = sample.split();
            let rows = encoded.take(prompt, &ids);
            let positions = self.positions(sample)?;
            let (mut embeds, visual) = merge(self.thinker.embed(prompt), prompt, &ids, rows)?;
            if !answer.is_empty() {
                embeds = Tensor::cat(vec![embeds, self.thinker.embed(answer)], 0);
            }
            Ok(ThinkerInput { embeds, positions, visual, tap })
        });
        each.collect()
    }

    /// Encodes the media of a batch, each kind in one call: the reference pads short sounds to the longest of a call.
    fn encode(&self, samples: &[Sample]) -> Result<MediaRows> {
        let all = |of: fn(&SampleMedia) -> &Vec<PixelPatches>| -> Vec<PixelPatches> {
            samples.iter().flat_map(|sample| of(&sample.media)).cloned().collect()
        };
        let see = |items: Vec<PixelPatches>| -> Result<Option<Encoded>> {
            Ok((!items.is_empty()).then(|| self.visual.encode(items)).transpose()?)
        };
        let sounds: Vec<Tensor<2>> = samples.iter().flat_map(|sample| &sample.media.sounds).cloned().collect();
        let audio = (!sounds.is_empty()).then(|| self.audio_tower.encode(sounds)).transpose()?;
        Ok(MediaRows { audio, image: see(all(|media| &media.pictures))?, video: see(all(|media| &media.videos))? })
    }

    /// The media of one conversation as its layout lists them.
    fn items(&self, media: &SampleMedia) -> Vec<MediaItem> {
        let sounds = media.sounds.iter().map(|mel| MediaItem::Audio(self.audio_tower.tokens(mel.dims()[0])));
        let merge = self.visual.merge_size();
        let pictures = media.pictures.iter().map(|item| MediaItem::Image([item.grid[1] / merge, item.grid[2] / merge]));
        let videos = media.videos.iter().map(|item| {
            let [t, h, w] = item.grid;
            MediaItem::Video([t, h / merge, w / merge], item.seconds_per_step)
        });
        sounds.chain(pictures).chain(videos).collect()
    }
}

/// Places of the rows that predict a label among the rows of all conversations, the labels, and their number in each.
fn labelled(samples: &[Sample]) -> Result<(Vec<usize>, Vec<u32>, Vec<usize>)> {
    let (mut places, mut labels, mut rows, mut start) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (index, Sample { ids, labels: of_ids, .. }) in samples.iter().enumerate() {
        if ids.len() != of_ids.len() {
            let (index, found, expected) = (index + 1, of_ids.len(), ids.len());
            return Err(Error::Batch(format!("conversation {index} has {found} labels for {expected} tokens")));
        }
        let before = labels.len();
        for (at, label) in of_ids.iter().enumerate().skip(1) {
            if let Some(label) = label {
                places.push(start + at - 1);
                labels.push(*label);
            }
        }
        rows.push(labels.len() - before);
        start += ids.len();
    }
    match labels.is_empty() {
        true => Err(Error::Batch(format!("none of its {} conversations has a token that carries loss", samples.len()))),
        false => Ok((places, labels, rows)),
    }
}
