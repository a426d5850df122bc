//! Placeholder of the example crate.
fn main() {}
