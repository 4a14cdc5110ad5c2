//! The change that an adapter makes to one tensor.

use std::sync::Arc;

use cpu_kernels::{LinearShape, Precision, Weight, linear_to};

use super::view::View;
use super::{Adapter, Named};

/// What one adapter does to one tensor.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(super) adapter: Arc<Adapter>,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Takes the place of the tensor.
    Replace(Named),
    /// Is added to it.
    Add(Product),
}

/// `scale · left · right`.
#[derive(Debug, Clone)]
pub(super) struct Product {
    /// `[out, r]`.
    pub(super) left: View,
    /// `[r, in]`.
    pub(super) right: View,
    pub(super) scale: f32,
}

impl Change {
    pub(super) fn key(&self) -> &str {
        match &self.kind {
            Kind::Replace(whole) => &whole.key,
            Kind::Add(product) => &product.right.tensor.key,
        }
    }

    pub(super) fn replacement(&self) -> Option<(&Adapter, &Named)> {
        match &self.kind {
            Kind::Replace(whole) => Some((&self.adapter, whole)),
            Kind::Add(_) => None,
        }
    }

    pub(super) fn ready(&self) -> Option<Ready> {
        let Kind::Add(Product { left, right, scale }) = &self.kind else { return None };
        let mut scaled = left.values(&self.adapter);
        scaled.iter_mut().for_each(|value| *value *= scale);
        let right = right.clone().transposed().values(&self.adapter);
        Some(Ready { left: scaled, right, rank: left.shape[1] })
    }
}

/// The factors of a product as the kernels take them.
pub(super) struct Ready {
    /// `[out, r]`, scaled.
    left: Vec<f32>,
    /// `[in, r]`.
    right: Vec<f32>,
    rank: usize,
}

impl Ready {
    /// Adds the product's rows from `row` on to `values`, rows of `width`.
    pub(super) fn add(&self, values: &mut [f32], row: usize, width: usize) {
        let (rows, input) = (values.len() / width, self.rank);
        let mut delta = vec![0.0; values.len()];
        let shape = LinearShape { rows, input, output: width };
        let left = &self.left[row * input..][..rows * input];
        linear_to(left, Weight::F32(&self.right), None, shape, Precision::F32, &mut delta);
        values.iter_mut().zip(&delta).for_each(|(value, delta)| *value += delta);
    }
}
