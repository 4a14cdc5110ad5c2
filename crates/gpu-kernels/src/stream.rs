/// Has all threads of the process share one queue of work on each GPU, and with it one pool of memory, unless another policy of streams was
/// set or stands in a `cubecl.toml`; `per-thread` counts as none, since it cannot be told from the default. CubeCL gives each thread its own, and what the pool of a thread that has ended holds is never used again: an answer, whose
/// stages are threads, would cost the memory of its activations for good.
///
/// To be called before the first work on a GPU: what a thread has begun stays where it is.
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
