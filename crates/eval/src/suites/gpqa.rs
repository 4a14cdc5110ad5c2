//! GPQA: a CSV with `Question`, `Correct Answer` and `Incorrect Answer 1` to `3`.

use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::files::file_of;
use super::options::ReadOptions;
use super::records::Record;
use crate::error::Result;
use crate::item::{Expected, Item, Task};

const LISTS: [&str; 4] = ["gpqa_diamond.csv", "gpqa_main.csv", "gpqa_extended.csv", "questions.jsonl"];

/// Reads the questions; each has its options in an order that the seed decides.
pub(super) fn read(data: &Path, options: &ReadOptions) -> Result<Vec<Item>> {
    let records = Record::list(&file_of(data, &LISTS)?)?;
    records.iter().zip(0..).map(|(record, index)| item(record, options.seed.wrapping_add(index))).collect()
}

fn item(record: &Record, seed: u64) -> Result<Item> {
    let names = ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"];
    let texts = names.iter().map(|name| record.text(&[*name])).collect::<Result<_>>()?;
    let (options, right) = shuffled(texts, seed);
    let group = record.text_if_any(&["High-level domain", "Subdomain"])?;
    let task = Task::Answer {
        question: record.text(&["Question"])?,
        sound: None,
        expected: Expected::Choice { options, right },
    };
    Ok(Item { id: record.id()?, group, task })
}

/// Options of which the first is right, in an order drawn from a seed, and where the right one then is.
pub(super) fn shuffled(options: Vec<String>, seed: u64) -> (Vec<String>, usize) {
    let mut order: Vec<usize> = (0..options.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let right = order.iter().position(|index| *index == 0).unwrap_or(0);
    (order.into_iter().map(|index| options[index].clone()).collect(), right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_option_is_followed_to_every_place() {
        let options = || ["right", "b", "c", "d"].map(String::from).to_vec();
        let mut places = [0; 4];
        for seed in 0..64 {
            let (shuffled, right) = shuffled(options(), seed);
            assert_eq!(shuffled[right], "right");
            places[right] += 1;
        }
        assert!(places.iter().all(|count| *count > 4), "{places:?}");
        assert_eq!(shuffled(options(), 3), shuffled(options(), 3));
    }
}
