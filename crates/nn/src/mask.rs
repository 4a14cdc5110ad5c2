use burn::tensor::{Device, Tensor, TensorData};

/// Which keys the new tokens of one run may see.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MaskSpec {
    /// New tokens `T`; they are the last of the keys.
    pub(crate) queries: usize,
    /// Keys `S`, the new tokens included.
    pub(crate) keys: usize,
    /// Number of keys a query sees, itself included; `None` for all before it.
    pub(crate) window: Option<usize>,
}

/// The causal mask of one step, made once and used by every layer.
///
/// Long prefills are cut into blocks of queries, so that scores never exceed `H × block × S`; the biases of very long ones are made
/// when needed, one block at a time.
#[derive(Debug, Clone)]
pub(crate) struct Mask {
    blocks: Vec<MaskBlock>,
    spec: MaskSpec,
    device: Device,
}

#[derive(Debug, Clone)]
pub(crate) struct MaskBlock {
    pub(crate) start: usize,
    pub(crate) queries: usize,
    /// `[1, 1, 1, queries, S]`, 0 or a very low score; `None` if every query sees every key.
    pub(crate) bias: Option<Tensor<5>>,
}

/// Most elements of a mask whose blocks are all kept for all layers.
const KEPT_ELEMENTS: usize = 1 << 24;

const QUERIES_PER_BLOCK: usize = 512;
/// Far below any score, yet finite, so that a row without any visible key stays a number.
const HIDDEN: f32 = -1e30;

impl Mask {
    /// Makes the mask on `device`.
    pub(crate) fn new(spec: &MaskSpec, device: &Device) -> Self {
        let mut mask = Self { blocks: Vec::new(), spec: *spec, device: device.clone() };
        if spec.queries * spec.keys <= KEPT_ELEMENTS {
            mask.blocks = mask.starts().map(|start| mask.block(start)).collect();
        }
        mask
    }

    /// The mask of queries that see every key.
    pub(crate) fn open(queries: usize, keys: usize, device: &Device) -> Self {
        let mut mask =
            Self { blocks: Vec::new(), spec: MaskSpec { queries, keys, window: None }, device: device.clone() };
        let block = |start| MaskBlock { start, queries: QUERIES_PER_BLOCK.min(queries - start), bias: None };
        mask.blocks = mask.starts().map(block).collect();
        mask
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

fn bias(spec: &MaskSpec, start: usize, queries: usize, device: &Device) -> Option<Tensor<5>> {
    let sees = |query: usize, key: usize| {
        let at = spec.keys - spec.queries + start + query;
        key <= at && spec.window.is_none_or(|window| key + window > at)
    };
    let of_query = |query| (0..spec.keys).map(move |key| if sees(query, key) { 0.0 } else { HIDDEN });
    let values: Vec<f32> = (0..queries).flat_map(of_query).collect();
    values.contains(&HIDDEN).then(|| {
        let data = TensorData::new(values, [1, 1, 1, queries, spec.keys]);
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
    fn causal_and_window() {
        assert_eq!(visible(&MaskSpec { queries: 2, keys: 3, ..Default::default() }), [vec![0, 1], vec![0, 1, 2]]);
        let window = MaskSpec { queries: 3, keys: 3, window: Some(2) };
        assert_eq!(visible(&window), [vec![0], vec![0, 1], vec![1, 2]]);
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
