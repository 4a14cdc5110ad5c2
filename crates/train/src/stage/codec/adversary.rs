use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::settings::DiscriminatorSettings;
use crate::model::{Discriminator, Judged};
use crate::optim::{AdamW, AdamWConfig};
use crate::{Error, Gradients, ParamNames, Result};

/// A discriminator with its optimiser, and the gradients of the step that is being taken.
#[derive(Debug)]
pub(super) struct Adversary {
    settings: DiscriminatorSettings,
    model: Discriminator,
    names: ParamNames,
    optimizer: AdamW,
    config: AdamWConfig,
    clip: f64,
    gathered: Mutex<Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    gradients: Gradients,
    batches: usize,
}

/// Terms of a batch.
pub(super) struct AdversaryLoss {
    /// The vocoder's term, with its weight in it.
    pub(super) generator: Tensor<1>,
    pub(super) parts: [(&'static str, f64); 3],
}

/// Name of the number of steps in the state.
const STEPS: &str = "codec_discriminator.steps";

impl Adversary {
    /// Draws a discriminator on an autodiff device.
    pub(super) fn new(
        settings: DiscriminatorSettings,
        config: AdamWConfig,
        (clip, seed): (f64, u64),
        device: &Device,
    ) -> Self {
        Self {
            model: Discriminator::fresh(settings.channels, seed, device),
            names: ParamNames::new(Discriminator::names()),
            optimizer: AdamW::new(config),
            gathered: Mutex::default(),
            settings,
            config,
            clip,
        }
    }

    /// The first step, counted from 1, that the discriminator takes part in.
    pub(super) fn begins(&self, steps: usize) -> usize {
        (self.settings.after * steps as f64).ceil() as usize + 1
    }

    /// Forgets what was gathered for a step that was not taken.
    pub(super) fn clear(&mut self) {
        *self.gathered.get_mut().unwrap_or_else(PoisonError::into_inner) = Gathered::default();
    }

    /// Judges the vocoder's waves `[B, T]` beside recordings, and gathers the discriminator's own gradients.
    pub(super) fn loss(&self, waves: &Tensor<2>, recorded: &Tensor<2>) -> AdversaryLoss {
        let made = self.model.judge(&waves.clone().detach());
        let real = self.model.judge(recorded);
        let own = real.distance_from(1.0) + made.distance_from(0.0);
        let value = |term: &Tensor<1>| f64::from(term.clone().into_scalar::<f32>());
        let own_value = value(&own);
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.gradients.add(self.names.gradients(&self.model, &mut own.backward()));
        gathered.batches += 1;
        // The vocoder's gradients go through the discriminator, not into it.
        let judge = self.model.clone().no_grad();
        let [made, real]: [Judged; 2] = [waves, recorded].map(|waves| judge.judge(waves));
        let (adversarial, features) = (made.distance_from(1.0), made.feature_distance(&real));
        let parts =
            [("discriminator", own_value), ("adversarial", value(&adversarial)), ("features", value(&features))];
        let generator = (adversarial + features * self.settings.features) * self.settings.weight;
        AdversaryLoss { generator, parts }
    }

    /// Takes the discriminator's step. One whose gradients are not finite is left out.
    pub(super) fn step(&mut self, rate: f64) {
        let Gathered { mut gradients, batches } =
            std::mem::take(self.gathered.get_mut().unwrap_or_else(PoisonError::into_inner));
        if batches == 0 {
            return;
        }
        gradients.scale(1.0 / batches as f64);
        if gradients.clip(self.clip).is_finite() {
            self.model = self.optimizer.step(self.model.clone(), &self.names, gradients, rate);
        }
    }

    /// Parameters, moments and number of steps.
    pub(super) fn state(&self) -> BTreeMap<String, Tensor<1>> {
        let mut state = self.names.values(&self.model);
        state.extend(self.optimizer.state());
        let device = state.values().next().map(Tensor::device).unwrap_or_default();
        state.insert(STEPS.into(), crate::loss::constants(vec![self.optimizer.steps() as f32], &device));
        state
    }

    /// Takes a [`Adversary::state`] from among other values.
    pub(super) fn restore(&mut self, state: &mut BTreeMap<String, Tensor<1>>) -> Result<()> {
        let missing = |name: &str| Error::Batch(format!("state of the discriminator: `{name}` is missing"));
        let steps = state.remove(STEPS).ok_or_else(|| missing(STEPS))?.into_scalar::<f32>();
        let mut values = BTreeMap::new();
        for name in Discriminator::names() {
            let value = state.remove(&name).ok_or_else(|| missing(&name))?;
            values.insert(name, value);
        }
        self.model = self.names.with_values(self.model.clone(), values)?;
        let moments: Vec<String> =
            state.keys().filter(|name| name.starts_with("codec_discriminator.")).cloned().collect();
        let moments = moments.into_iter().filter_map(|name| state.remove_entry(&name)).collect();
        self.optimizer = AdamW::resume(self.config, steps as i32, moments)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn waves(frequency: f32, device: &Device) -> Tensor<2> {
        let samples: Vec<f32> = (0..2 * 1500).map(|at| 0.3 * (at as f32 * frequency).sin()).collect();
        Tensor::from_data(TensorData::new(samples, [2, 1500]), device)
    }

    fn adversary(device: &Device) -> Adversary {
        let settings = DiscriminatorSettings { channels: 3, ..DiscriminatorSettings::default() };
        Adversary::new(settings, AdamWConfig::default(), (1.0, 7), device)
    }

    #[test]
    fn it_learns_to_tell_waves_apart_and_a_vocoder_gets_gradients_of_it() {
        let device = Device::flex().autodiff();
        let (mut adversary, recorded) = (adversary(&device), waves(0.3, &device));
        let mut first = None;
        for _ in 0..15 {
            adversary.clear();
            let made = waves(0.05, &device).require_grad();
            let AdversaryLoss { generator, parts } = adversary.loss(&made, &recorded);
            first.get_or_insert(parts.map(|(_, value)| value));
            let before = nn::to_f32_vec(&adversary.state()["codec_discriminator.512.0.weight"]);
            let mut graph = generator.backward();
            let gradient = nn::to_f32_vec(&made.grad(&graph).unwrap());
            assert!(gradient.iter().all(|x| x.is_finite()) && gradient.iter().any(|x| *x != 0.0));
            // The vocoder's loss leaves the discriminator alone.
            let gradients = adversary.names.gradients(&adversary.model, &mut graph);
            assert!(gradients.0.values().all(Option::is_none), "{gradients:?}");
            adversary.step(1e-2);
            assert_ne!(nn::to_f32_vec(&adversary.state()["codec_discriminator.512.0.weight"]), before);
        }
        let last = adversary.loss(&waves(0.05, &device), &recorded).parts[0].1;
        // Verdicts begin near 0: recordings are 1 from what they should be, the vocoder's waves are right.
        let [own, adversarial, _] = first.unwrap();
        assert!((own - 1.0).abs() < 0.5 && (adversarial - 1.0).abs() < 0.5, "{own} and {adversarial}");
        assert!(last < 0.7 * own, "{own} → {last}");
    }

    #[test]
    fn a_restored_one_goes_on_as_the_first() {
        let device = Device::flex().autodiff();
        let (made, recorded) = (waves(0.05, &device), waves(0.3, &device));
        let step = |adversary: &mut Adversary| {
            adversary.loss(&made, &recorded);
            adversary.step(1e-2);
        };
        let mut first = adversary(&device);
        step(&mut first);
        let (mut second, mut state) = (adversary(&device), first.state());
        second.restore(&mut state).unwrap();
        assert!(state.is_empty(), "{:?}", state.keys());
        [&mut first, &mut second].into_iter().for_each(step);
        let [a, b] =
            [first, second].map(|one| one.state().into_iter().map(|(name, x)| (name, nn::to_f32_vec(&x))).collect());
        let [a, b]: [BTreeMap<String, Vec<f32>>; 2] = [a, b];
        assert_eq!(a, b);
        assert_eq!(a[STEPS], [2.0]);
        let error = adversary(&device).restore(&mut BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains(STEPS), "{error}");
    }

    #[test]
    fn it_begins_behind_a_part_of_the_steps() {
        let adversary = adversary(&Device::flex().autodiff());
        assert_eq!([8, 7, 100].map(|steps| adversary.begins(steps)), [5, 5, 51]);
    }
}
