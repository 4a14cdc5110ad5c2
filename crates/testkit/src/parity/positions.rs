use aut_encoder::AudioConfig;
use moe_thinker::{ThinkerConfig, media_ids};
use omni_core::{Error, Positions, Result};
use tm_rope::{MediaIds, MediaItem, left_padded, positions, scan_spans};
use vision_encoder::VisionConfig;

use super::case::Case;
use super::model::Model;

/// Compares three-axis positions and the position delta of token ids with media sizes.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    let thinker: ThinkerConfig = model.section()?;
    let ids = media_ids(&thinker);
    let joint = case.has("use_audio_in_video") && case.ints("use_audio_in_video")?[0] != 0;
    let rows = Rows::read(case)?;
    let mut media = media(model, case)?;
    let (mut found, mut deltas) = (Vec::new(), Vec::new());
    for row in &rows.valid {
        // Each row takes its own items from the lists of the whole batch.
        let items = media.take(row, &ids);
        let spans = scan_spans(row, &ids, &items, joint)?;
        let (row_positions, delta) = positions(&spans, thinker.position_id_per_seconds);
        found.push(row_positions);
        deltas.push(delta);
    }
    compare(case, &rows, &left_padded(&found).0, &deltas);
    Ok(())
}

/// Compares positions where the mask is set; what stands at padding does not matter.
pub(super) fn compare(case: &mut Case, rows: &Rows, found: &Positions, deltas: &[f32]) {
    let (batch, tokens) = (found.batch(), found.tokens());
    let values = [found.axis(0), found.axis(1), found.axis(2)].concat();
    let mask = rows.mask.clone();
    case.compare_where("position_ids", &values, &[3, batch, tokens], 0.0, |i| mask[i % (batch * tokens)] != 0);
    case.compare_values("rope_delta", deltas, &[batch, 1], 0.0);
}

/// A left-padded batch of prompts.
pub(super) struct Rows {
    pub(super) valid: Vec<Vec<u32>>,
    pub(super) mask: Vec<i64>,
    pub(super) padding: Vec<usize>,
}

impl Rows {
    pub(super) fn read(case: &mut Case) -> Result<Self> {
        let [batch, tokens] = case.dims("input_ids")?;
        let ids = case.ints("input_ids")?;
        let mask = match case.has("attention_mask") {
            true => case.ints("attention_mask")?,
            false => vec![1; batch * tokens],
        };
        if mask.len() != ids.len() {
            return Err(Error::Request("attention_mask and input_ids have different sizes".into()));
        }
        let (mut valid, mut padding) = (Vec::new(), Vec::new());
        for (ids, mask) in ids.chunks(tokens).zip(mask.chunks(tokens)) {
            let pad = mask.iter().take_while(|m| **m == 0).count();
            if mask[pad..].contains(&0) {
                return Err(Error::Request("attention_mask: padding must be at the left".into()));
            }
            valid.push(ids[pad..].iter().map(|id| *id as u32).collect());
            padding.push(pad);
        }
        Ok(Self { valid, mask, padding })
    }
}

/// Media items of the whole batch, each kind in order of appearance.
#[derive(Default)]
struct Media {
    audio: Vec<MediaItem>,
    image: Vec<MediaItem>,
    video: Vec<MediaItem>,
}

impl Media {
    /// Takes the items of a row: one per consecutive run of placeholders.
    fn take(&mut self, row: &[u32], ids: &MediaIds) -> Vec<MediaItem> {
        let runs = |id: u32| {
            let starts = |i: &usize| row[*i] == id && (*i == 0 || row[*i - 1] != id);
            (0..row.len()).filter(starts).count()
        };
        let take = |items: &mut Vec<MediaItem>, wanted: usize| -> Vec<MediaItem> {
            items.drain(..wanted.min(items.len())).collect()
        };
        // Audio interleaved with video has more runs than items; then the row is the only one of the batch.
        [
            take(&mut self.audio, runs(ids.audio)),
            take(&mut self.image, runs(ids.image)),
            take(&mut self.video, runs(ids.video)),
        ]
        .concat()
    }
}

fn media(model: &Model, case: &mut Case) -> Result<Media> {
    let merge = model.section::<VisionConfig>()?.spatial_merge_size;
    let mut media = Media::default();
    if case.has("audio_seqlens") {
        let (frames, audio) = (case.ints("audio_seqlens")?, model.section::<AudioConfig>()?);
        media.audio = frames.iter().map(|n| MediaItem::Audio(audio.tokens(*n as usize))).collect();
    }
    if case.has("image_grid_thw") {
        let grids = case.ints("image_grid_thw")?;
        media.image =
            grids.chunks(3).map(|g| MediaItem::Image([g[1] as usize / merge, g[2] as usize / merge])).collect();
    }
    if case.has("video_grid_thw") {
        let grids = case.ints("video_grid_thw")?;
        let seconds = match case.has("second_per_grids") {
            true => case.floats("second_per_grids")?,
            false => vec![1.0; grids.len() / 3],
        };
        let videos = grids.chunks(3).zip(seconds);
        let size = |g: &[i64]| [g[0] as usize, g[1] as usize / merge, g[2] as usize / merge];
        media.video = videos.map(|(g, seconds)| MediaItem::Video(size(g), seconds)).collect();
    }
    Ok(media)
}

/// Compares the number of encoder rows for numbers of mel frames.
pub(super) fn audio_lengths(model: &Model, case: &mut Case) -> Result<()> {
    let (frames, audio) = (case.ints("frames")?, model.section::<AudioConfig>()?);
    let tokens: Vec<i64> = frames.iter().map(|n| audio.tokens(*n as usize) as i64).collect();
    case.compare_ints("tokens", &tokens, &[tokens.len()]);
    Ok(())
}
