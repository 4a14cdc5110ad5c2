use qwen3_omni::OmniConfig;

use crate::{Error, Result};

/// Tokens between `<|im_start|>` and an assistant's text: itself, the role, a newline.
const HEADER: usize = 3;

/// Ids that decide which tokens are learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelIds {
    /// Opens a turn.
    pub im_start: u32,
    /// Names the assistant's turns.
    pub assistant: u32,
    /// Closes a turn.
    pub im_end: u32,
    /// Placeholders of media, which are never learned.
    pub placeholders: [u32; 3],
}

impl LabelIds {
    /// Takes the ids of a checkpoint's config.
    pub fn new(config: &OmniConfig) -> Self {
        let media = qwen3_omni::thinker::media_ids(&config.thinker);
        Self {
            im_start: config.turns.im_start,
            assistant: config.turns.assistant,
            im_end: config.top.im_end_token_id,
            placeholders: [media.audio, media.image, media.video],
        }
    }

    fn label(&self, id: u32) -> Option<u32> {
        (!self.placeholders.contains(&id)).then_some(id)
    }
}

/// Labels of a conversation, each at its token's own index: every token that an assistant writes and the `<|im_end|>` behind it, in the
/// answers that `learns` names in order. A turn that the ids cut off has no end to learn.
///
/// # Errors
/// [`Error::Batch`] if the conversation has another number of answers.
pub fn conversation_labels(ids: &[u32], names: &LabelIds, learns: &[bool]) -> Result<Vec<Option<u32>>> {
    let mut labels = vec![None; ids.len()];
    let (mut at, mut answers) = (0, 0);
    while let Some(start) = next_answer(ids, names, at) {
        let end = ids[start..].iter().position(|id| *id == names.im_end).map_or(ids.len(), |length| start + length + 1);
        if learns.get(answers).copied().unwrap_or(false) {
            (start..end).for_each(|token| labels[token] = names.label(ids[token]));
        }
        answers += 1;
        at = end;
    }
    match answers == learns.len() {
        true => Ok(labels),
        false => {
            let expected = learns.len();
            Err(Error::Batch(format!("the chat template wrote {answers} answers for {expected} assistant messages")))
        }
    }
}

/// The first token that an assistant writes in the next turn from `from` on.
fn next_answer(ids: &[u32], names: &LabelIds, from: usize) -> Option<usize> {
    let mut pairs = ids.get(from..)?.windows(2);
    let opens = pairs.position(|pair| pair == [names.im_start, names.assistant])?;
    Some((from + opens + HEADER).min(ids.len()))
}

/// The first token that an assistant writes in its last turn.
pub(super) fn last_answer(ids: &[u32], names: &LabelIds) -> Option<usize> {
    std::iter::successors(next_answer(ids, names, 0), |at| next_answer(ids, names, *at)).last()
}

/// Labels of a text for pre-training: all of its tokens.
pub fn document_labels(ids: &[u32], names: &LabelIds) -> Vec<Option<u32>> {
    ids.iter().map(|id| names.label(*id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: LabelIds = LabelIds { im_start: 90, assistant: 91, im_end: 92, placeholders: [80, 81, 82] };

    #[test]
    fn answers_and_their_ends_are_learned_but_no_header_newline_or_placeholder() {
        // user turn, answer, newline, answer, newline
        let ids = [90, 93, 10, 1, 92, 10, 90, 91, 10, 2, 80, 3, 92, 10, 90, 91, 10, 4, 92, 10];
        let found = |learns: &[bool]| -> Vec<(usize, u32)> {
            let labels = conversation_labels(&ids, &NAMES, learns).unwrap();
            labels.iter().enumerate().filter_map(|(at, label)| Some((at, (*label)?))).collect()
        };
        let (first, last) = ([(9, 2), (11, 3), (12, 92)], [(17, 4), (18, 92)]);
        assert_eq!(found(&[true, true]), [&first[..], &last[..]].concat());
        assert_eq!(found(&[false, true]), last);
        assert_eq!(found(&[true, false]), first);
    }

    #[test]
    fn another_number_of_answers_is_an_error() {
        let ids = [90, 91, 10, 2, 92, 10];
        let error = conversation_labels(&ids, &NAMES, &[true, true]).unwrap_err().to_string();
        assert!(error.contains("1 answers for 2"), "{error}");
        // A turn that is cut off inside its header has nothing to learn.
        assert_eq!(conversation_labels(&ids[..2], &NAMES, &[true]).unwrap(), [None, None]);
    }
}
