//! Kernel parameters, written through a procfs of our own that nobody can have mounted over.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::namespaces::{Kind, Plan};
use crate::step::{Done, During};
use crate::{ChildFailure, Step, procfs};

/// Opens what the parameters of the spec are written by, where there are any. To be called while
/// the caller is the host's root.
pub(crate) fn open_for(spec: &Spec) -> Done<Option<OwnedFd>> {
    parameters(spec).next().is_some().then(procfs::fresh).transpose()
}

/// Sets the parameters of the spec.
pub(crate) fn set_of_container(spec: &Spec, plan: &Plan, proc: Option<&OwnedFd>) -> Done {
    let Some(proc) = proc else { return Ok(()) };
    for (key, value) in parameters(spec) {
        set(proc, key, value, |kind| plan.has_own(kind))?;
    }
    Ok(())
}

fn parameters(spec: &Spec) -> impl Iterator<Item = (&String, &String)> {
    let linux = spec.linux().as_ref();
    linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten()
}

/// Sets one parameter, if it belongs to a namespace that is not the host's.
pub(crate) fn set(proc: &OwnedFd, key: &str, value: &str, has_own: impl Fn(Kind) -> bool) -> Done {
    let parts = parts_of(key).ok_or_else(|| refused(key, "is not the name of a parameter"))?;
    match namespace_of(&parts) {
        Some(kind) if has_own(kind) => {}
        Some(_) => return Err(refused(key, "belongs to a namespace of the host")),
        None => return Err(refused(key, "belongs to no namespace")),
    }
    if value.contains(['\n', '\0']) {
        return Err(refused(key, "has a value of several lines"));
    }
    let path: PathBuf = ["sys"].into_iter().chain(parts).collect();
    let file = sys::root::open_in_mount(proc, &path, OFlags::WRONLY);
    let set = file.and_then(|file| File::from(file).write_all(value.as_bytes()));
    let why = match set.as_ref().err().and_then(Errno::from_io_error) {
        Some(Errno::NOENT) => "does not exist in the pod's namespace with this kernel".to_owned(),
        Some(Errno::INVAL) => format!("does not take the value {value:?}"),
        _ => return set.during(Step::Sysctl, &format!("failed to set the kernel parameter {key}")),
    };
    let errno = set.err().and_then(|error| error.raw_os_error());
    Err(ChildFailure { errno, ..refused(key, &why) })
}

fn refused(key: &str, why: &str) -> ChildFailure {
    ChildFailure::new(Step::Sysctl, format!("the kernel parameter {key:?} {why}"))
}

/// Splits at dots or at slashes, whichever comes first; the other one is then part of a name, as
/// in `net/ipv4/conf/eth0.1/forwarding`.
fn parts_of(key: &str) -> Option<Vec<&str>> {
    let separator = key.chars().find(|c| matches!(c, '.' | '/'))?;
    let parts: Vec<&str> = key.split(separator).collect();
    let is_name = |part: &&str| {
        !part.is_empty() && *part != "." && *part != ".." && !part.contains(['/', '\0', '\n'])
    };
    parts.iter().all(is_name).then_some(parts)
}

/// The namespace that a parameter belongs to.
fn namespace_of(parts: &[&str]) -> Option<Kind> {
    match parts {
        ["net", _, ..] => Some(Kind::Net),
        ["fs", "mqueue", _, ..] => Some(Kind::Ipc),
        ["kernel", name] => match *name {
            "hostname" | "domainname" => Some(Kind::Uts),
            "msgmax" | "msgmnb" | "msgmni" | "sem" | "shmall" | "shmmax" | "shmmni"
            | "shm_rmid_forced" | "auto_msgmni" | "msg_next_id" | "sem_next_id" | "shm_next_id" => {
                Some(Kind::Ipc)
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_namespace() {
        let table = [
            ("net.ipv4.ip_forward", Some(Kind::Net)),
            ("net/ipv4/conf/eth0.1/forwarding", Some(Kind::Net)),
            ("kernel.shmmax", Some(Kind::Ipc)),
            ("fs.mqueue.msg_max", Some(Kind::Ipc)),
            ("kernel.domainname", Some(Kind::Uts)),
            ("kernel.core_pattern", None),
            ("kernel/../kernel/core_pattern", None),
            ("net/../kernel/core_pattern", None),
            ("net..ipv4", None),
            ("net./x", None),
            ("vm.swappiness", None),
            ("net", None),
            ("", None),
        ];
        for (key, expected) in table {
            let found = parts_of(key).and_then(|parts| namespace_of(&parts));
            assert_eq!(found, expected, "{key}");
        }
    }
}
