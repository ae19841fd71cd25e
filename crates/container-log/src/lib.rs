//! container-log: see ARCHITECTURE.md.
#![forbid(unsafe_code)]
