//! Finds the tensors of a checkpoint that an adapter's tensors belong to.

use super::change::Product;
use super::view::View;
use super::{Adapter, Factors, Named};
use crate::packed_layer::WORDS;
use crate::{Checkpoint, CheckpointError};

/// The matrices of an expert, as transformers fuses them: gate and up above each other, and down.
const GATE_UP: [&str; 2] = ["gate_proj", "up_proj"];
const DOWN: [&str; 1] = ["down_proj"];
/// What PEFT puts behind the name of a module two of whose parameters are adapted.
const NESTED: &str = ".base_layer";

/// A tensor of the checkpoint and what is added to it.
pub(super) type Found = (String, Product);

impl Checkpoint {
    /// The name on disk that a tensor which replaces one has.
    pub(super) fn replaced(
        &self,
        adapter: &Adapter,
        (name, whole): (&str, &Named),
        names: &dyn Fn(&str) -> Vec<String>,
    ) -> Result<String, CheckpointError> {
        let candidates = names(name);
        let modules: Vec<&str> = candidates.iter().filter_map(|name| name.strip_suffix(".weight")).collect();
        let Some(found) = candidates.iter().find(|name| self.tensors.contains_key(*name)) else {
            return Err(self.unknown(adapter, &whole.key, &candidates, &modules));
        };
        let shape = &self.tensors[found].shape;
        match *shape == whole.tensor.shape {
            true => Ok(found.clone()),
            false => {
                let reason = format!("{:?} does not fit `{found}`, expected {shape:?}", whole.tensor.shape);
                Err(adapter.wrong(&whole.key, reason))
            }
        }
    }

    /// The products that a module's factors add to tensors on disk.
    pub(super) fn adapted(
        &self,
        adapter: &Adapter,
        (module, factors): (&str, &Factors),
        names: &dyn Fn(&str) -> Vec<String>,
    ) -> Result<Vec<Found>, CheckpointError> {
        let candidates = names(module);
        let found = candidates.iter().map(|name| format!("{name}.weight"));
        if let Some(name) = found.into_iter().find(|name| self.tensors.contains_key(name)) {
            return Ok(vec![self.whole_matrix(adapter, (module, factors), name)?]);
        }
        let bare = || candidates.iter().map(|name| bare(name));
        if let Some(experts) = bare().find(|name| !factors.is_table && self.count(name) > 0) {
            return self.experts(adapter, (module, factors), experts);
        }
        let packed = bare().map(|name| format!("{name}.0.{}", DOWN[0]));
        let modules: Vec<String> = bare().map(str::to_owned).chain(packed).collect();
        let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
        Err(self.unknown(adapter, &factors.a.key, &candidates, &modules))
    }

    /// The product of a module with one matrix, or one kernel of a convolution.
    fn whole_matrix(
        &self,
        adapter: &Adapter,
        (module, factors): (&str, &Factors),
        name: String,
    ) -> Result<Found, CheckpointError> {
        let Factors { a, b, is_table } = factors;
        let shape = &self.tensors[&name].shape;
        let ([rank, inputs], [outputs, columns]) = (flat(a), flat(b));
        let fits = match is_table {
            true => *shape == [inputs, outputs],
            false => shape.first() == Some(&outputs) && a.tensor.shape.get(1..) == shape.get(1..),
        };
        if !fits || rank != columns {
            return Err(self.misfit(adapter, factors, &name));
        }
        check_rank(adapter, a, module, rank)?;
        let (a, b) = (View::of(a, [rank, inputs]), View::of(b, [outputs, rank]));
        let (left, right) = if *is_table { (a.transposed(), b.transposed()) } else { (b, a) };
        Ok((name, Product { left, right, scale: adapter.settings.scale(module) }))
    }

    /// The products of a layer whose experts transformers keeps in two tensors: the factors of all experts lie in one tensor each, `A`
    /// `[E · r, in]` and `B` `[out, r · E]`.
    fn experts(
        &self,
        adapter: &Adapter,
        (module, factors): (&str, &Factors),
        experts: &str,
    ) -> Result<Vec<Found>, CheckpointError> {
        let Factors { a, b, .. } = factors;
        let name = |expert: usize, part: &str| format!("{experts}.{expert}.{part}.weight");
        let ([rows, inputs], [outputs, columns]) = (flat(a), flat(b));
        let parts =
            self.fused(experts, [outputs, inputs]).ok_or_else(|| self.misfit(adapter, factors, &name(0, DOWN[0])))?;
        let (count, each) = (self.count(experts), outputs / parts.len());
        if rows != columns || rows % count != 0 {
            return Err(self.misfit(adapter, factors, &name(count - 1, parts[0])));
        }
        let rank = rows / count;
        let parameter = format!("{}.{}", bare(module), if parts.len() > 1 { "gate_up_proj" } else { DOWN[0] });
        check_rank(adapter, a, &parameter, rank)?;
        let scale = adapter.settings.scale(&parameter);
        let all = (0..count).flat_map(|expert| (0..parts.len()).map(move |part| (expert, part)));
        let product = |(expert, part): (usize, usize)| {
            let name = name(expert, parts[part]);
            if self.tensors.get(&name).is_none_or(|tensor| tensor.shape != [each, inputs]) {
                return Err(self.misfit(adapter, factors, &name));
            }
            let left = View::of(b, [outputs, columns]).rows(part * each, each).columns(expert, count);
            let right = View::of(a, [rows, inputs]).rows(expert * rank, rank);
            Ok((name, Product { left, right, scale }))
        };
        all.map(product).collect()
    }

    /// The matrices of an expert that transformers fuses into one of this shape.
    fn fused(&self, experts: &str, [outputs, inputs]: [usize; 2]) -> Option<&'static [&'static str]> {
        let all: [&'static [&'static str]; 2] = [&GATE_UP, &DOWN];
        all.into_iter().find(|parts| {
            let first = self.tensors.get(&format!("{experts}.0.{}.weight", parts[0]));
            first.is_some_and(|first| first.shape == [outputs / parts.len(), inputs] && outputs % parts.len() == 0)
        })
    }

    /// The number of experts of a layer on disk.
    fn count(&self, experts: &str) -> usize {
        let is_there = |expert: &usize| self.tensors.contains_key(&format!("{experts}.{expert}.{}.weight", DOWN[0]));
        (0..).take_while(is_there).count()
    }

    fn misfit(&self, adapter: &Adapter, factors: &Factors, name: &str) -> CheckpointError {
        let Factors { a, b, .. } = factors;
        let shape = self.tensors.get(name).map(|tensor| tensor.shape.clone()).unwrap_or_default();
        let (a_shape, b_shape) = (&a.tensor.shape, &b.tensor.shape);
        let reason = format!("{a_shape:?} and `{}` {b_shape:?} do not fit `{name}` {shape:?}", b.key);
        adapter.wrong(&a.key, reason)
    }

    fn unknown(&self, adapter: &Adapter, key: &str, candidates: &[String], modules: &[&str]) -> CheckpointError {
        let directory = self.directory().display();
        let packed = modules.iter().find(|module| self.tensors.contains_key(&format!("{module}{WORDS}")));
        let reason = match packed {
            Some(module) => format!(
                "belongs to `{module}`, which is quantised in {directory}: merge the adapter into the checkpoint it was \
                 trained on (`weights-tools merge`) and quantise the result"
            ),
            None => format!("belongs to no tensor of {directory}: there is no `{}`", candidates.join("` and no `")),
        };
        adapter.wrong(key, reason)
    }
}

/// The name of a module without what PEFT puts behind it.
fn bare(module: &str) -> &str {
    module.strip_suffix(NESTED).unwrap_or(module)
}

fn check_rank(adapter: &Adapter, a: &Named, module: &str, rank: usize) -> Result<(), CheckpointError> {
    let expected = adapter.settings.rank(module);
    match rank == expected {
        true => Ok(()),
        false => {
            let config = adapter.settings.path.display();
            let reason = format!("has rank {rank}, but `r` and `rank_pattern` in {config} say {expected}");
            Err(adapter.wrong(&a.key, reason))
        }
    }
}

/// The sizes of a tensor as a matrix whose columns are all axes but the first.
fn flat(named: &Named) -> [usize; 2] {
    let shape = &named.tensor.shape;
    [shape.first().copied().unwrap_or(1), shape.iter().skip(1).product()]
}
