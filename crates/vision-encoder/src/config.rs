use burn::tensor::Tensor;

/// One picture or video, cut into patches.
#[derive(Debug, Clone)]
pub struct PixelPatches {
    /// `[P, colours * frames * side * side]`, in merge-block order.
    pub patches: Tensor<2>,
    /// Patches per time step, row and column.
    pub grid: [usize; 3],
    /// Seconds from one time step to the next; 0 for a picture.
    pub seconds_per_step: f32,
}

/// LayerNorm's eps in every block and merger.
pub(crate) const EPS: f64 = 1e-6;
