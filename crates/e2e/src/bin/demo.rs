//! The demonstration: a pod on this machine, from an image to its removal.
#![forbid(unsafe_code)]

fn main() {}
