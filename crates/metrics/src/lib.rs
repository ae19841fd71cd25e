//! Figures in the forms that Prometheus reads, and what is counted for them.
//!
//! A scrape is text that is written from what is known at that moment ([`Exposition`]): there is
//! no registry, and no figure is kept twice. What cannot be derived is counted where it happens,
//! without locks ([`Durations`], and numbers that their owners have).
//!
//! What must never happen here: a lock, a wait, a file that is not the kernel's own.
#![forbid(unsafe_code)]

mod accept;
mod durations;
mod exposition;
mod process;

pub use accept::Format;
pub use durations::{BOUNDS, Durations, DurationsRead};
pub use exposition::{Exposition, Family, Kind, Value};
pub use process::write_process;
