//! SELinux options on machines where they can have no effect.

use std::path::Path;

use oci_spec::runtime::Spec;
use types::SelinuxOptions;

use crate::{
    error::{Error, Result},
    service::Inner,
};

/// Whether SELinux is active: its file system is there then.
fn is_active() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Refuses options that would be without effect, unless the node's settings pass over them.
pub(crate) fn check(inner: &Inner, options: Option<&SelinuxOptions>) -> Result<()> {
    let asked = options.is_some_and(|o| *o != SelinuxOptions::default());
    if !asked || is_active() {
        return Ok(());
    }
    if inner.options.ignores_inactive_selinux {
        tracing::warn!("SELinux options are passed over: SELinux is not active here");
        return Ok(());
    }
    Err(Error::Invalid("SELinux options were given, but SELinux is not active here".to_owned()))
}

/// Takes labels out of a specification where they could only fail.
pub(crate) fn drop_inactive_labels(spec: &mut Spec) {
    if is_active() {
        return;
    }
    if let Some(process) = spec.process_mut() {
        process.set_selinux_label(None);
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_mount_label(None);
    }
}
