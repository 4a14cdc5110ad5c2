/// Has all threads of the process share one queue of work on each GPU, and with it one pool of memory. By default CubeCL gives each thread
/// its own and never reuses the pool of a thread that has ended; stages are threads, so each answer would leak its activations.
/// Another policy that the application or a `cubecl.toml` has set stays, except `per-thread`, which cannot be told from the default.
///
/// Call it before the first work on a GPU: a thread keeps the queue that it has begun with.
pub fn share_stream() {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    {
        use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
        use cubecl_environment::stream::{StreamPolicy, policy, set_policy};
        // Reads what a file says of streams.
        CubeClRuntimeConfig::get();
        if policy() == StreamPolicy::PerThread {
            set_policy(StreamPolicy::Single);
        }
    }
}
