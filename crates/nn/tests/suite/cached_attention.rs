//! Attention without rotation over caches: both engines give the plain formula, in any steps and any company.

use burn::tensor::{Device, Tensor, TensorData};
use omni_core::Dtype;
use qwen3_omni_nn::{DeviceEngine, Engine, HostEngine, KvCache, Run};

/// Three heads whose width is no multiple of any vector's.
const HEADS: usize = 3;
const WIDTH: usize = HEADS * 12;

fn rows(count: usize, seed: u64) -> Vec<f32> {
    testkit::noise(count * WIDTH, seed)
}

/// `softmax(q kᵀ / √Dh) v` of rows that see the first `seen(row)` keys.
fn formula(q: &[f32], [k, v]: [&[f32]; 2], seen: impl Fn(usize) -> usize) -> Vec<f32> {
    let head_dim = WIDTH / HEADS;
    let mut y = vec![0.0; q.len()];
    for row in 0..q.len() / WIDTH {
        for head in 0..HEADS {
            let of = |x: &[f32], row: usize| x[row * WIDTH + head * head_dim..][..head_dim].to_vec();
            let query = of(q, row);
            let dot = |key: Vec<f32>| query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>() / (head_dim as f32).sqrt();
            let scores: Vec<f32> = (0..seen(row)).map(|key| dot(of(k, key)).exp()).collect();
            let total: f32 = scores.iter().sum();
            for (key, score) in scores.iter().enumerate() {
                for (at, value) in of(v, key).into_iter().enumerate() {
                    y[row * WIDTH + head * head_dim + at] += score / total * value;
                }
            }
        }
    }
    y
}

fn tensor(values: &[f32]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len() / WIDTH, WIDTH]), &Device::flex())
}

fn check<E: Engine>(e: &E) {
    let near = |found: Vec<f32>, expected: &[f32], what: &str| {
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == expected.len() && worst < 1e-5, "{what}: {worst}");
    };
    let take = |values: &[f32]| e.rows(&[&tensor(values)]);
    let (q, k, v) = (rows(9, 1), rows(9, 2), rows(9, 3));
    let causal = formula(&q, [&k, &v], |row| row + 1);
    for steps in [vec![9], vec![4, 1, 1, 3], vec![1; 9]] {
        let (mut cache, mut start) = (KvCache::default(), 0);
        for step in steps {
            let part = start * WIDTH..(start + step) * WIDTH;
            let [keys, values] = [&k, &v].map(|x| take(&x[part.clone()]));
            e.append([keys, values], HEADS, &mut [Run { cache: &mut cache, rows: step }]);
            let y = e.attend(take(&q[part.clone()]), HEADS, &mut [Run { cache: &mut cache, rows: step }], true);
            near(e.values(y), &causal[part], "causal");
            start += step;
        }
    }
    // Two runs of different caches, whose rows see all keys.
    let (mut first, mut second) = (KvCache::default(), KvCache::default());
    let both = [[&k[..], &rows(70, 4)].concat(), [&v[..], &rows(70, 5)].concat()];
    let mut filled = [Run { cache: &mut first, rows: 9 }, Run { cache: &mut second, rows: 70 }];
    e.append([take(&both[0]), take(&both[1])], HEADS, &mut filled);
    assert_eq!((first.len(), second.len()), (9, 70));
    let queries = rows(5, 6);
    let mut runs = [Run { cache: &mut first, rows: 2 }, Run { cache: &mut second, rows: 3 }];
    let y = e.values(e.attend(take(&queries), HEADS, &mut runs, false));
    let (mine, others) = queries.split_at(2 * WIDTH);
    near(y[..2 * WIDTH].to_vec(), &formula(mine, [&k, &v], |_| 9), "first run");
    let rest = [&both[0][9 * WIDTH..], &both[1][9 * WIDTH..]];
    near(y[2 * WIDTH..].to_vec(), &formula(others, rest, |_| 70), "second run");
}

#[test]
fn both_engines_give_the_formula() {
    check(&HostEngine::new(&Device::flex(), false));
    check(&DeviceEngine::new(&Device::flex(), Dtype::F32));
}
