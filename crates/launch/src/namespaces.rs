//! Joining and making the namespaces of a container, other than its PID namespace.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::thread::LinkNameSpaceType;
use sys::mount::{MountAttr, Propagation};
use sys::namespace::NewNamespaces;

use crate::container::unsupported;
use crate::step::{Done, During};
use crate::{ChildFailure, Step};

/// Which namespaces are joined and which are made; what is in neither stays the host's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) new: NewNamespaces,
    pub(crate) join: Vec<(Kind, PathBuf)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Net,
    Ipc,
    Uts,
    Cgroup,
}

impl Plan {
    /// Reads the spec. The mount namespace is always a new one; the PID namespace is the
    /// caller's concern.
    pub(crate) fn of(spec: &Spec) -> Done<Self> {
        let mut plan =
            Self { new: NewNamespaces { mount: true, ..Default::default() }, ..Self::default() };
        let linux = spec.linux().as_ref();
        for namespace in linux.and_then(|l| l.namespaces().as_ref()).into_iter().flatten() {
            let path = namespace.path().clone().filter(|path| !path.as_os_str().is_empty());
            let kind = match namespace.typ() {
                LinuxNamespaceType::Pid => continue,
                LinuxNamespaceType::Mount if path.is_none() => continue,
                LinuxNamespaceType::Mount => return Err(unsupported("a given mount namespace")),
                // Entered by itself, when what needs the host's privileges is done.
                LinuxNamespaceType::User => continue,
                LinuxNamespaceType::Time => return Err(unsupported("a time namespace")),
                LinuxNamespaceType::Network => Kind::Net,
                LinuxNamespaceType::Ipc => Kind::Ipc,
                LinuxNamespaceType::Uts => Kind::Uts,
                LinuxNamespaceType::Cgroup => Kind::Cgroup,
            };
            plan.add(kind, path)?;
        }
        Ok(plan)
    }

    /// Tells whether the container has a namespace of this kind apart from the host's.
    pub(crate) fn has_own(&self, kind: Kind) -> bool {
        self.is_new(kind) || self.join.iter().any(|(joined, _)| *joined == kind)
    }

    pub(crate) fn is_new(&self, kind: Kind) -> bool {
        match kind {
            Kind::Net => self.new.net,
            Kind::Ipc => self.new.ipc,
            Kind::Uts => self.new.uts,
            Kind::Cgroup => self.new.cgroup,
        }
    }

    fn add(&mut self, kind: Kind, path: Option<PathBuf>) -> Done {
        if self.has_own(kind) {
            let message = format!("the spec has two {kind:?} namespaces");
            return Err(ChildFailure::new(Step::Spec, message));
        }
        if let Some(path) = path {
            self.join.push((kind, path));
            return Ok(());
        }
        match kind {
            Kind::Net => self.new.net = true,
            Kind::Ipc => self.new.ipc = true,
            Kind::Uts => self.new.uts = true,
            Kind::Cgroup => self.new.cgroup = true,
        }
        Ok(())
    }
}

/// Joins what is given and makes the rest.
pub(crate) fn enter(plan: &Plan) -> Done {
    join(plan)?;
    make(plan.new)
}

/// Makes namespaces.
pub(crate) fn make(new: NewNamespaces) -> Done {
    sys::namespace::unshare(new).during(Step::Namespace, "failed to make namespaces")
}

/// Joins what is given. All paths are opened before the first change.
pub(crate) fn join(plan: &Plan) -> Done {
    let mut opened = Vec::with_capacity(plan.join.len());
    for (kind, path) in &plan.join {
        let file = File::open(path);
        opened.push((*kind, path, file.during_on(Step::Namespace, "failed to open", path)?));
    }
    for (kind, path, file) in opened {
        let link = match kind {
            Kind::Net => LinkNameSpaceType::Network,
            Kind::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Kind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Kind::Cgroup => LinkNameSpaceType::ControlGroup,
        };
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(link)).during_on(
            Step::Namespace,
            "failed to join the namespace",
            path,
        )?;
    }
    Ok(())
}

/// Keeps every mount that is made from here on out of the host's mount table.
pub(crate) fn detach_mounts() -> Done {
    let slave = MountAttr { propagation: Some(Propagation::Slave), ..MountAttr::default() };
    sys::mount::set_attributes_at(c"/", slave, true)
        .during(Step::Namespace, "failed to detach from the host's mounts")
}

/// Sets the host and domain name.
pub(crate) fn set_names(spec: &Spec, plan: &Plan) -> Done {
    let host = spec.hostname().as_deref().filter(|name| !name.is_empty());
    let domain = spec.domainname().as_deref().filter(|name| !name.is_empty());
    if (host.is_some() || domain.is_some()) && !plan.has_own(Kind::Uts) {
        let message = "a host name is given but the uts namespace is the host's";
        return Err(ChildFailure::new(Step::Hostname, message));
    }
    if let Some(name) = host {
        rustix::system::sethostname(name.as_bytes())
            .during(Step::Hostname, "failed to set the host name")?;
    }
    if let Some(name) = domain {
        rustix::system::setdomainname(name.as_bytes())
            .during(Step::Hostname, "failed to set the domain name")?;
    }
    Ok(())
}
