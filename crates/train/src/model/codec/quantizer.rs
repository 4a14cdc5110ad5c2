use std::collections::BTreeMap;

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor};
use nn::{DeviceEngine, Engine};
use omni_core::Dtype;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::config::CodecConfig;
use crate::loss::indices;
use crate::{Error, Result};

/// Residual vector quantiser: each codebook quantises what the ones before it left. Its vectors are moving averages of the latents that
/// chose them, not parameters, and have no gradients.
#[derive(Debug, Clone)]
pub(crate) struct ResidualQuantizer {
    books: Vec<Codebook>,
}

#[derive(Debug, Clone)]
struct Codebook {
    /// `[K, D]`: `sums / usage`.
    vectors: Tensor<2>,
    /// `[K]`: moving average of how many latents of a step chose each vector.
    usage: Tensor<1>,
    /// `[K, D]`: moving average of their sum.
    sums: Tensor<2>,
}

/// What a quantiser chose for latents.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// Ids of the chosen vectors `[N]`, one tensor per codebook.
    ids: Vec<Tensor<1, Int>>,
    /// What was left for each codebook, `[N, D]`.
    residuals: Vec<Tensor<2>>,
    /// `[N, D]`: the sum of the chosen vectors, up to and with each codebook.
    pub(crate) sums: Vec<Tensor<2>>,
}

/// How codebooks follow the latents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Learning {
    /// Part of the averages that a step keeps.
    pub(crate) decay: f64,
    /// Part of the mean usage below which a vector is drawn anew.
    pub(crate) dead_below: f64,
}

/// The usage that a vector begins with, which also counts its first value.
const FIRST_USAGE: f64 = 1.0;
/// Usage of a vector that was drawn anew, in parts of the mean.
const REDRAWN_USAGE: f64 = 0.4;
const K_MEANS_STEPS: usize = 12;
/// Keeps the quotient of averages finite.
const LEAST_USAGE: f64 = 1e-4;

impl Choice {
    /// Codes `[N, Q]`.
    pub(crate) fn codes(&self) -> Vec<Vec<u32>> {
        let engine = DeviceEngine::new(&self.ids[0].device(), Dtype::F32);
        let (all, frames) = (engine.read_ids(&self.ids), self.ids[0].dims()[0]);
        (0..frames).map(|frame| all.iter().skip(frame).step_by(frames).copied().collect()).collect()
    }

    /// Number of different codes of each codebook.
    pub(crate) fn used(&self) -> Vec<usize> {
        let codes = self.codes();
        let of_book = |book: usize| codes.iter().map(|frame| frame[book]).collect::<std::collections::BTreeSet<_>>();
        (0..self.ids.len()).map(|book| of_book(book).len()).collect()
    }
}

impl ResidualQuantizer {
    /// Takes the vectors of all codebooks, `[Q * K * D]`.
    ///
    /// # Errors
    /// [`Error::Batch`] for another number of values.
    pub(crate) fn of_vectors(config: &CodecConfig, vectors: &Tensor<1>) -> Result<Self> {
        let CodecConfig { num_quantizers: books, codebook_size: codes, hidden_size: width, .. } = *config;
        let (found, expected) = (vectors.dims()[0], books * codes * width);
        if found != expected {
            let reason = format!("{found} values of codebooks, expected {books} * {codes} * {width}");
            return Err(Error::Batch(reason));
        }
        let vectors = vectors.clone().reshape([books, codes, width]);
        let book = |index: usize| Codebook::of_vectors(vectors.clone().narrow(0, index, 1).squeeze_dim(0));
        Ok(Self { books: (0..books).map(book).collect() })
    }

    /// Finds codebooks for latents `[N, D]` by k-means, each for what the ones before it leave.
    pub(crate) fn of_latents(config: &CodecConfig, latents: &Tensor<2>, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut rest = latents.clone();
        let book = |_| {
            let book = Codebook::of_vectors(k_means(&rest, config.codebook_size, &mut random));
            rest = rest.clone() - book.chosen(&book.nearest(&rest));
            book
        };
        Self { books: (0..config.num_quantizers).map(book).collect() }
    }

    /// Chooses vectors for latents `[N, D]`.
    pub(crate) fn choose(&self, latents: &Tensor<2>) -> Choice {
        let (mut rest, mut sum) = (latents.clone(), latents.zeros_like());
        let mut choice = Choice { ids: Vec::new(), residuals: Vec::new(), sums: Vec::new() };
        for book in &self.books {
            let ids = book.nearest(&rest);
            let chosen = book.chosen(&ids);
            choice.residuals.push(rest.clone());
            choice.ids.push(ids);
            rest = rest - chosen.clone();
            sum = sum + chosen;
            choice.sums.push(sum.clone());
        }
        choice
    }

    /// Moves the codebooks towards what chose them in a step; vectors that are hardly chosen are drawn anew from it.
    pub(crate) fn learn(&mut self, choices: &[Choice], learning: Learning, seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (index, book) in self.books.iter_mut().enumerate() {
            let ids = Tensor::cat(choices.iter().map(|choice| choice.ids[index].clone()).collect(), 0);
            let given = Tensor::cat(choices.iter().map(|choice| choice.residuals[index].clone()).collect(), 0);
            book.learn(ids, given, learning, &mut random);
        }
    }

    /// All vectors, `[Q * K * D]`.
    pub(crate) fn vectors(&self) -> Tensor<1> {
        Tensor::cat(self.books.iter().map(|book| book.vectors.clone().flatten(0, 1)).collect(), 0)
    }

    /// The table of the vocoder, which takes the mean over codebooks of what we take the sum of: `[Q * K * D]`.
    pub(crate) fn table(&self) -> Tensor<1> {
        self.vectors() * self.books.len() as f64
    }

    /// Vectors and averages by name, for [`ResidualQuantizer::restore`].
    pub(crate) fn state(&self) -> BTreeMap<String, Tensor<1>> {
        let of_book = |(index, book): (usize, &Codebook)| {
            let Codebook { vectors, usage, sums } = book.clone();
            let parts = [vectors.flatten(0, 1), usage, sums.flatten(0, 1)];
            PARTS.into_iter().zip(parts).map(move |(part, values)| (name(index, part), values)).collect::<Vec<_>>()
        };
        self.books.iter().enumerate().flat_map(of_book).collect()
    }

    /// Takes a [`ResidualQuantizer::state`] from among other values; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Batch`] naming a part that is missing or has another number of values.
    pub(crate) fn restore(config: &CodecConfig, state: &mut BTreeMap<String, Tensor<1>>) -> Result<Option<Self>> {
        if !state.contains_key(&name(0, PARTS[0])) {
            return Ok(None);
        }
        let CodecConfig { num_quantizers, codebook_size: codes, hidden_size: width, .. } = *config;
        let book = |index| {
            let mut take = |part: &str, count: usize| {
                let name = name(index, part);
                let found = state.remove(&name).filter(|values| values.dims()[0] == count);
                found.ok_or_else(|| Error::Batch(format!("quantiser: expected `{name}` with {count} values")))
            };
            let [vectors, usage, sums] =
                [take(PARTS[0], codes * width)?, take(PARTS[1], codes)?, take(PARTS[2], codes * width)?];
            let shape = [codes, width];
            Ok(Codebook { vectors: vectors.reshape(shape), usage, sums: sums.reshape(shape) })
        };
        Ok(Some(Self { books: (0..num_quantizers).map(book).collect::<Result<_>>()? }))
    }
}

const PARTS: [&str; 3] = ["vectors", "usage", "sums"];

fn name(book: usize, part: &str) -> String {
    format!("codec_quantizer.{book}.{part}")
}

impl Codebook {
    fn of_vectors(vectors: Tensor<2>) -> Self {
        let usage = Tensor::full([vectors.dims()[0]], FIRST_USAGE, &vectors.device());
        Self { sums: vectors.clone() * FIRST_USAGE, usage, vectors }
    }

    fn nearest(&self, x: &Tensor<2>) -> Tensor<1, Int> {
        nearest(x, &self.vectors)
    }

    fn chosen(&self, ids: &Tensor<1, Int>) -> Tensor<2> {
        self.vectors.clone().select(0, ids.clone())
    }

    fn learn(
        &mut self,
        ids: Tensor<1, Int>,
        given: Tensor<2>,
        Learning { decay, dead_below }: Learning,
        random: &mut ChaCha8Rng,
    ) {
        let (counts, sums) = totals(&ids, &given, self.vectors.dims()[0]);
        self.usage = self.usage.clone() * decay + counts * (1.0 - decay);
        self.sums = self.sums.clone() * decay + sums * (1.0 - decay);
        self.vectors = self.sums.clone() / self.usage.clone().clamp_min(LEAST_USAGE).unsqueeze_dim(1);
        let mean = given.dims()[0] as f64 / self.vectors.dims()[0] as f64;
        let usage = nn::to_f32_vec(&self.usage);
        let dead: Vec<usize> = (0..usage.len()).filter(|code| f64::from(usage[*code]) < dead_below * mean).collect();
        if !dead.is_empty() {
            let drawn = drawn(&given, dead.len(), random);
            let usage = Tensor::full([dead.len()], REDRAWN_USAGE * mean, &drawn.device());
            self.usage = replaced(self.usage.clone(), &dead, usage);
            self.sums = replaced(self.sums.clone(), &dead, drawn.clone() * (REDRAWN_USAGE * mean));
            self.vectors = replaced(self.vectors.clone(), &dead, drawn);
        }
    }
}

/// The nearest vector of each row: `[N, D]`, `[K, D]` → `[N]`.
fn nearest(x: &Tensor<2>, vectors: &Tensor<2>) -> Tensor<1, Int> {
    let halves = vectors.clone().square().sum_dim(1) * 0.5; // [K, 1]
    let scores = x.clone().matmul(vectors.clone().transpose()) - halves.transpose(); // [N, K]
    scores.argmax(1).squeeze_dim(1)
}

/// How many rows have each id, `[K]`, and their sum, `[K, D]`.
fn totals(ids: &Tensor<1, Int>, rows: &Tensor<2>, codes: usize) -> (Tensor<1>, Tensor<2>) {
    let ([count, width], device) = (rows.dims(), rows.device());
    let ones = Tensor::<1>::ones([count], &device);
    let counts = Tensor::<1>::zeros([codes], &device).select_assign(0, ids.clone(), ones, IndexingUpdateOp::Add);
    let sums = Tensor::<2>::zeros([codes, width], &device);
    (counts, sums.select_assign(0, ids.clone(), rows.clone(), IndexingUpdateOp::Add))
}

/// Some rows at random, each as likely as any other.
fn drawn(rows: &Tensor<2>, count: usize, random: &mut ChaCha8Rng) -> Tensor<2> {
    let all = rows.dims()[0];
    let places: Vec<usize> = (0..count).map(|_| random.random_range(0..all)).collect();
    rows.clone().select(0, indices(places, &rows.device()))
}

/// Puts new entries at some places of the first axis.
fn replaced<const D: usize>(old: Tensor<D>, places: &[usize], new: Tensor<D>) -> Tensor<D> {
    let (count, device): (usize, Device) = (old.dims()[0], old.device());
    let mut order: Vec<usize> = (0..count).collect();
    places.iter().enumerate().for_each(|(at, place)| order[*place] = count + at);
    Tensor::cat(vec![old, new], 0).select(0, indices(order, &device))
}

/// Finds means by Lloyd's k-means from random rows; an empty cluster begins anew at a random row.
fn k_means(rows: &Tensor<2>, codes: usize, random: &mut ChaCha8Rng) -> Tensor<2> {
    let mut means = distinct(rows, codes, random);
    for _ in 0..K_MEANS_STEPS {
        let (counts, sums) = totals(&nearest(rows, &means), rows, codes);
        means = sums / counts.clone().clamp_min(1.0).unsqueeze_dim(1);
        let counts = nn::to_f32_vec(&counts);
        let empty: Vec<usize> = (0..codes).filter(|code| counts[*code] == 0.0).collect();
        if !empty.is_empty() {
            means = replaced(means, &empty, drawn(rows, empty.len(), random));
        }
    }
    means
}

/// Random rows, different ones as long as there are any.
fn distinct(rows: &Tensor<2>, count: usize, random: &mut ChaCha8Rng) -> Tensor<2> {
    let all = rows.dims()[0];
    match count <= all {
        true => {
            let places = rand::seq::index::sample(random, all, count);
            rows.clone().select(0, indices(places, &rows.device()))
        }
        false => drawn(rows, count, random),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn config(num_quantizers: usize, codebook_size: usize, hidden_size: usize) -> CodecConfig {
        let json = serde_json::json!({
            "model_type": "qwen3_omni_codec_encoder", "sampling_rate": 24_000, "samples_per_frame": 240, "width": 8,
            "hidden_size": hidden_size, "num_quantizers": num_quantizers, "codebook_size": codebook_size,
        });
        serde_json::from_value(json).unwrap()
    }

    fn rows<const N: usize>(rows: &[[f32; N]]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), N]), &Device::flex())
    }

    #[test]
    fn each_codebook_takes_what_the_ones_before_it_left() {
        let vectors = [10.0, 0.0, 0.0, 10.0, 1.0, 0.0, 0.0, -1.0];
        let vectors = Tensor::from_data(TensorData::new(vectors.to_vec(), [8]), &Device::flex());
        let quantizer = ResidualQuantizer::of_vectors(&config(2, 2, 2), &vectors).unwrap();
        let choice = quantizer.choose(&rows(&[[9.0, -1.0], [1.0, 9.5], [0.4, 8.8]]));
        assert_eq!(choice.codes(), [[0, 1], [1, 0], [1, 1]]);
        assert_eq!(choice.used(), [2, 2]);
        assert_eq!(nn::to_f32_vec(&choice.sums[1]), [10.0, -1.0, 1.0, 10.0, 0.0, 9.0]);
        assert_eq!(nn::to_f32_vec(&quantizer.table())[..4], [20.0, 0.0, 0.0, 20.0]);
    }

    #[test]
    fn vectors_are_moving_averages_of_what_chose_them_and_dead_ones_are_drawn_anew() {
        let vectors = Tensor::from_data(TensorData::new(vec![0.0_f32, 0.0, 8.0, 8.0], [4]), &Device::flex());
        let mut quantizer = ResidualQuantizer::of_vectors(&config(1, 2, 2), &vectors).unwrap();
        let given = rows(&[[1.0, 0.0], [3.0, 0.0]]);
        let learning = Learning { decay: 0.5, dead_below: 0.0 };
        quantizer.learn(&[quantizer.choose(&given)], learning, 1);
        // The first: usage 0.5 * 1 + 0.5 * 2, sum 0.5 * 0 + 0.5 * 4. The second keeps its value while its usage halves.
        assert_eq!(nn::to_f32_vec(&quantizer.vectors()), [4.0 / 3.0, 0.0, 8.0, 8.0].map(|x: f64| x as f32));
        assert_eq!(nn::to_f32_vec(&quantizer.books[0].usage), [1.5, 0.5]);
        // Half of the mean usage of one.
        quantizer.learn(&[quantizer.choose(&given)], Learning { dead_below: 0.6, ..learning }, 1);
        let after = nn::to_f32_vec(&quantizer.vectors());
        assert!([[1.0, 0.0], [3.0, 0.0]].contains(&[after[2], after[3]]), "{after:?}");
        assert!((nn::to_f32_vec(&quantizer.books[0].usage)[1] - 0.4).abs() < 1e-6);
    }

    #[test]
    fn codebooks_of_latents_are_the_means_of_their_clusters_and_come_back_from_a_state() {
        let latents: Vec<[f32; 2]> = (0..60)
            .map(|at| {
                let ([x, y], jitter) = ([[0.0, 0.0], [5.0, 5.0], [9.0, -4.0]][at % 3], (at / 3 % 5) as f32 * 0.1 - 0.2);
                [x + jitter, y - jitter]
            })
            .collect();
        let config = config(2, 3, 2);
        let found = ResidualQuantizer::of_latents(&config, &rows(&latents), 3);
        let vectors = nn::to_f32_vec(&found.vectors());
        for mean in [[0.0, 0.0], [5.0, 5.0], [9.0, -4.0]] {
            let is_near = |vector: &[f32]| vector.iter().zip(mean).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-4);
            assert!(vectors[..6].chunks(2).any(is_near), "{vectors:?} has no {mean:?}");
        }
        let mut state = found.state();
        let restored = ResidualQuantizer::restore(&config, &mut state).unwrap().unwrap();
        assert!(state.is_empty() && restored.state().len() == 6);
        assert_eq!(nn::to_f32_vec(&restored.vectors()), vectors);
        assert!(ResidualQuantizer::restore(&config, &mut state).unwrap().is_none());
        let mut partial = found.state();
        partial.remove("codec_quantizer.1.sums");
        let error = ResidualQuantizer::restore(&config, &mut partial).unwrap_err().to_string();
        assert!(error.contains("codec_quantizer.1.sums"), "{error}");
    }
}
