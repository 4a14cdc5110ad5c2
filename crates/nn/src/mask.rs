use burn::tensor::{Device, Tensor, TensorData};

/// Which keys a piece of queries may see.
#[derive(Debug, Clone, Default)]
pub struct MaskSpec<'a> {
    /// New tokens `T`; they are the last of the keys.
    pub queries: usize,
    /// Keys `S`, the new tokens included.
    pub keys: usize,
    /// Keys a query sees, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// Padding at the left of each row; empty for none.
    pub left_padding: &'a [usize],
}

/// The causal mask of one step, made once and used by every layer.
///
/// Long prefills are cut into blocks of queries, so that scores never exceed `H × block × S`; the biases of very long ones
/// are made when they are needed, one block at a time.
#[derive(Debug, Clone)]
pub struct Mask {
    blocks: Vec<MaskBlock>,
    spec: OwnedSpec,
    device: Device,
}

#[derive(Debug, Clone)]
pub(crate) struct MaskBlock {
    pub(crate) start: usize,
    pub(crate) queries: usize,
    /// `[B or 1, 1, 1, queries, S]`, 0 or a very low score; `None` if every query sees every key.
    pub(crate) bias: Option<Tensor<5>>,
}

#[derive(Debug, Clone)]
struct OwnedSpec {
    queries: usize,
    keys: usize,
    window: Option<usize>,
    left_padding: Vec<usize>,
}

/// Up to so many elements the biases of all blocks are kept for all layers.
const KEPT_ELEMENTS: usize = 1 << 24;

const QUERIES_PER_BLOCK: usize = 512;
/// Far below any score, yet finite, so that a row without any visible key stays a number.
const HIDDEN: f32 = -1e30;

impl Mask {
    /// Makes the mask on `device`.
    pub fn new(spec: &MaskSpec, device: &Device) -> Self {
        let MaskSpec { queries, keys, window, left_padding } = *spec;
        let spec = OwnedSpec { queries, keys, window, left_padding: left_padding.to_vec() };
        let mut mask = Self { blocks: Vec::new(), spec, device: device.clone() };
        if queries * keys * left_padding.len().max(1) <= KEPT_ELEMENTS {
            mask.blocks = mask.starts().map(|start| mask.block(start)).collect();
        }
        mask
    }

    /// New tokens.
    pub(crate) fn queries(&self) -> usize {
        self.spec.queries
    }

    /// The blocks, in order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = MaskBlock> {
        let kept = self.blocks.iter().cloned();
        kept.chain(self.starts().skip(self.blocks.len()).map(|start| self.block(start)))
    }

    fn starts(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.spec.queries).step_by(QUERIES_PER_BLOCK)
    }

    fn block(&self, start: usize) -> MaskBlock {
        let queries = QUERIES_PER_BLOCK.min(self.spec.queries - start);
        MaskBlock { start, queries, bias: bias(&self.spec, start, queries, &self.device) }
    }
}

fn bias(spec: &OwnedSpec, start: usize, queries: usize, device: &Device) -> Option<Tensor<5>> {
    let sees = |padding: usize, query: usize, key: usize| {
        let at = spec.keys - spec.queries + start + query;
        key >= padding && key <= at && spec.window.is_none_or(|window| key + window > at)
    };
    let rows = if spec.left_padding.is_empty() { &[0][..] } else { &spec.left_padding };
    let mut values = Vec::with_capacity(rows.len() * queries * spec.keys);
    for padding in rows {
        for query in 0..queries {
            values.extend((0..spec.keys).map(|key| if sees(*padding, query, key) { 0.0 } else { HIDDEN }));
        }
    }
    values.contains(&HIDDEN).then(|| {
        let data = TensorData::new(values, [rows.len(), 1, 1, queries, spec.keys]);
        Tensor::from_data(data, (device, burn::tensor::DType::F32))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(spec: &MaskSpec) -> Vec<Vec<usize>> {
        let mask = Mask::new(spec, &Device::flex());
        let mut rows = Vec::new();
        for block in mask.blocks() {
            let bias: Vec<f32> = match block.bias {
                Some(bias) => bias.into_data().try_to_vec_as().unwrap(),
                None => vec![0.0; block.queries * spec.keys],
            };
            rows.extend(
                bias.chunks(spec.keys).map(|row| (0..spec.keys).filter(|k| row[*k] == 0.0).collect::<Vec<_>>()),
            );
        }
        rows
    }

    #[test]
    fn causal_window_and_padding() {
        assert_eq!(visible(&MaskSpec { queries: 2, keys: 3, ..Default::default() }), [vec![0, 1], vec![0, 1, 2]]);
        let window = MaskSpec { queries: 3, keys: 3, window: Some(2), ..Default::default() };
        assert_eq!(visible(&window), [vec![0], vec![0, 1], vec![1, 2]]);
        let padded = MaskSpec { queries: 1, keys: 3, left_padding: &[0, 2], ..Default::default() };
        assert_eq!(visible(&padded), [vec![0, 1, 2], vec![2]]);
        assert!(
            Mask::new(&MaskSpec { queries: 1, keys: 9, ..Default::default() }, &Device::flex()).blocks[0]
                .bias
                .is_none()
        );
    }

    #[test]
    fn long_prefills_are_cut_into_blocks() {
        // The second one is too large to be kept.
        for queries in [1100, 4200] {
            let rows = visible(&MaskSpec { queries, keys: queries, ..Default::default() });
            assert!(rows.iter().enumerate().all(|(i, row)| row.len() == i + 1));
        }
    }
}
