//! e2e: see ARCHITECTURE.md.
#![forbid(unsafe_code)]
