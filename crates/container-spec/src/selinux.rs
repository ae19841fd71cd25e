//! SELinux labels: of the process, and of what is mounted for it alone.
//!
//! Whether labels have any effect is the caller's to know; it refuses a request for them
//! where they have none.

use types::SelinuxOptions;

use crate::{
    SpecError,
    text::{check_count, shown},
};

/// What is taken where a part of a label is not given: the reference policy's names for
/// containers.
const USER: &str = "system_u";
const ROLE: &str = "system_r";
const TYPE: &str = "container_t";
const LEVEL: &str = "s0";
/// The role and type of a container's files.
const FILE_ROLE: &str = "object_r";
const FILE_TYPE: &str = "container_file_t";

/// The longest part of a label.
const MAX_PART_BYTES: usize = 512;

/// The labels of a container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) process: String,
    pub(crate) mount: String,
}

/// Settles labels, or `None` where none are asked for.
pub(crate) fn labels(asked: Option<&SelinuxOptions>) -> Result<Option<Labels>, SpecError> {
    let Some(asked) = asked.filter(|asked| **asked != SelinuxOptions::default()) else {
        return Ok(None);
    };
    let SelinuxOptions { user, role, type_, level } = asked;
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let user = part("user of the SELinux label", user, USER, word)?;
    let role = part("role of the SELinux label", role, ROLE, word)?;
    let type_ = part("type of the SELinux label", type_, TYPE, word)?;
    let in_level = |c: char| word(c) || matches!(c, ':' | ',');
    let level = part("level of the SELinux label", level, LEVEL, in_level)?;
    Ok(Some(Labels {
        process: format!("{user}:{role}:{type_}:{level}"),
        mount: format!("{user}:{FILE_ROLE}:{FILE_TYPE}:{level}"),
    }))
}

fn part<'a>(
    what: &'static str,
    asked: &'a str,
    default: &'a str,
    good: impl Fn(char) -> bool,
) -> Result<&'a str, SpecError> {
    check_count(what, asked.len(), MAX_PART_BYTES)?;
    if !asked.chars().all(good) {
        return Err(SpecError::Characters { what, text: shown(asked) });
    }
    Ok(if asked.is_empty() { default } else { asked })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(user: &str, role: &str, type_: &str, level: &str) -> SelinuxOptions {
        SelinuxOptions {
            user: user.to_owned(),
            role: role.to_owned(),
            type_: type_.to_owned(),
            level: level.to_owned(),
        }
    }

    #[test]
    fn labels_are_put_together() {
        let level = labels(Some(&asked("", "", "", "s0:c1,c2"))).unwrap().unwrap();
        assert_eq!(level.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(level.mount, "system_u:object_r:container_file_t:s0:c1,c2");
        let all = labels(Some(&asked("u_u", "u_r", "spc_t", "s0"))).unwrap().unwrap();
        assert_eq!(all.process, "u_u:u_r:spc_t:s0");
        assert_eq!(labels(None).unwrap(), None);
        assert_eq!(labels(Some(&SelinuxOptions::default())).unwrap(), None);
    }

    #[test]
    fn a_part_cannot_become_two() {
        for bad in [
            asked("a:b", "", "", ""),
            asked("", "a b", "", ""),
            asked("", "", "t\n", ""),
            asked("", "", "", "s0\"x"),
        ] {
            assert!(labels(Some(&bad)).is_err(), "{bad:?}");
        }
    }
}
