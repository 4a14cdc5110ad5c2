//! Layout of several streams side by side in one GEMM, and which of its columns become outputs.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // Only x86-64 has code here.

use crate::gemm::TILE;

/// The columns of all streams' inputs, one stream after the other, each with its history first.
///
/// A column of outputs sees the column of inputs at the same position and those that follow it, as many as the history is long.
/// Only tiles of columns that hold outputs are computed. A stream of a few steps shares a tile with the stream before it where its
/// first step falls into that tile; what a tile computes for columns between two streams is dropped.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// The column of each stream's first input.
    pub(crate) starts: Vec<usize>,
    /// Steps of each stream: columns that become outputs.
    pub(crate) steps: Vec<usize>,
    /// Columns up to the last input.
    pub(crate) columns: usize,
    /// Columns of the matrix, including what the last tile reads beyond the last input.
    pub(crate) width: usize,
    /// First columns of the tiles that are computed.
    tiles: Vec<usize>,
    parts: Vec<Part>,
}

/// Columns of a block that are consecutive steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Part {
    block: usize,
    /// First column within the block.
    pub(crate) column: usize,
    /// First step, counted over all streams.
    pub(crate) step: usize,
    pub(crate) count: usize,
}

impl Layout {
    /// Lays out streams of the given numbers of inputs, their histories included.
    pub(crate) fn new(past: usize, inputs: impl Iterator<Item = usize>) -> Self {
        let mut layout = Self::default();
        for inputs in inputs {
            let covered = layout.covered();
            // A stream in a tile of its own begins at a cache line.
            let aligned = layout.columns.next_multiple_of(TILE);
            let start = if layout.columns < covered { layout.columns } else { aligned };
            let steps = inputs.saturating_sub(past);
            layout.place(start, steps);
            layout.starts.push(start);
            layout.steps.push(steps);
            layout.columns = start + inputs;
        }
        let read = layout.columns.max(layout.covered() + past);
        // A stride of a multiple of 4096 bytes would map all rows to the same set of the L1 cache.
        layout.width = (read.div_ceil(TILE) | 1) * TILE;
        layout
    }

    /// The column after the last tile.
    fn covered(&self) -> usize {
        self.tiles.last().map_or(0, |tile| tile + TILE)
    }

    fn place(&mut self, start: usize, steps: usize) {
        let before: usize = self.steps.iter().sum();
        let mut step = 0;
        while step < steps {
            let column = start + step;
            if column >= self.covered() {
                self.tiles.push(column / TILE * TILE);
            }
            let count = (self.covered() - column).min(steps - step);
            self.part(column % TILE, before + step, count);
            step += count;
        }
    }

    /// Adds columns of the last tile, to the part before them if nothing lies in between.
    fn part(&mut self, column: usize, step: usize, count: usize) {
        let tile = self.tiles.len() - 1;
        let part = Part { block: tile / 2, column: tile % 2 * TILE + column, step, count };
        match self.parts.last_mut() {
            Some(last) if last.block == part.block && last.column + last.count == part.column => last.count += count,
            _ => self.parts.push(part),
        }
    }

    /// Blocks of two tiles, the last perhaps of one, with the parts of each.
    pub(crate) fn blocks(&self) -> Vec<(&[usize], &[Part])> {
        self.tiles.chunks(2).zip(self.parts.chunk_by(|a, b| a.block == b.block)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn streams_of_a_few_steps_share_tiles() {
        let tiles = |past, inputs: &[usize]| Layout::new(past, inputs.iter().copied()).tiles;
        assert_eq!(tiles(0, &[1, 1, 1, 1]), [0]);
        assert_eq!(tiles(1, &[5, 5, 5, 5]), [0, 16]);
        assert_eq!(tiles(6, &[10, 10, 10, 10]), [0, 32]);
        // As many as each needs alone.
        assert_eq!(tiles(54, &[32 + 54, 32 + 54]), [0, 16, 96, 112]);
    }

    proptest! {
        #[test]
        fn every_step_is_one_column_over_its_inputs(past in 0..70usize, inputs in prop::collection::vec(0..150usize, 1..6)) {
            let layout = Layout::new(past, inputs.iter().copied());
            let mut end = 0;
            for (start, inputs) in layout.starts.iter().zip(&inputs) {
                prop_assert!(*start >= end, "streams overlap");
                end = start + inputs;
            }
            prop_assert!(end == layout.columns && end <= layout.width);
            let expected = layout.starts.iter().zip(&layout.steps).flat_map(|(start, steps)| *start..start + steps);
            let mut found = Vec::new();
            for (tiles, parts) in layout.blocks() {
                prop_assert!(tiles.iter().all(|tile| tile + TILE + past <= layout.width), "a tile reads too far");
                for part in parts {
                    prop_assert_eq!(part.step, found.len());
                    let columns = part.column..part.column + part.count;
                    found.extend(columns.map(|column| tiles[column / TILE] + column % TILE));
                }
            }
            prop_assert_eq!(found, expected.collect::<Vec<_>>());
        }
    }
}
