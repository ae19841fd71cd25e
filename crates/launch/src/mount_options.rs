//! The options of a spec's mount, sorted by what they act on. Pure.

use std::path::Path;

use oci_spec::runtime::Mount;
use sys::mount::{self, MountAttr, Propagation};

use crate::container::unsupported;
use crate::step::Done;
use crate::{ChildFailure, Step};

/// A mount's options.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// It binds an existing tree, with what is mounted below it or without.
    pub(crate) bind: Option<Bind>,
    /// Changes to this mount alone.
    pub(crate) top: MountAttr,
    /// Changes to this mount and those below it.
    pub(crate) tree: MountAttr,
    /// The file system's own options.
    pub(crate) data: Vec<(String, Option<String>)>,
    /// It says that owners are mapped.
    is_mapped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    Single,
    Recursive,
}

impl Options {
    pub(crate) fn of(mount: &Mount) -> Done<Self> {
        let is_mapped = |m: &Option<Vec<_>>| m.as_ref().is_some_and(|m| !m.is_empty());
        let has = (is_mapped(mount.uid_mappings()), is_mapped(mount.gid_mappings()));
        let mut options = Self::default();
        if mount.typ().as_deref() == Some("bind") {
            options.bind = Some(Bind::Single);
        }
        for option in mount.options().iter().flatten() {
            options.add(option).map_err(|failure| failure.on(mount.destination()))?;
        }
        options.check(mount.destination(), has)?;
        Ok(options)
    }

    /// Refuses what would have no effect.
    fn check(&self, destination: &Path, (has_uids, has_gids): (bool, bool)) -> Done {
        let failed = |what: &str| {
            let message = format!("the mount on {} {what}", destination.display());
            Err(ChildFailure::new(Step::Spec, message).on(destination))
        };
        if let (Some(_), Some((name, _))) = (self.bind, self.data.first()) {
            return failed(&format!("has the option {name:?}, which a bind mount does not have"));
        }
        match (self.bind, has_uids, has_gids, self.is_mapped) {
            (_, false, false, false) | (Some(_), true, true, _) => Ok(()),
            (None, _, _, _) => failed("maps ids and is no bind mount"),
            (Some(_), false, false, true) => failed("maps ids and does not say which"),
            (Some(_), _, _, _) => failed("maps users or groups alone"),
        }
    }

    /// The propagation that was asked for, at the top or for the tree.
    pub(crate) fn propagation(&self) -> Option<Propagation> {
        self.tree.propagation.or(self.top.propagation)
    }

    fn add(&mut self, option: &str) -> Done {
        match option {
            "" | "defaults" | "async" => {}
            "bind" => self.bind = self.bind.or(Some(Bind::Single)),
            "rbind" => self.bind = Some(Bind::Recursive),
            // Mounts below are mapped with the one above them where they can be.
            "idmap" | "ridmap" => self.is_mapped = true,
            "tmpcopyup" | "remount" => {
                return Err(unsupported(&format!("the mount option {option}")));
            }
            _ if self.add_propagation(option) || self.add_attribute(option) => {}
            _ => self.data.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
        Ok(())
    }

    fn add_propagation(&mut self, option: &str) -> bool {
        let (name, attr) = match option.strip_prefix('r') {
            Some(name) => (name, &mut self.tree),
            None => (option, &mut self.top),
        };
        attr.propagation = Some(match name {
            "private" => Propagation::Private,
            "slave" => Propagation::Slave,
            "shared" => Propagation::Shared,
            "unbindable" => Propagation::Unbindable,
            _ => return false,
        });
        true
    }

    fn add_attribute(&mut self, option: &str) -> bool {
        // `relatime` is a name of its own, not a recursive `elatime`.
        if let Some(change) = attribute(option) {
            apply(&mut self.top, change);
            return true;
        }
        match option.strip_prefix('r').and_then(attribute) {
            Some(change) => apply(&mut self.tree, change),
            None => return false,
        }
        true
    }
}

/// A bit to set, or bits to clear.
#[derive(Clone, Copy)]
enum Change {
    Set(u64),
    Clear(u64),
    /// Takes back a bit that was asked for earlier; a source that has it keeps it.
    Withdraw(u64),
    /// One of the ways to keep access times, which exclude each other.
    Atime(u64),
}

fn attribute(name: &str) -> Option<Change> {
    Some(match name {
        "ro" => Change::Set(mount::ATTR_RDONLY),
        // A tree that is read-only on the host stays so.
        "rw" => Change::Withdraw(mount::ATTR_RDONLY),
        "nosuid" => Change::Set(mount::ATTR_NOSUID),
        "suid" => Change::Clear(mount::ATTR_NOSUID),
        "nodev" => Change::Set(mount::ATTR_NODEV),
        "dev" => Change::Clear(mount::ATTR_NODEV),
        "noexec" => Change::Set(mount::ATTR_NOEXEC),
        "exec" => Change::Clear(mount::ATTR_NOEXEC),
        "nodiratime" => Change::Set(mount::ATTR_NODIRATIME),
        "diratime" => Change::Clear(mount::ATTR_NODIRATIME),
        "nosymfollow" => Change::Set(mount::ATTR_NOSYMFOLLOW),
        "symfollow" => Change::Clear(mount::ATTR_NOSYMFOLLOW),
        "noatime" => Change::Atime(mount::ATTR_NOATIME),
        "strictatime" => Change::Atime(mount::ATTR_STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => Change::Atime(0),
        _ => return None,
    })
}

fn apply(attr: &mut MountAttr, change: Change) {
    match change {
        Change::Set(bit) => {
            attr.set |= bit;
            attr.clear &= !bit;
        }
        Change::Clear(bit) => {
            attr.clear |= bit;
            attr.set &= !bit;
        }
        Change::Withdraw(bit) => attr.set &= !bit,
        Change::Atime(way) => {
            // The kernel wants the whole field cleared by whoever sets it.
            attr.clear |= mount::ATTR_ATIME;
            attr.set = attr.set & !mount::ATTR_ATIME | way;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn parse(typ: &str, options: &[&str]) -> Done<Options> {
        let options: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
        let mount = MountBuilder::default().destination("/x").typ(typ).options(options);
        Options::of(&mount.build().expect("built"))
    }

    fn attr(set: u64, clear: u64) -> MountAttr {
        MountAttr { set, clear, propagation: None }
    }

    #[test]
    fn options_are_sorted() {
        let (ro, nosuid) = (mount::ATTR_RDONLY, mount::ATTR_NOSUID);
        let atime = mount::ATTR_ATIME;
        let table: [(&[&str], MountAttr, MountAttr); 9] = [
            (&["ro"], attr(ro, 0), attr(0, 0)),
            (&["rro"], attr(0, 0), attr(ro, 0)),
            (&["ro", "rw"], attr(0, 0), attr(0, 0)),
            (&["rw"], attr(0, 0), attr(0, 0)),
            (&["nosuid", "ro"], attr(ro | nosuid, 0), attr(0, 0)),
            (&["suid"], attr(0, nosuid), attr(0, 0)),
            (&["relatime"], attr(0, atime), attr(0, 0)),
            (&["rnoatime"], attr(0, 0), attr(mount::ATTR_NOATIME, atime)),
            (&["noatime", "strictatime"], attr(mount::ATTR_STRICTATIME, atime), attr(0, 0)),
        ];
        for (options, top, tree) in table {
            let parsed = parse("tmpfs", options).expect("parsed");
            assert_eq!((parsed.top, parsed.tree), (top, tree), "{options:?}");
            assert!(parsed.data.is_empty(), "{options:?}");
        }
    }

    #[test]
    fn binds_propagation_and_data() {
        let parsed = parse("bind", &["rbind", "rslave"]).expect("parsed");
        assert_eq!(parsed.bind, Some(Bind::Recursive));
        assert_eq!(parsed.tree.propagation, Some(Propagation::Slave));
        assert_eq!(parse("none", &["bind"]).expect("parsed").bind, Some(Bind::Single));
        let parsed = parse("tmpfs", &["mode=755", "newinstance"]).expect("parsed");
        let data = [("mode".to_owned(), Some("755".to_owned())), ("newinstance".to_owned(), None)];
        assert_eq!((parsed.bind, parsed.data), (None, data.to_vec()));
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for option in ["tmpcopyup", "remount", "sync", "size=1k"] {
            let failure = parse("bind", &[option]).expect_err(option);
            let name = option.split('=').next().expect("name");
            assert!(failure.message.contains(name), "{failure}");
        }
        for (typ, option) in [("bind", "idmap"), ("tmpfs", "ridmap")] {
            let failure = parse(typ, &[option]).expect_err(option);
            assert!(failure.message.contains("maps ids"), "{failure}");
        }
    }
}
