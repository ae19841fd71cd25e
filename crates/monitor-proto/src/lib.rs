//! monitor-proto: see ARCHITECTURE.md.
#![forbid(unsafe_code)]
