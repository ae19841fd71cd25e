//! The `corten` program.
fn main() {}
