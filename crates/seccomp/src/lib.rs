//! seccomp: see ARCHITECTURE.md.
#![forbid(unsafe_code)]
