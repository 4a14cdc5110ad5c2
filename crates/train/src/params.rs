//! Parameters of a model by their names on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Device, Gradients as Graph, Tensor};
use checkpoint::param_id;

use crate::{Error, Patterns, Result};

/// Names on disk by the ids of parameters.
#[derive(Debug, Clone, Default)]
pub struct ParamNames(HashMap<ParamId, String>);

impl ParamNames {
    /// Takes the names of all tensors a model may be loaded from.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| (param_id(&name), name)).collect())
    }

    /// The name of a parameter, if it is one of these.
    pub fn get(&self, id: ParamId) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }

    /// Freezes all parameters but those that the patterns name; returns the names of the trained ones.
    ///
    /// # Errors
    /// [`Error::NothingTrained`] if no parameter is left to train.
    pub fn freeze<M: Module>(&self, module: M, trained: &Patterns) -> Result<(M, Vec<String>)> {
        let mut freeze = Freeze { names: self, trained, left: Vec::new() };
        let module = module.map(&mut freeze);
        match freeze.left.is_empty() {
            true => Err(Error::NothingTrained(trained.to_string())),
            false => Ok((module, freeze.left)),
        }
    }

    /// Names of the parameters that are trained.
    pub fn trained<M: Module>(&self, module: &M) -> BTreeSet<String> {
        let mut trained = Trained { names: self, found: BTreeSet::new() };
        module.visit(&mut trained);
        trained.found
    }

    /// Names of the trained parameters that are computed with in fewer bits than f32.
    pub(crate) fn narrow<M: Module>(&self, module: &M) -> BTreeSet<String> {
        let mut narrow = Narrow { names: self, found: BTreeSet::new() };
        module.visit(&mut narrow);
        narrow.found
    }

    /// Takes the gradients of a backward pass, by name, in f32. A trained parameter that the loss does not depend on has `None`.
    pub fn gradients<M: Module>(&self, module: &M, graph: &mut Graph) -> Gradients {
        let mut collect = Collect { names: self, graph, found: BTreeMap::new() };
        module.visit(&mut collect);
        Gradients(collect.found)
    }

    /// A copy whose trained parameters have the same values, yet gradients of their own.
    ///
    /// burn keeps everything computed from one parameter in one graph, and two threads that use the same graph can deadlock.
    pub(crate) fn replica<M: Module>(module: &M) -> M {
        module.clone().map(&mut Replica)
    }

    /// Sets parameters to flattened values.
    ///
    /// # Errors
    /// [`Error::Batch`] naming a parameter that the module lacks or that has another number of elements.
    pub fn with_values<M: Module>(&self, module: M, values: BTreeMap<String, Tensor<1>>) -> Result<M> {
        self.set(module, values, &mut |values| values)
    }

    /// Sets the parameters that another module trains to copies of its own: `copy` is given them one after another, flattened, in the
    /// number type they are held in, each when the one before it is set.
    ///
    /// # Errors
    /// Those of [`ParamNames::with_values`].
    pub(crate) fn copy_trained<M: Module>(
        &self,
        source: &M,
        target: M,
        copy: &mut dyn FnMut(Tensor<1>) -> Tensor<1>,
    ) -> Result<M> {
        let trained = self.trained(source);
        let held = self.collect(source, &|name| trained.contains(name), |value| value);
        self.set(target, held, copy)
    }

    fn set<M: Module>(
        &self,
        module: M,
        values: BTreeMap<String, Tensor<1>>,
        copy: &mut dyn FnMut(Tensor<1>) -> Tensor<1>,
    ) -> Result<M> {
        let mut set = Set { names: self, values, copy, misfit: None };
        let module = module.map(&mut set);
        let unused = set.values.into_keys().next();
        match set.misfit.or_else(|| unused.map(|name| format!("the model has no parameter `{name}`"))) {
            Some(reason) => Err(Error::Batch(reason)),
            None => Ok(module),
        }
    }

    /// The values of the trained parameters of a module, by name, flattened, in f32.
    pub fn trained_values<M: Module>(&self, module: &M) -> BTreeMap<String, Tensor<1>> {
        let trained = self.trained(module);
        self.values_of(module, &|name| trained.contains(name))
    }

    /// The values of all parameters of a module, by name, flattened, in f32.
    pub fn values<M: Module>(&self, module: &M) -> BTreeMap<String, Tensor<1>> {
        self.values_of(module, &|_| true)
    }

    /// [`ParamNames::values`] of some parameters: what is held in fewer bits is copied.
    pub fn values_of<M: Module>(&self, module: &M, wanted: &dyn Fn(&str) -> bool) -> BTreeMap<String, Tensor<1>> {
        self.collect(module, wanted, |value| value.cast(DType::F32))
    }

    /// The flattened values of some parameters, each as `convert` makes it.
    fn collect<M: Module>(
        &self,
        module: &M,
        wanted: &dyn Fn(&str) -> bool,
        convert: fn(Tensor<1>) -> Tensor<1>,
    ) -> BTreeMap<String, Tensor<1>> {
        let mut values = Values { names: self, wanted, convert, found: BTreeMap::new() };
        module.visit(&mut values);
        values.found
    }
}

/// Gradients by name, each flattened; `None` where the loss does not depend on the parameter.
#[derive(Debug, Clone, Default)]
pub struct Gradients(pub BTreeMap<String, Option<Tensor<1>>>);

impl Gradients {
    /// The norm over all gradients together.
    pub fn norm(&self) -> f64 {
        let squares: Vec<Tensor<1>> = self.0.values().flatten().map(|g| g.clone().square().sum()).collect();
        if squares.is_empty() {
            return 0.0;
        }
        let squares = nn::to_f32_vec(&Tensor::cat(squares, 0));
        squares.into_iter().map(f64::from).sum::<f64>().sqrt()
    }

    /// Scales all gradients so that their common norm is at most `limit`; returns the norm before (PyTorch's `clip_grad_norm_`).
    pub fn clip(&mut self, limit: f64) -> f64 {
        let norm = self.norm();
        let scale = limit / (norm + 1e-6);
        if scale < 1.0 {
            self.scale(scale);
        }
        norm
    }

    /// Multiplies all gradients by a number.
    pub fn scale(&mut self, by: f64) {
        self.0.values_mut().for_each(|gradient| *gradient = gradient.take().map(|g| g * by));
    }

    /// Moves all gradients to a device.
    pub(crate) fn move_to(&mut self, device: &Device) {
        self.0.values_mut().for_each(|gradient| *gradient = gradient.take().map(|g| g.to_device(device)));
    }

    /// Adds the gradients of another backward pass.
    pub fn add(&mut self, others: Gradients) {
        for (name, other) in others.0 {
            let gradient = self.0.entry(name).or_default();
            *gradient = match (gradient.take(), other) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
        }
    }
}

struct Freeze<'a> {
    names: &'a ParamNames,
    trained: &'a Patterns,
    left: Vec<String>,
}

impl ModuleMapper for Freeze<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.names.get(param.id).filter(|name| self.trained.matches(name)).map(str::to_owned);
        let trained = name.is_some();
        self.left.extend(name);
        param.set_require_grad(trained)
    }
}

struct Replica;

impl ModuleMapper for Replica {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.val().is_require_grad() {
            return param;
        }
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, Tensor::from_inner(value.inner()).require_grad(), mapper)
    }
}

struct Set<'a> {
    names: &'a ParamNames,
    values: BTreeMap<String, Tensor<1>>,
    copy: &'a mut dyn FnMut(Tensor<1>) -> Tensor<1>,
    misfit: Option<String>,
}

impl ModuleMapper for Set<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((name, values)) = self.names.get(param.id).and_then(|name| self.values.remove_entry(name)) else {
            return param;
        };
        let (found, shape) = (values.dims()[0], param.dims());
        if found != shape.iter().product::<usize>() {
            self.misfit = Some(format!("{found} values for the parameter `{name}` {shape:?}"));
            return param;
        }
        let (id, old, mapper) = param.consume();
        let (dtype, trained) = (old.dtype(), old.is_require_grad());
        // Frees the old values before the new ones are copied.
        drop(old);
        let values = (self.copy)(values).cast(dtype).reshape(shape);
        Param::from_mapped_value(id, Tensor::from_inner(values).set_require_grad(trained), mapper)
    }
}

struct Collect<'a> {
    names: &'a ParamNames,
    graph: &'a mut Graph,
    found: BTreeMap<String, Option<Tensor<1>>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if let Some(name) = self.names.get(param.id).filter(|_| value.is_require_grad()) {
            let gradient = value.grad_remove(self.graph);
            let gradient = gradient.map(|gradient| gradient.flatten(0, D - 1).cast(DType::F32));
            self.found.insert(name.to_owned(), gradient);
        }
    }
}

struct Trained<'a> {
    names: &'a ParamNames,
    found: BTreeSet<String>,
}

impl ModuleVisitor for Trained<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.names.get(param.id).filter(|_| param.val().is_require_grad());
        self.found.extend(name.map(str::to_owned));
    }
}

struct Narrow<'a> {
    names: &'a ParamNames,
    found: BTreeSet<String>,
}

impl ModuleVisitor for Narrow<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() && value.dtype() != DType::F32 {
            self.found.extend(self.names.get(param.id).map(str::to_owned));
        }
    }
}

struct Values<'a> {
    names: &'a ParamNames,
    wanted: &'a dyn Fn(&str) -> bool,
    convert: fn(Tensor<1>) -> Tensor<1>,
    found: BTreeMap<String, Tensor<1>>,
}

impl ModuleVisitor for Values<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(name) = self.names.get(param.id).filter(|name| (self.wanted)(name)) {
            self.found.insert(name.to_owned(), (self.convert)(param.val().inner().flatten(0, D - 1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};

    use super::*;

    /// A layer in bf16, with all values alike.
    fn layer(value: f32) -> Linear {
        let device = Device::flex().autodiff();
        let mut layer = LinearConfig::new(2, 3).init(&device);
        layer.weight = Param::initialized(
            param_id("weight"),
            Tensor::<2>::full([2, 3], value, (&device, DType::BF16)).require_grad(),
        );
        let bias = Tensor::<1>::full([3], value, (&device, DType::BF16)).require_grad();
        layer.bias = Some(Param::initialized(param_id("bias"), bias));
        layer
    }

    #[test]
    fn parameters_are_copied_in_the_number_type_they_are_held_in() {
        let names = ParamNames::new(["weight", "bias"].map(str::to_owned));
        let mut copied = Vec::new();
        let copy = &mut |values: Tensor<1>| {
            copied.push((values.dtype(), values.dims()[0]));
            values
        };
        let target = names.copy_trained(&layer(0.75), layer(0.5), copy).unwrap();
        copied.sort_unstable_by_key(|(_, values)| *values);
        assert_eq!(copied, [(DType::BF16, 3), (DType::BF16, 6)]);
        assert_eq!(target.weight.val().dtype(), DType::BF16);
        assert!(names.values(&target).values().all(|values| nn::to_f32_vec(values).iter().all(|value| *value == 0.75)));
        assert_eq!(names.trained(&target).len(), 2);
    }
}
