//! What training changes in the tensors of a checkpoint.

use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::Tensor;

use super::{Objective, Trainer};
use crate::lora::{ADAPTER_FACTORS, products};
use crate::{Error, Result};

/// How a tensor of a checkpoint changes. It is changed in f32 and rounded once, to the number type it has on disk.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// These are its values.
    Values(Vec<f32>),
    /// This is added to its values.
    Added(Vec<f32>),
    /// One of its rows is this.
    Row(usize, Vec<f32>),
}

/// The changes of tensors by their names, in the order in which they are made.
pub(super) type Changes = BTreeMap<String, Vec<Change>>;

impl Change {
    /// Changes a tensor's values; returns whether it fits them.
    pub(super) fn apply(&self, values: &mut [f32]) -> bool {
        let (Self::Values(new) | Self::Added(new) | Self::Row(_, new)) = self;
        let old = match self {
            Self::Row(row, _) => values.chunks_mut(new.len().max(1)).nth(*row),
            _ => Some(values),
        };
        let Some(old) = old.filter(|old| old.len() == new.len()) else { return false };
        match self {
            Self::Added(_) => old.iter_mut().zip(new).for_each(|(value, added)| *value += added),
            _ => old.copy_from_slice(new),
        }
        true
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(new) | Self::Added(new) => write!(f, "{} values", new.len()),
            Self::Row(row, new) => write!(f, "{} values of row {row}", new.len()),
        }
    }
}

/// What a trainer changes, with `values` of what it trains, flattened in f32.
///
/// # Errors
/// [`Error::Batch`] for factors of adapters of an objective whose `adapters()` is `None`.
pub(super) fn changes<O: Objective>(trainer: &Trainer<O>, values: BTreeMap<String, Tensor<1>>) -> Result<Changes> {
    let Trainer { objective, model, names, .. } = trainer;
    let (factors, values): (BTreeMap<_, _>, BTreeMap<_, _>) = values.into_iter().partition(|(name, _)| is_factor(name));
    let mut changes = Changes::new();
    if !factors.is_empty() {
        let unknown = || Error::Batch("adapters of an objective whose `adapters()` is `None`".into());
        for (name, product) in products(&factors, objective.adapters().ok_or_else(unknown)?) {
            changes.entry(name).or_default().push(Change::Added(nn::to_f32_vec(&product)));
        }
    }
    let derived = names.values_of(model, &|name| objective.derives(name) && !values.contains_key(name));
    // A table stands before its rows, whose names are longer.
    for (name, value) in derived.into_iter().chain(values) {
        let value = nn::to_f32_vec(&value);
        let (name, change) = match row(&name) {
            Some((table, row)) => (table.to_owned(), Change::Row(row, value)),
            None => (name, Change::Values(value)),
        };
        changes.entry(name).or_default().push(change);
    }
    Ok(changes)
}

fn is_factor(name: &str) -> bool {
    ADAPTER_FACTORS.iter().any(|factor| name.ends_with(factor))
}

/// Table and number of a row that is a parameter of its own, `NAME[ROW]`.
fn row(name: &str) -> Option<(&str, usize)> {
    let (table, row) = name.strip_suffix(']')?.rsplit_once('[')?;
    Some((table, row.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_change_one_after_another() {
        let mut values = [1.0, 2.0, 3.0, 4.0];
        let changes =
            [Change::Values(vec![5.0; 4]), Change::Added(vec![0.5, 1.0, 1.5, 2.0]), Change::Row(1, vec![8.0, 9.0])];
        assert!(changes.iter().all(|change| change.apply(&mut values)));
        assert_eq!(values, [5.5, 6.0, 8.0, 9.0]);
        for misfit in [Change::Values(vec![0.0; 3]), Change::Added(vec![]), Change::Row(2, vec![0.0; 2])] {
            assert!(!misfit.apply(&mut values), "{misfit:?}");
        }
    }

    #[test]
    fn rows_are_found_by_their_names() {
        assert_eq!(row("talker.table.weight[17]"), Some(("talker.table.weight", 17)));
        assert_eq!((row("talker.table.weight"), row("talker.table[x]")), (None, None));
    }
}
