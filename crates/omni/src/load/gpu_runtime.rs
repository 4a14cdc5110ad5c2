//! How a GPU works for this process.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Has compiled kernels kept for the next process, unless the application or a `cubecl.toml` or `burn.toml` has configured CubeCL, and all
/// threads share one queue.
pub(super) fn prepare() {
    let mut config = CubeClRuntimeConfig::from_current_dir();
    let plain = format!("{:?}", CubeClRuntimeConfig::default());
    if format!("{config:?}") == plain {
        config.compilation.cache = true;
        // It is refused where the application came first.
        CubeClRuntimeConfig::try_set(config.override_from_env());
    }
    gpu_kernels::share_stream();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_kept_for_the_next_process() {
        prepare();
        assert!(CubeClRuntimeConfig::get().compilation.cache);
        // A second device changes nothing.
        prepare();
        assert!(CubeClRuntimeConfig::get().compilation.cache);
    }
}
