use aut_encoder::AutEncoder;
use burn::tensor::Tensor;
use moe_thinker::{Thinker, ThinkerInput, ThinkerRun};
use omni_core::{Encoded, ModalityEncoder, Positions, Result};
use qwen3_omni::Component;
use testkit::parity::best;
use vision_encoder::VisionEncoder;

use super::difference::{Difference, Pairs};
use super::inputs::Inputs;
use super::side::Side;

/// Tokens the reference adds to a prompt.
const ANSWER: usize = 24;

/// A prompt and what the reference answers.
pub(super) struct Answer {
    pub(super) prompt: Vec<u32>,
    /// Ids of the answer, without the end token.
    pub(super) answer: Vec<u32>,
}

impl Answer {
    fn sequence(&self) -> Vec<u32> {
        [self.prompt.as_slice(), &self.answer].concat()
    }
}

/// Compares the rows of both encoders.
pub(super) fn encoders(sides: &[Side; 2], inputs: &Inputs) -> Result<Vec<Difference>> {
    let hear = |side: &Side| -> Result<Vec<Encoded>> {
        let encoder = AutEncoder::load(&side.weights(), &side.config().audio)?;
        inputs.sounds.iter().map(|items| encoder.encode(items.iter().map(|item| side.tensor(item)).collect())).collect()
    };
    let see = |side: &Side| -> Result<Vec<Encoded>> {
        let encoder = VisionEncoder::load(&side.weights(), &side.config().vision)?;
        let own = |item: &vision_encoder::PixelPatches| vision_encoder::PixelPatches {
            patches: side.tensor(&item.patches),
            ..item.clone()
        };
        inputs.pictures.iter().map(|items| encoder.encode(items.iter().map(own).collect())).collect()
    };
    let mut differences = encoded(Component::AudioEncoder, [hear(&sides[0])?, hear(&sides[1])?])?;
    differences.extend(encoded(Component::VisionEncoder, [see(&sides[0])?, see(&sides[1])?])?);
    Ok(differences)
}

/// Compares rows, and each deepstack feature.
fn encoded(component: Component, [reference, other]: [Vec<Encoded>; 2]) -> Result<Vec<Difference>> {
    let features = reference.first().map_or(0, |encoded| encoded.deepstack.len());
    let mut rows = Pairs::new(component.name(), "rows");
    let mut deepstack: Vec<Pairs> =
        (0..features).map(|index| Pairs::new(component.name(), format!("deepstack {index}"))).collect();
    for (reference, other) in reference.into_iter().zip(other) {
        rows.add(reference.embeds, other.embeds)?;
        let both = reference.deepstack.into_iter().zip(other.deepstack);
        both.zip(&mut deepstack).try_for_each(|((a, b), pairs)| pairs.add(a, b))?;
    }
    std::iter::once(rows).chain(deepstack).map(Pairs::finish).collect()
}

/// Compares the logits after every token of each prompt and of the reference's answer; returns these answers as well.
pub(super) fn thinker(sides: &[Side; 2], inputs: &Inputs) -> Result<(Vec<Answer>, Difference)> {
    let (mut pairs, mut answers, mut scores) = (Pairs::scores("thinker"), Vec::new(), Vec::new());
    let reference =
        Thinker::load(&sides[0].weights(), &sides[0].config().thinker, sides[0].config().accept_hidden_layer())?;
    for prompt in &inputs.prompts {
        let answer = answer(&sides[0], &reference, prompt)?;
        scores.push(logits(&reference, &answer.sequence())?);
        answers.push(answer);
    }
    drop(reference);
    let other =
        Thinker::load(&sides[1].weights(), &sides[1].config().thinker, sides[1].config().accept_hidden_layer())?;
    for (answer, scores) in answers.iter().zip(scores) {
        pairs.add(scores, logits(&other, &answer.sequence())?)?;
    }
    Ok((answers, pairs.finish()?))
}

/// The greedy answer to a prompt.
fn answer(side: &Side, thinker: &Thinker, prompt: &[u32]) -> Result<Answer> {
    let (mut state, mut answer, mut fed) = (thinker.start(), Vec::new(), prompt.to_vec());
    while answer.len() < ANSWER {
        let positions = Positions::sequence(state.tokens() as f32, fed.len());
        let input = ThinkerInput::text(thinker.embed(&fed), positions);
        let output = thinker.forward(vec![ThinkerRun::new(&mut state, &input)]).remove(0)?;
        let id = best(&output.logits.to_vec());
        if id == side.config().top.im_end_token_id {
            break;
        }
        answer.push(id);
        fed = vec![id];
    }
    Ok(Answer { prompt: prompt.to_vec(), answer })
}

/// Logits `[T, V]` after each id.
fn logits(thinker: &Thinker, ids: &[u32]) -> Result<Tensor<2>> {
    let input = ThinkerInput::text(thinker.embed(ids), Positions::sequence(0.0, ids.len()));
    Ok(thinker.states(ThinkerRun::new(&mut thinker.start(), &input))?.logits)
}
