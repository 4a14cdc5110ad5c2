//! The golden cases, by their names.

mod aut;
mod code2wav;
mod numbers;
mod talker;
mod thinker;

use numbers::NUMBERS;

use super::compare::Checks;
use super::golden::Golden;
use super::model::Model;
use crate::Result;

/// Recomputes a case; `None` if no case of this name is known.
pub(super) fn run(model: &Model, name: &str) -> Result<Option<Checks>> {
    let mut checks = Checks::default();
    if name == NUMBERS {
        numbers::run(model, &mut checks)?;
        return Ok(Some(checks));
    }
    let golden = Golden::read(&model.golden, name)?;
    let (golden, found) = (&golden, &mut checks);
    match name {
        "thinker_text" => thinker::text(model, golden, found)?,
        "thinker_media" => thinker::media(model, golden, found, "+thinker.*")?,
        "thinker_media_adapters" => {
            let adapters = "+thinker.audio_tower.proj1.* +thinker.audio_tower.proj2.* +thinker.visual.merger*";
            thinker::media(model, golden, found, adapters)?;
        }
        "thinker_media_encoders" => {
            thinker::media(model, golden, found, "+thinker.audio_tower.* +thinker.visual.*")?;
        }
        "distill" => thinker::distillation(model, golden, found)?,
        "gspo" => thinker::policy(model, golden, found)?,
        "talker" => talker::spoken(model, golden, found)?,
        "dpo" => talker::preferences(model, golden, found)?,
        "speaker" => talker::speaker(model, golden, found)?,
        "code2wav" => code2wav::run(model, golden, found)?,
        "aut_asr" => aut::run(model, golden, found)?,
        _ => return Ok(None),
    }
    Ok(Some(checks))
}
