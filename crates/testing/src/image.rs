//! Images made of what Debian's packages put on this machine.

mod busybox;
mod layer;
mod layout;
mod web;

pub use busybox::busybox;
pub use layer::LayerBuilder;
pub use layout::{Compression, Image, Layout, digest};
pub use web::{PAGE, web_server};
