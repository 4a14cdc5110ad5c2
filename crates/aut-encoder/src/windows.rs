use std::ops::Range;

/// One attention window: chunks of one item that attend to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) item: usize,
    /// Mel frames of each chunk.
    pub(crate) chunks: Vec<Range<usize>>,
}

/// Windows of each item, in order; none joins two items.
pub(crate) fn windows(frames: &[usize], chunk: usize, window: usize) -> Vec<Window> {
    let of_item = |(item, frames): (usize, &usize)| {
        let chunks: Vec<_> = (0..*frames).step_by(chunk).map(|start| start..(start + chunk).min(*frames)).collect();
        chunks.chunks(window).map(|chunks| Window { item, chunks: chunks.to_vec() }).collect::<Vec<_>>()
    };
    frames.iter().enumerate().flat_map(of_item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_frame_is_in_one_chunk_and_full_chunks_come_first(frames in prop::collection::vec(1usize..2000, 1..5)) {
            let windows = windows(&frames, 100, 8);
            for (item, frames) in frames.iter().enumerate() {
                let chunks = windows.iter().filter(|w| w.item == item).flat_map(|w| w.chunks.clone());
                let mut end = 0;
                for range in chunks {
                    prop_assert_eq!(range.start, end);
                    prop_assert!(range.len() == 100 || range.end == *frames);
                    end = range.end;
                }
                prop_assert_eq!(end, *frames);
            }
            prop_assert!(windows.iter().all(|w| w.chunks.len() <= 8));
        }
    }
}
