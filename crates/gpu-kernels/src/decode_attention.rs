use burn::tensor::Tensor;

use crate::PreNorm;

/// Keys and values of one run, and the number of its new rows.
#[derive(Debug)]
pub struct CachedRun {
    /// `[1, K, C, Dh]` each, with room for the new rows.
    pub store: [Tensor<4>; 2],
    /// Number of keys held.
    pub held: usize,
    /// Number of new rows, which follow those of the run before.
    pub rows: usize,
}

/// Causal attention of the new rows of several runs, in one launch for each: normalises the heads of queries and keys if there are
/// norms, rotates them, writes new keys and values into each run's cache, and attends to all that it holds then, or to the last
/// `window` keys up to each query's own.
///
/// # Shapes
/// `q` `[N, H * Dh]`, `k` and `v` `[N, K * Dh]`, cosines and sines `[N, 1, Dh]` → `[N, H * Dh]`, and the caches.
///
/// # Panics
/// If the rows do not fit into a cache.
pub fn decode_attention(
    qkv: [Tensor<2>; 3],
    norms: Option<&[PreNorm; 2]>,
    tables: [&Tensor<3>; 2],
    runs: Vec<CachedRun>,
    window: Option<usize>,
) -> (Tensor<2>, Vec<[Tensor<4>; 2]>) {
    #[cfg(cube)]
    if kernel::takes_all(&qkv, norms, tables, &runs, window) {
        return kernel::decode_attention(qkv, norms, tables, runs, window);
    }
    plain(qkv, norms, tables, runs, window)
}

/// Whether there is a kernel for a run of `rows` new rows and `keys` keys with them: queries `[N, H * Dh]` of heads of `width` numbers.
pub fn decodes(q: &Tensor<2>, width: usize, rows: usize, keys: usize) -> bool {
    kernel::takes(q, width, rows, keys)
}

/// [`decode_attention`] in plain operations.
pub fn plain(
    [q, k, v]: [Tensor<2>; 3],
    norms: Option<&[PreNorm; 2]>,
    [cos, sin]: [&Tensor<3>; 2],
    runs: Vec<CachedRun>,
    window: Option<usize>,
) -> (Tensor<2>, Vec<[Tensor<4>; 2]>) {
    let width = cos.dims()[2];
    let heads = |x: Tensor<2>| {
        let [rows, all] = x.dims();
        x.reshape([rows, all / width, width])
    };
    let rotated = |x: Tensor<2>, norm: Option<&PreNorm>| {
        let x = heads(x);
        crate::rotation::plain(norm.map_or(x.clone(), |norm| norm.apply_plain(x)), cos, sin)
    };
    let [q_norm, k_norm] = [0, 1].map(|at| norms.map(|norms| &norms[at]));
    let (q, k, v) = (rotated(q, q_norm), rotated(k, k_norm), heads(v));
    let mut start = 0;
    let each = runs.into_iter().map(|CachedRun { store, held, rows }| {
        let [q, k, v] = [&q, &k, &v].map(|x| x.clone().narrow(0, start, rows));
        start += rows;
        let new = [k, v].map(|x| x.swap_dims(0, 1).unsqueeze::<4>()); // [1, K, T, Dh]
        let store = crate::cache::plain(store, new, held);
        let seen = store.clone().map(|store| store.narrow(2, 0, held + rows));
        (crate::attend::plain(q, seen, window), store)
    });
    let (outputs, stores): (Vec<_>, Vec<_>) = each.unzip();
    (Tensor::cat(outputs, 0), stores)
}

#[cfg(cube)]
mod kernel {
    use burn::backend::Cube;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use burn_cubecl::tensor::CubeTensor;
    use cubecl::prelude::*;

    use super::CachedRun;
    use crate::PreNorm;
    use crate::attend::kernel::{MOST_KEYS, MOST_QUERIES, MOST_WIDTH, Place, Sizes, Span, attention};
    use crate::launch::{empty, floats, tensor, vector_size};
    use crate::norm::kernel::scaled;
    use crate::rotation::kernel::{squares, turned};
    use crate::rows::{Rows, sum_of_lanes};

    /// Buffers of the kernel, its sizes and numbers included.
    const BINDINGS: u32 = 12;

    /// How heads are normalised and rotated: by units that share a head as they do in separate launches.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Head {
        /// Loads of half a head.
        half: usize,
        normed: bool,
        /// Several heads, one after another along the units of the cube.
        rows: Rows,
    }

    /// Where the rows of this launch begin among those of all runs, the run's cache, and how many keys a query sees at most.
    #[derive(CubeType, CubeLaunch, Clone, Copy)]
    struct Step {
        first: usize,
        held: usize,
        capacity: usize,
        window: usize,
    }

    /// Normalises and rotates the query of a cube and the new keys up to its own, into shared memory.
    #[cube]
    fn rotate_heads<F: Float, N: Size>(
        q: &[Vector<F, N>],
        k: &[Vector<F, N>],
        q_weight: &[Vector<F, N>],
        k_weight: &[Vector<F, N>],
        cos: &[Vector<F, N>],
        sin: &[Vector<F, N>],
        query: &mut Shared<[Vector<F, N>]>,
        new_keys: &mut Shared<[Vector<F, N>]>,
        shared: &mut Shared<[f32]>,
        first_row: usize,
        q_eps: f32,
        k_eps: f32,
        #[comptime] sizes: Sizes,
        #[comptime] head: Head,
    ) {
        let (unit, query_head, token) = (UNIT_POS as usize, CUBE_POS_X as usize, CUBE_POS_Y as usize);
        let (kv_head, kv_heads) = (query_head / sizes.group, comptime!(sizes.heads / sizes.group));
        let (i, place) = (unit % head.rows.lanes, unit / head.rows.lanes);
        let turns = (token + 2).div_ceil(head.rows.per_cube);
        for turn in 0..turns {
            // The query is the first head, the new keys follow.
            let index = turn * head.rows.per_cube + place;
            let takes = i < head.half && index < token + 2;
            let row = first_row + select(index == 0, token, index - 1);
            let mut first = Vector::<F, N>::zero();
            let mut second = Vector::<F, N>::zero();
            if takes {
                if index == 0 {
                    let at = (row * sizes.heads + query_head) * sizes.loads + i;
                    first = q[at];
                    second = q[at + head.half];
                } else {
                    let at = (row * kv_heads + kv_head) * sizes.loads + i;
                    first = k[at];
                    second = k[at + head.half];
                }
            }
            if comptime!(head.normed) {
                let sum = sum_of_lanes(squares::<F, N>(first, second), i, shared, head.rows);
                let eps = select(index == 0, q_eps, k_eps);
                let root = f32::sqrt(sum / comptime!(sizes.width as f32) + eps);
                if takes {
                    if index == 0 {
                        first = scaled::<F, N>(first, root, q_weight[i]);
                        second = scaled::<F, N>(second, root, q_weight[head.half + i]);
                    } else {
                        first = scaled::<F, N>(first, root, k_weight[i]);
                        second = scaled::<F, N>(second, root, k_weight[head.half + i]);
                    }
                }
            }
            if takes {
                let table = row * sizes.loads + i;
                let (first, second) = turned::<F, F, N>(first, second, cos[table], sin[table]);
                if index == 0 {
                    query[i] = first;
                    query[head.half + i] = second;
                } else {
                    let at = (index - 1) * sizes.loads + i;
                    new_keys[at] = first;
                    new_keys[at + head.half] = second;
                }
            }
        }
        sync_cube();
    }

    /// One cube per query and query head. Each normalises and rotates its query and the new keys that the query sees, into shared
    /// memory, so that no cube waits for another; the first one of a key head writes the query's own key and value into the cache.
    #[cube(launch)]
    fn decoded<F: Float, N: Size>(
        q: &[Vector<F, N>],
        k: &[Vector<F, N>],
        v: &[F],
        q_weight: &[Vector<F, N>],
        k_weight: &[Vector<F, N>],
        cos: &[Vector<F, N>],
        sin: &[Vector<F, N>],
        keys: &mut [Vector<F, N>],
        values: &mut [F],
        out: &mut [F],
        step: Step,
        scale: f32,
        q_eps: f32,
        k_eps: f32,
        #[comptime] sizes: Sizes,
        #[comptime] head: Head,
        #[define(F)] _dtype: ElemType,
    ) {
        let (unit, query_head, token) = (UNIT_POS as usize, CUBE_POS_X as usize, CUBE_POS_Y as usize);
        let (kv_head, kv_heads) = (query_head / sizes.group, comptime!(sizes.heads / sizes.group));
        let row = step.first + token;
        let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.rows.lanes));
        let mut query = Shared::<[Vector<F, N>]>::new_slice(sizes.loads);
        let mut new_keys = Shared::<[Vector<F, N>]>::new_slice(comptime!(MOST_QUERIES * sizes.loads));
        rotate_heads::<F, N>(
            q,
            k,
            q_weight,
            k_weight,
            cos,
            sin,
            &mut query,
            &mut new_keys,
            &mut shared,
            step.first,
            q_eps,
            k_eps,
            sizes,
            head,
        );
        // Other cubes read only what the cache held before.
        if query_head % sizes.group == 0 {
            let key = kv_head * step.capacity + step.held + token;
            if unit < sizes.loads {
                keys[key * sizes.loads + unit] = new_keys[token * sizes.loads + unit];
            }
            if unit < sizes.width {
                values[key * sizes.width + unit] = v[(row * kv_heads + kv_head) * sizes.width + unit];
            }
        }
        let of_keys = Place { head: kv_head * step.capacity * sizes.loads, stride: sizes.loads.runtime() };
        let of_values = Place { head: kv_head * step.capacity * sizes.width, stride: sizes.width.runtime() };
        let of_new_values = Place {
            head: (step.first * kv_heads + kv_head) * sizes.width,
            stride: comptime!(sizes.heads / sizes.group * sizes.width).runtime(),
        };
        let end = step.held + token + 1;
        let span = Span { begin: select(end > step.window, end - step.window, 0), end, held: step.held };
        let y = attention::<F, N>(
            &query,
            0usize,
            &*keys,
            of_keys,
            &*values,
            of_values,
            &new_keys,
            v,
            of_new_values,
            span,
            scale,
            sizes,
        );
        if unit < sizes.width {
            out[(row * sizes.heads + query_head) * sizes.width + unit] = F::cast_from(y);
        }
    }

    /// Whether the tensor lies on a CubeCL device and tracks no gradient, and the sizes are those the kernel is made for.
    pub(super) fn takes(q: &Tensor<2>, width: usize, rows: usize, keys: usize) -> bool {
        let dtype = q.dtype();
        let fits = |q: CubeTensor| {
            let hardware = &q.client.properties().hardware;
            // Otherwise numbers are added up in another order than by separate launches.
            let alike = vector_size(&q.client, dtype, width) == vector_size(&q.client, dtype, width / 2);
            let memory = (MOST_QUERIES + 1) * width * dtype.size() + 3 * MOST_WIDTH * size_of::<f32>();
            alike
                && hardware.max_bindings >= BINDINGS
                && hardware.max_units_per_cube as usize >= MOST_WIDTH
                && hardware.max_shared_memory_size >= memory
        };
        (1..=MOST_QUERIES).contains(&rows)
            && (rows..=MOST_KEYS).contains(&keys)
            && (2..=MOST_WIDTH).contains(&width)
            && width.is_multiple_of(2)
            && q.clone().try_into_primitive::<Cube>().is_ok_and(fits)
    }

    fn primitive(x: &Tensor<4>) -> Option<CubeTensor> {
        x.clone().try_into_primitive::<Cube>().ok()
    }

    /// Whether the kernel takes all runs.
    pub(super) fn takes_all(
        [q, k, v]: &[Tensor<2>; 3],
        norms: Option<&[PreNorm; 2]>,
        [cos, sin]: [&Tensor<3>; 2],
        runs: &[CachedRun],
        window: Option<usize>,
    ) -> bool {
        let ([count, all], [_, of_keys], width, dtype) = (q.dims(), k.dims(), cos.dims()[2], q.dtype());
        let tables = [cos, sin].iter().all(|table| table.dims() == [count, 1, width] && table.dtype() == dtype);
        let heads = width > 0 && all.is_multiple_of(width) && of_keys.is_multiple_of(width) && of_keys > 0;
        let shapes = k.dims() == [count, of_keys] && v.dims() == k.dims() && all.is_multiple_of(of_keys.max(1));
        let dtypes = k.dtype() == dtype && v.dtype() == dtype;
        let norms = norms
            .is_none_or(|norms| norms.iter().all(|norm| norm.weight.dims() == [width] && norm.weight.dtype() == dtype));
        let run = |CachedRun { store, held, rows }: &CachedRun| {
            let capacity = store[0].dims()[2];
            // Keys that at least one query sees.
            let seen = window.map_or(held + rows, |window| (held + rows).min(window + rows - 1));
            takes(q, width, *rows, seen)
                && held + rows <= capacity
                && store.iter().all(|store| {
                    store.dims() == [1, of_keys / width, capacity, width]
                        && store.dtype() == dtype
                        && primitive(store).is_some_and(|store| store.is_contiguous())
                })
        };
        tables
            && heads
            && shapes
            && dtypes
            && norms
            && runs.iter().map(|run| run.rows).sum::<usize>() == count
            && runs.iter().all(run)
    }

    pub(super) fn decode_attention(
        [q, k, v]: [Tensor<2>; 3],
        norms: Option<&[PreNorm; 2]>,
        [cos, sin]: [&Tensor<3>; 2],
        runs: Vec<CachedRun>,
        window: Option<usize>,
    ) -> (Tensor<2>, Vec<[Tensor<4>; 2]>) {
        let shape = q.dims();
        let expected = "it was looked at before";
        let width = cos.dims()[2];
        let [heads, kv_heads] = [&q, &k].map(|x| x.dims()[1] / width);
        let [q, k, v] = [q, k, v].map(|x| floats(&x).expect(expected));
        let [cos, sin] = [cos, sin].map(|table| floats(table).expect(expected));
        // Without norms nothing reads their weights.
        let weight = |at: usize| norms.map_or(q.clone(), |norms| floats(&norms[at].weight).expect(expected));
        let eps = |at: usize| norms.map_or(0.0, |norms| norms[at].eps as f32);
        let (client, dtype) = (q.client.clone(), q.dtype);
        let by = vector_size(&client, q.dtype, width);
        let sizes = Sizes { appends: true, ..Sizes::new(&client, [heads, kv_heads], width, by) };
        let half = width / 2 / by;
        let of_head = Rows::new(&client, half);
        let rows = Rows { per_cube: sizes.rows.lanes / of_head.lanes, ..of_head };
        let head = Head { half, normed: norms.is_some(), rows };
        let out = empty(&q, shape, q.dtype);
        let mut first = 0;
        let each = runs.into_iter().map(|CachedRun { store, held, rows }| {
            // What another tensor reads must not change under it.
            let own = |x: Tensor<4>| x.try_into_primitive::<Cube>().expect(expected);
            let store = store.map(own).map(|x| if x.can_mut() { x } else { x.copy() });
            let [keys, values] = store.clone();
            let capacity = keys.meta.shape()[2];
            decoded::launch(
                &client,
                CubeCount::Static(heads as u32, rows as u32, 1),
                sizes.rows.cube_dim(),
                by,
                q.clone().into_buffer_arg(),
                k.clone().into_buffer_arg(),
                v.clone().into_buffer_arg(),
                weight(0).into_buffer_arg(),
                weight(1).into_buffer_arg(),
                cos.clone().into_buffer_arg(),
                sin.clone().into_buffer_arg(),
                keys.into_buffer_arg(),
                values.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                StepLaunch::new(first, held, capacity, window.unwrap_or(capacity)),
                (width as f32).powf(-0.5),
                eps(0),
                eps(1),
                sizes,
                head,
                dtype_to_storage_type(dtype),
            );
            first += rows;
            store.map(tensor)
        });
        let stores = each.collect();
        (tensor(out), stores)
    }
}

#[cfg(not(cube))]
mod kernel {
    use burn::tensor::Tensor;

    pub(super) fn takes(_: &Tensor<2>, _: usize, _: usize, _: usize) -> bool {
        false
    }
}
