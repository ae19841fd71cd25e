//! AppArmor: whether it is active, which profiles are loaded, and our own one, which is
//! loaded when a container first needs it.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use parking_lot::Mutex;
use types::{ContainerConfig, Profile};

use crate::error::{Error, Result};

/// The name of our own profile.
const DEFAULT: &str = "corten-default";
const DEFAULT_TEXT: &str = include_str!("apparmor.profile");

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Compiles profiles for the kernel.
const PARSER: &str = "/sbin/apparmor_parser";

/// One load at a time; it is idempotent, but costs a program.
static LOADING: Mutex<()> = Mutex::new(());

/// What a container's specification says of AppArmor.
#[derive(Debug)]
pub(crate) struct Profiles {
    /// What a container that asks for nothing gets.
    pub(crate) unset: Profile,
    /// Our own profile, where it is of use.
    pub(crate) runtime_default: Option<&'static str>,
}

/// Whether AppArmor profiles have any effect here.
pub(crate) fn is_active() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// Makes sure of the profile that a container is to have. Without AppArmor the runtime's
/// default is no profile: the kubelet judges by itself whether a pod may come here.
///
/// # Errors
/// Fails where a profile of the node is not loaded, or ours cannot be.
pub(crate) fn ensure(config: &ContainerConfig) -> Result<Profiles> {
    let nothing = || Profiles { unset: Profile::Unconfined, runtime_default: None };
    let asked = config.security.apparmor.as_ref();
    if !is_active() {
        return match asked {
            Some(Profile::Localhost(name)) => Err(Error::Invalid(format!(
                "the AppArmor profile \"{name}\" was asked for, but AppArmor is not active here"
            ))),
            _ => Ok(nothing()),
        };
    }
    match asked {
        Some(Profile::Localhost(name)) if !is_loaded(name)? => {
            Err(Error::Invalid(format!("the AppArmor profile \"{name}\" is not loaded")))
        }
        Some(Profile::Localhost(_) | Profile::Unconfined) => Ok(nothing()),
        Some(Profile::RuntimeDefault) | None if config.security.privileged => Ok(nothing()),
        Some(Profile::RuntimeDefault) | None => {
            ensure_default()?;
            Ok(Profiles { unset: Profile::RuntimeDefault, runtime_default: Some(DEFAULT) })
        }
    }
}

/// Loads our profile unless it is there: one of that name that an administrator has
/// loaded is kept.
fn ensure_default() -> Result<()> {
    let _alone = LOADING.lock();
    if is_loaded(DEFAULT)? {
        return Ok(());
    }
    load(DEFAULT_TEXT).map_err(|source| Error::File {
        what: "load the AppArmor profile corten-default with",
        path: PARSER.into(),
        source,
    })
}

fn is_loaded(name: &str) -> Result<bool> {
    let listed = fs::read_to_string(LOADED).map_err(|source| Error::File {
        what: "read the loaded AppArmor profiles,",
        path: LOADED.into(),
        source,
    })?;
    Ok(is_listed(&listed, name))
}

/// Each line is a name, which may have blanks, and the mode in parentheses.
fn is_listed(listed: &str, name: &str) -> bool {
    listed.lines().any(|line| line.rsplit_once(" (").is_some_and(|(loaded, _)| loaded == name))
}

fn load(text: &str) -> io::Result<()> {
    if !Path::new(PARSER).exists() {
        return Err(io::Error::other("the package apparmor is not installed"));
    }
    let mut parser = Command::new(PARSER)
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir("/")
        .spawn()?;
    if let Some(mut input) = parser.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    let output = parser.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(io::Error::other(last.unwrap_or("it does not say why").trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaded_profiles_are_found_by_their_whole_name() {
        let listed = "corten-default (enforce)\nmy profile (complain)\n/usr/bin/man (enforce)\n";
        for (name, expected) in [
            ("corten-default", true),
            ("my profile", true),
            ("/usr/bin/man", true),
            ("corten", false),
            ("profile", false),
            ("corten-default (enforce)", false),
            ("", false),
        ] {
            assert_eq!(is_listed(listed, name), expected, "{name}");
        }
    }

    #[test]
    fn our_profile_has_its_name() {
        assert!(DEFAULT_TEXT.contains(&format!("\nprofile {DEFAULT} ")));
    }
}
