//! Rows of the device engine, of which some are computed only when something reads them.

use std::sync::OnceLock;

use burn::tensor::{Int, Tensor};
use gpu_kernels::PreNorm;

/// Rows `[N, D]` on a device.
///
/// A norm of a few rows on a GPU is remembered and left to the products that follow it, which apply it within their own launch; a
/// look-up in a table is left to a sum of embeddings, the bias of a product to an encoder's attention, and a sum to the norm behind it.
/// What else reads the rows computes them by itself, once. Models need not know:
/// they read the same numbers either way, up to rounding.
#[derive(Debug)]
pub struct DeviceRows {
    made: OnceLock<Tensor<2>>,
    pending: Option<Pending>,
}

/// Rows that are not computed yet.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // One at a time.
enum Pending {
    Norm(ToNorm),
    Embed(ToEmbed),
    Bias(ToBias),
    Sum(ToSum),
}

/// Rows `[N, D]` and the bias `[D]` that is to be added to each.
#[derive(Debug, Clone)]
pub(super) struct ToBias {
    pub(super) x: Tensor<2>,
    pub(super) bias: Tensor<1>,
}

/// `residual + (x + bias)` that is to be added up.
#[derive(Debug, Clone)]
pub(super) struct ToSum {
    pub(super) residual: Tensor<2>,
    pub(super) biased: ToBias,
}

/// Rows `[N, D]` and the norm that is to be applied.
#[derive(Debug, Clone)]
pub(super) struct ToNorm {
    pub(super) x: Tensor<2>,
    pub(super) norm: PreNorm,
}

/// Ids `[N]` of rows of a table `[V, D]`.
#[derive(Debug, Clone)]
pub(super) struct ToEmbed {
    pub(super) table: Tensor<2>,
    pub(super) ids: Tensor<1, Int>,
}

impl From<Tensor<2>> for DeviceRows {
    fn from(rows: Tensor<2>) -> Self {
        Self { made: OnceLock::from(rows), pending: None }
    }
}

impl DeviceRows {
    /// Rows that are to be normalised.
    pub(super) fn to_norm(x: Tensor<2>, norm: PreNorm) -> Self {
        Self { made: OnceLock::new(), pending: Some(Pending::Norm(ToNorm { x, norm })) }
    }

    /// Rows that are to be looked up.
    pub(super) fn to_embed(table: Tensor<2>, ids: Tensor<1, Int>) -> Self {
        Self { made: OnceLock::new(), pending: Some(Pending::Embed(ToEmbed { table, ids })) }
    }

    /// Rows to which a bias is to be added.
    pub(super) fn to_bias(x: Tensor<2>, bias: Tensor<1>) -> Self {
        Self { made: OnceLock::new(), pending: Some(Pending::Bias(ToBias { x, bias })) }
    }

    /// Rows that are to be added up.
    pub(super) fn to_sum(residual: Tensor<2>, biased: ToBias) -> Self {
        Self { made: OnceLock::new(), pending: Some(Pending::Sum(ToSum { residual, biased })) }
    }

    /// The rows `[N, D]` as a tensor.
    pub fn tensor(&self) -> Tensor<2> {
        self.read().clone()
    }

    /// The rows `[N, D]` as a tensor.
    pub fn into_tensor(self) -> Tensor<2> {
        self.read();
        self.made.into_inner().expect("the rows were read")
    }

    fn read(&self) -> &Tensor<2> {
        self.made.get_or_init(|| match self.pending.clone().expect("rows are made or pending") {
            Pending::Norm(ToNorm { x, norm }) => norm.apply(x),
            Pending::Embed(ToEmbed { table, ids }) => table.select(0, ids),
            Pending::Bias(ToBias { x, bias }) => gpu_kernels::add_bias(x, bias),
            Pending::Sum(ToSum { residual, biased: ToBias { x, bias } }) => {
                gpu_kernels::add_biased(residual, x, bias, None)
            }
        })
    }

    /// `[N, D]`.
    pub(super) fn dims(&self) -> [usize; 2] {
        match (self.made.get(), &self.pending) {
            (None, Some(Pending::Norm(ToNorm { x, .. }) | Pending::Bias(ToBias { x, .. }))) => x.dims(),
            (None, Some(Pending::Sum(ToSum { residual, .. }))) => residual.dims(),
            (None, Some(Pending::Embed(ToEmbed { table, ids }))) => [ids.dims()[0], table.dims()[1]],
            _ => self.read().dims(),
        }
    }

    /// The norm that is left to apply, if one is.
    pub(super) fn pending_norm(&self) -> Option<&ToNorm> {
        match (self.made.get(), &self.pending) {
            (None, Some(Pending::Norm(norm))) => Some(norm),
            _ => None,
        }
    }

    /// The look-up that is left to do, if one is.
    pub(super) fn pending_embed(&self) -> Option<&ToEmbed> {
        match (self.made.get(), &self.pending) {
            (None, Some(Pending::Embed(embed))) => Some(embed),
            _ => None,
        }
    }

    /// The bias that is left to add, if one is.
    pub(super) fn pending_bias(&self) -> Option<&ToBias> {
        match (self.made.get(), &self.pending) {
            (None, Some(Pending::Bias(bias))) => Some(bias),
            _ => None,
        }
    }

    /// The sum that is left to add up, if one is.
    pub(super) fn pending_sum(&self) -> Option<&ToSum> {
        match (self.made.get(), &self.pending) {
            (None, Some(Pending::Sum(sum))) => Some(sum),
            _ => None,
        }
    }

    /// Keeps rows that were computed beside something else.
    pub(super) fn settle(&self, rows: Tensor<2>) {
        // Rows that were already computed are the same.
        let _ = self.made.set(rows);
    }

    /// Chooses among the rows; a norm that is left to apply stays so.
    pub(super) fn chosen(&self, choose: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        match self.pending_norm() {
            Some(ToNorm { x, norm }) => Self::to_norm(choose(x.clone()), norm.clone()),
            None => choose(self.tensor()).into(),
        }
    }
}
