//! The `corten-monitor` program.
fn main() {}
