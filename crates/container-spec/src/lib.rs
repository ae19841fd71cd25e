//! From what is asked of a container to its OCI runtime spec.
//!
//! Pure: values in, values out. What must be known of the node (its devices, its
//! capabilities, a profile's text) comes in with [`SpecInput`]; what must be done on it
//! (directories of volumes) goes out with [`BuiltSpec`].
//!
//! What must never happen: a field of an image that steers the runtime beyond what the
//! image specification says; a text that becomes two lines of a file; a number that
//! becomes another user.
#![forbid(unsafe_code)]

mod error;
pub mod files;
mod sandbox;
mod text;
mod user;

pub use error::SpecError;
pub use sandbox::{sysctls, validate_sandbox};
pub use user::{
    MAX_GROUPS, MAX_USER_FILE_BYTES, ResolvedUser, UserError, UserRequest, image_user_for_status,
    resolve_user,
};
