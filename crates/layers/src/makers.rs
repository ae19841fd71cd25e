//! Small files are written by threads beside the one that reads the stream: that is most
//! of the work, and it is the kernel's.
//!
//! Names are made by the reading thread alone, in the stream's order; what is handed over
//! is an open file. So nothing that a thread does depends on what another does, and the
//! tree is the one that the entries make in their order.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Gid, Mode, Timestamps, Uid},
    io::Errno,
};

use crate::{UnpackError, dirs::failed, xattrs};

/// Up to how many bytes a file is small.
pub(crate) const SMALL: u64 = 64 << 10;

/// How many files are handed over at a time, so that a wake-up is worth it. Each is an
/// open file of the process.
const BATCH: usize = 16;
/// The same in bytes.
const BATCH_BYTES: usize = 256 << 10;
/// How many batches wait.
const QUEUED: usize = 4;

/// A file that is open and empty, with everything that it is to get.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) file: OwnedFd,
    pub(crate) meta: FileMeta,
    pub(crate) data: Vec<u8>,
}

/// What a file has beside its name and data.
#[derive(Debug)]
pub(crate) struct FileMeta {
    /// As the entry has it, for errors.
    pub(crate) path: Vec<u8>,
    pub(crate) mode: u32,
    /// `None` where new files have the right one.
    pub(crate) owner: Option<(Option<Uid>, Option<Gid>)>,
    /// Whether the mode has to be set once the file is there.
    pub(crate) chmod: bool,
    pub(crate) times: Timestamps,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl FileMeta {
    /// Gives a file whose data is written the rest. Returns how many attributes were
    /// dropped.
    pub(crate) fn finish(&self, file: impl AsFd) -> Result<u64, UnpackError> {
        let file = file.as_fd();
        let fail = |action, errno| failed(action, &self.path, errno);
        if let Some((uid, gid)) = self.owner {
            rustix::fs::fchown(file, uid, gid).map_err(|e| fail("set the owner of", e))?;
        }
        // After the owner, which a change of would take the special bits away, and
        // the capabilities too.
        if self.chmod {
            rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode))
                .map_err(|e| fail("set the mode of", e))?;
        }
        let dropped =
            xattrs::set(file, &self.xattrs).map_err(|e| fail("set an attribute of", e))?;
        rustix::fs::futimens(file, &self.times).map_err(|e| fail("set the time of", e))?;
        Ok(dropped)
    }
}

/// Writes all of `data`.
pub(crate) fn write_all(file: impl AsFd, mut data: &[u8]) -> rustix::io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(&file, data) {
            Ok(written) => data = &data[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// What has come of the jobs that were handed over.
#[derive(Debug, Default)]
struct Outcome {
    /// Batches that are not done.
    under_way: usize,
    dropped: u64,
    error: Option<UnpackError>,
}

#[derive(Debug, Default)]
struct Shared {
    outcome: Mutex<Outcome>,
    done: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, batch: Vec<Job>) {
        let mut dropped = 0;
        let mut error = None;
        for job in batch {
            match fill(&job) {
                Ok(count) => dropped += count,
                Err(failed) => error = Some(failed),
            }
        }
        let mut all = self.lock();
        all.dropped += dropped;
        all.error = all.error.take().or(error);
        all.under_way -= 1;
        self.done.notify_all();
    }
}

fn fill(job: &Job) -> Result<u64, UnpackError> {
    write_all(&job.file, &job.data).map_err(|e| failed("write", &job.meta.path, e))?;
    job.meta.finish(&job.file)
}

/// The threads, and what is under way.
#[derive(Debug)]
pub(crate) struct Makers {
    wanted: usize,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    sender: Option<SyncSender<Vec<Job>>>,
    batch: Vec<Job>,
    batch_bytes: usize,
}

impl Makers {
    /// Makes none yet: `wanted` threads start with the first batch.
    pub(crate) fn new(wanted: usize) -> Self {
        Self {
            wanted,
            shared: Arc::default(),
            threads: Vec::new(),
            sender: None,
            batch: Vec::new(),
            batch_bytes: 0,
        }
    }

    /// Whether there are any.
    pub(crate) fn are_there(&self) -> bool {
        self.wanted > 0
    }

    /// Takes a job over.
    ///
    /// # Errors
    /// That of an earlier job.
    pub(crate) fn push(&mut self, job: Job) -> Result<(), UnpackError> {
        self.batch_bytes += job.data.len();
        self.batch.push(job);
        if self.batch.len() < BATCH && self.batch_bytes < BATCH_BYTES {
            return Ok(());
        }
        self.hand_over();
        self.shared.lock().error.take().map_or(Ok(()), Err)
    }

    /// Gives the batch to a thread; where all are busy the caller's does it itself.
    fn hand_over(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if batch.is_empty() {
            return;
        }
        self.shared.lock().under_way += 1;
        self.start();
        let back = match &self.sender {
            None => Some(batch),
            Some(sender) => match sender.try_send(batch) {
                Ok(()) => None,
                Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => Some(batch),
            },
        };
        if let Some(batch) = back {
            self.shared.fill(batch);
        }
    }

    /// Threads that cannot be had are done without.
    fn start(&mut self) {
        if self.sender.is_some() || self.wanted == 0 {
            return;
        }
        let (sender, receiver) = sync_channel(QUEUED);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..self.wanted {
            let (shared, receiver) = (self.shared.clone(), receiver.clone());
            let thread = std::thread::Builder::new().name("unpack".to_owned());
            if let Ok(thread) = thread.spawn(move || work(&shared, &receiver)) {
                self.threads.push(thread);
            }
        }
        self.sender = (!self.threads.is_empty()).then_some(sender);
    }

    /// Waits until nothing is under way. Returns how many attributes were dropped.
    ///
    /// # Errors
    /// That of a job.
    pub(crate) fn settle(&mut self) -> Result<u64, UnpackError> {
        // What was not handed over yet is done here, beside the others.
        self.shared.lock().under_way += 1;
        self.shared.fill(std::mem::take(&mut self.batch));
        self.batch_bytes = 0;
        let mut outcome = self.shared.lock();
        while outcome.under_way > 0 {
            outcome = self.shared.done.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
        match outcome.error.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut outcome.dropped)),
        }
    }
}

fn work(shared: &Shared, receiver: &Mutex<Receiver<Vec<Job>>>) {
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(batch) => shared.fill(batch),
            Err(_) => return,
        }
    }
}

impl Drop for Makers {
    /// Nothing is written into the tree any more when the caller throws it away.
    fn drop(&mut self) {
        self.sender = None;
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}
