//! container-spec: see ARCHITECTURE.md.
#![forbid(unsafe_code)]
