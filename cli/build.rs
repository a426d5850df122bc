//! libtorch's run path for the program (feature `tch`): link arguments do not propagate. The folder is handed on as
//! `DEP_ATEDM_LIBTORCH_LIB` to the build scripts of programs that are made of this crate, which need the same line.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_ATEDM_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
        println!("cargo:libtorch_lib={folder}");
    }
}
