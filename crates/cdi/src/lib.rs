//! The Container Device Interface: what vendors write about their devices, and which of it
//! a container gets that asks for one by name.
//!
//! ```text
//! /etc/cdi/*.{json,yaml}, /var/run/cdi/*      vendor.com/class = name ─► edits
//! ```
//!
//! Nothing is kept: the directories are read when a container asks, so that what a device
//! plugin has just written counts. A later directory wins over an earlier one; a device that
//! two files of one directory define is nobody's.
//!
//! What must never happen: a broken file of one vendor keeps another vendor's devices away; a
//! name leads to a file that nobody named.
#![forbid(unsafe_code)]

mod error;
mod name;
mod registry;
mod spec;

pub use error::CdiError;
pub use name::{ANNOTATION_PREFIX, DeviceName, from_annotations};
pub use registry::{MAX_FILE_BYTES, MAX_FILES, resolve};
pub use spec::{DeviceNode, Edits, Hook, Mount, NetDevice};
