//! Opening and reading a shard of many tensors: linear in their number, because each header is parsed once.
#![allow(missing_docs, clippy::unwrap_used)]

use checkpoint::{Checkpoint, Weights};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use omni_core::Dtype;
use safetensors::tensor::{Dtype as Stored, TensorView};

const ELEMENTS: usize = 64;

/// A directory with one shard of `tensors` small tensors.
fn shard(tensors: usize) -> tempfile::TempDir {
    let directory = testkit::copy_of_tiny(&["config.json"]);
    let data = vec![0u8; ELEMENTS * 4];
    let views =
        (0..tensors).map(|i| (format!("tensor.{i}"), TensorView::new(Stored::F32, vec![ELEMENTS], &data).unwrap()));
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &directory.path().join("model.safetensors"))
        .unwrap();
    directory
}

fn loading(criterion: &mut Criterion) {
    let place = qwen3_omni::Device::cpu().place(Dtype::F32).unwrap();
    let mut group = criterion.benchmark_group("open and read a shard");
    for tensors in [500, 1000, 2000, 4000] {
        let directory = shard(tensors);
        group.throughput(Throughput::Elements(tensors as u64));
        group.bench_with_input(BenchmarkId::from_parameter(tensors), &tensors, |bencher, tensors| {
            bencher.iter(|| {
                let checkpoint = Checkpoint::open(directory.path()).unwrap();
                let weights = Weights::new(&checkpoint, &place, Dtype::F32);
                for i in 0..*tensors {
                    weights.tensor::<1>(&format!("tensor.{i}"), [ELEMENTS]).unwrap();
                }
            })
        });
    }
    group.finish();
}

criterion_group!(benches, loading);
criterion_main!(benches);
