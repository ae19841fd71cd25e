//! What the monitor waits for.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use types::ContainerId;

use crate::attach::Part;
use crate::stream::Which;

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Listener,
    Signals,
    Connection(u64),
    Launch(ContainerId),
    ExecLaunch(u64),
    Stream(ContainerId, Which),
    /// A container's standard input, while it takes no more.
    Stdin(ContainerId),
    Attached(u64, Part),
    Program(u64),
}

/// An epoll set whose keys are never reused, so that an event of a closed descriptor
/// is nobody's.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next: u64,
}

/// How many events are taken at a time.
const BATCH: usize = 64;

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sources: HashMap::new(),
            next: 0,
        })
    }

    /// Waits for a descriptor to be readable. The key is for [`Poll::remove`].
    pub(crate) fn add(&mut self, fd: BorrowedFd<'_>, source: Source) -> io::Result<u64> {
        self.add_for(fd, source, epoll::EventFlags::IN)
    }

    /// Waits for a descriptor's other end to be gone, and for nothing else.
    pub(crate) fn add_for_end(&mut self, fd: BorrowedFd<'_>, source: Source) -> io::Result<u64> {
        self.add_for(fd, source, epoll::EventFlags::empty())
    }

    /// Waits for a descriptor to be writable.
    pub(crate) fn add_for_room(&mut self, fd: BorrowedFd<'_>, source: Source) -> io::Result<u64> {
        self.add_for(fd, source, epoll::EventFlags::OUT)
    }

    fn add_for(
        &mut self,
        fd: BorrowedFd<'_>,
        source: Source,
        flags: epoll::EventFlags,
    ) -> io::Result<u64> {
        let key = self.next;
        self.next += 1;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key), flags)?;
        self.sources.insert(key, source);
        Ok(key)
    }

    /// Waits for it to be writable too, or no longer.
    pub(crate) fn also_writable(
        &self,
        fd: BorrowedFd<'_>,
        key: u64,
        writable: bool,
    ) -> io::Result<()> {
        let mut flags = epoll::EventFlags::IN;
        if writable {
            flags |= epoll::EventFlags::OUT;
        }
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(key), flags)?;
        Ok(())
    }

    /// Forgets a descriptor that is about to be closed.
    pub(crate) fn remove(&mut self, fd: BorrowedFd<'_>, key: u64) {
        // A descriptor that is gone already is not in the set any more.
        let _ = epoll::delete(&self.epoll, fd);
        self.sources.remove(&key);
    }

    /// Waits for events until `until`; none means that the time is over.
    pub(crate) fn wait(&self, until: Option<Instant>) -> io::Result<Vec<Source>> {
        let mut events = Vec::with_capacity(BATCH);
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match epoll::wait(self.epoll.as_fd(), spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(events.iter().filter_map(|e| self.sources.get(&e.data.u64()).cloned()).collect())
    }
}
