//! Sets `cube` where kernels are compiled in: in builds for GPUs, but not under kernel fusion, whose tensors are promises without
//! a buffer.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(cube)");
    if (cfg!(feature = "wgpu") || cfg!(feature = "cuda")) && !cfg!(feature = "fusion") {
        println!("cargo::rustc-cfg=cube");
    }
}
