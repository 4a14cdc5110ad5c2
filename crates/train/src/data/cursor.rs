use std::sync::Arc;

use super::line::Line;
use super::location::Location;
use super::source::DataSource;
use super::state::SourceState;
use crate::{Error, Mixture, Result};

/// The place in each of several sources, and the rules by which lines are taken from them.
#[derive(Debug)]
pub(super) struct Cursor {
    sources: Arc<[DataSource]>,
    mixture: Mixture,
    states: Vec<SourceState>,
    /// The order of each source's epoch, once it is needed.
    orders: Vec<Option<Vec<u32>>>,
    /// Why the first line of each source was dropped.
    dropped: Vec<Option<String>>,
    rules: Rules,
}

/// How lines are taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) shuffle: bool,
    pub(super) seed: u64,
    pub(super) epochs: Option<u64>,
    pub(super) strict: bool,
}

impl Cursor {
    pub(super) fn new(sources: Arc<[DataSource]>, states: Vec<SourceState>, rules: Rules) -> Result<Self> {
        let shares: Vec<f64> = sources.iter().map(DataSource::share).collect();
        let mut mixture = Mixture::new(&shares)?;
        states.iter().enumerate().for_each(|(source, state)| mixture.count(source, state.tokens as usize));
        let orders = sources.iter().map(|_| None).collect();
        let dropped = vec![None; sources.len()];
        Ok(Self { sources, mixture, states, orders, dropped, rules })
    }

    /// Lines of all sources.
    pub(super) fn lines(&self) -> usize {
        self.sources.iter().map(|source| source.lines() as usize).sum()
    }

    /// What was read of each source.
    pub(super) fn states(&self) -> &[SourceState] {
        &self.states
    }

    /// Takes the next line that `read` can use, from the source that lacks most of its share; `read` also returns its number of tokens.
    /// Lines that it refuses are counted and reported. `None` after the last epoch.
    pub(super) fn next<T>(&mut self, read: impl Fn(Line) -> Result<(T, usize)>) -> Result<Option<(usize, T)>> {
        self.next_text(|text, location| read(Line::parse(text, location)?))
    }

    /// Takes the next line as [`Cursor::next`] does; `read` also understands its text.
    pub(super) fn next_text<T>(
        &mut self,
        read: impl Fn(&str, &Location) -> Result<(T, usize)>,
    ) -> Result<Option<(usize, T)>> {
        loop {
            let source = self.mixture.next_source();
            let Some(index) = self.next_index(source)? else { return Ok(None) };
            let line = match self.sources[source].written(index) {
                Ok(None) => continue,
                Ok(Some((text, location))) => read(&text, &location),
                Err(error) => Err(error),
            };
            match line {
                Ok((line, tokens)) => {
                    self.count(source, tokens);
                    return Ok(Some((source, line)));
                }
                Err(error) => self.drop_line(source, error)?,
            }
        }
    }

    fn count(&mut self, source: usize, tokens: usize) {
        self.mixture.count(source, tokens);
        self.states[source].given += 1;
        self.states[source].tokens += tokens as u64;
    }

    /// The next line of a source in its epoch's order; `None` after its last epoch.
    fn next_index(&mut self, source: usize) -> Result<Option<u32>> {
        let (from, state, rules) = (&self.sources[source], &mut self.states[source], self.rules);
        if state.next == from.lines() {
            if state.given == 0 {
                return Err(useless(from, state, self.dropped[source].as_deref()));
            }
            (state.epoch, state.next, self.orders[source]) = (state.epoch + 1, 0, None);
        }
        if rules.epochs.is_some_and(|epochs| state.epoch >= epochs) {
            return Ok(None);
        }
        let at = state.next;
        state.next += 1;
        if !rules.shuffle {
            return Ok(Some(at));
        }
        let order = self.orders[source].get_or_insert_with(|| from.order(rules.seed, source, state.epoch));
        Ok(Some(order[at as usize]))
    }

    /// Counts and reports a line that cannot be used.
    fn drop_line(&mut self, source: usize, error: Error) -> Result<()> {
        let state = &mut self.states[source];
        match error {
            Error::Conversation { source: omni_core::Error::ContextLength { .. }, .. } => state.too_long += 1,
            Error::Data { .. } | Error::Conversation { .. } if !self.rules.strict => state.bad += 1,
            other => return Err(other),
        }
        tracing::warn!("line dropped: {error}");
        self.dropped[source].get_or_insert_with(|| error.to_string());
        Ok(())
    }
}

fn useless(source: &DataSource, SourceState { too_long, bad, .. }: &SourceState, first: Option<&str>) -> Error {
    let first = first.map_or_else(String::new, |first| format!("; the first: {first}"));
    let reason = format!("none of its {} lines can be used: {bad} bad, {too_long} too long{first}", source.lines());
    Error::Source { name: source.name().to_owned(), reason }
}
