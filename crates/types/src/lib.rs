//! Ids, digests, states and configurations: the vocabulary that every layer shares.
//!
//! The types here are Corten's own: the wire's types are converted into them at
//! the API's door, and nothing below the door names the wire.
#![forbid(unsafe_code)]

mod container;
mod digest;
mod id;
mod image;
mod sandbox;
mod security;
mod signal;

pub use container::*;
pub use digest::*;
pub use id::*;
pub use image::*;
pub use sandbox::*;
pub use security::*;
pub use signal::{signal_name, signal_number};
