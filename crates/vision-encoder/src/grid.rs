/// Row and column of each patch of one frame, in merge-block order.
pub(crate) fn patch_places(height: usize, width: usize, merge: usize) -> Vec<[usize; 2]> {
    let mut places = Vec::with_capacity(height * width);
    for y in (0..height).step_by(merge) {
        for x in (0..width).step_by(merge) {
            for row in y..y + merge {
                places.extend((x..x + merge).map(|column| [row, column]));
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_patches_are_contiguous() {
        let places = patch_places(2, 4, 2);
        assert_eq!(places, [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]);
    }
}
