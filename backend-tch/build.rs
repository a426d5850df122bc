//! Passes on the folder of libtorch's libraries. `torch-sys` gives it only to direct dependents, and link arguments
//! do not propagate. A binary's own build script reads `DEP_ATEDM_TCH_LIBTORCH_LIB` and emits the run path.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // absent with the feature `doc-only`, which links nothing
    let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo:libtorch_lib={folder}");
    // this package's own tests
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
}
