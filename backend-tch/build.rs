//! Passes on the folder of libtorch's libraries, and compiles `packed.cpp`. `torch-sys` gives the folder only to direct
//! dependents, and link arguments do not propagate. A binary's own build script reads `DEP_ATEDM_TCH_LIBTORCH_LIB` and emits the run
//! path.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(onednn)");
    // absent with the feature `doc-only`, which links nothing
    let Ok(folder) = env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo:libtorch_lib={folder}");
    // this package's own tests
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if (target("OS").as_str(), target("ARCH").as_str()) == ("linux", "x86_64") {
        compile(Path::new(&folder));
    }
}

/// With the headers and the flags of `torch-sys`.
fn compile(folder: &Path) {
    println!("cargo:rerun-if-changed=src/packed.cpp");
    let variable = |name: &str| {
        println!("cargo:rerun-if-env-changed={name}");
        env::var(name).ok()
    };
    let root = variable("LIBTORCH_INCLUDE").map_or_else(|| folder.join(".."), PathBuf::from);
    let abi = variable("LIBTORCH_CXX11_ABI").unwrap_or_else(|| "1".into());
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .std("c++17")
        .include(root.join("include"))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .file("src/packed.cpp")
        .compile("atedm_tch_packed");
    println!("cargo:rustc-cfg=onednn");
}
