//! sys: see ARCHITECTURE.md.

