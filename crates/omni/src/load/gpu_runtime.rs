//! Process-wide settings of CubeCL.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Has compiled kernels kept for the next process, unless the application or a `cubecl.toml` or `burn.toml` has configured CubeCL, and all
/// threads share one queue.
pub(super) fn prepare() {
    let mut config = CubeClRuntimeConfig::from_current_dir();
    // The type has no `PartialEq`, so texts are compared.
    let unchanged = format!("{:?}", CubeClRuntimeConfig::default());
    if format!("{config:?}") == unchanged {
        config.compilation.cache = true;
        // Does nothing if the application has already set or read a configuration.
        CubeClRuntimeConfig::try_set(config.override_from_env());
    }
    gpu_kernels::share_stream();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_of_kernels_is_switched_on() {
        prepare();
        assert!(CubeClRuntimeConfig::get().compilation.cache);
        // A second device changes nothing.
        prepare();
        assert!(CubeClRuntimeConfig::get().compilation.cache);
    }
}
