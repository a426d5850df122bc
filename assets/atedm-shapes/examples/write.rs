//! Writes the model into a folder, for diffusers or any other reader: `cargo run -p atedm-shapes --example write -- FOLDER`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("expected one argument: the folder to write");
        return ExitCode::from(2);
    };
    match atedm_shapes::write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", Path::new(&folder).display());
            ExitCode::FAILURE
        }
    }
}
