//! cri-client: see ARCHITECTURE.md.
#![forbid(unsafe_code)]
