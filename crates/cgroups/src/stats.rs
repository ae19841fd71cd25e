//! Figures.

use crate::{
    Cgroup, CgroupError, Mode,
    files::{read, read_number, subtree, value_of},
};

/// A limit above this is v1's way to say that there is none.
const V1_UNLIMITED: u64 = 1 << 62;

/// A cgroup's figures. What the machine does not count is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used, in nanoseconds.
    pub cpu_usage_ns: Option<u64>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The limit of processes and threads, if there is one.
    pub pids_limit: Option<u64>,
}

/// A cgroup's memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All that is charged, caches included.
    pub usage: u64,
    /// Usage without the inactive part of the file cache: what the kubelet evicts by.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Minor page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// The limit, if there is one.
    pub limit: Option<u64>,
    /// Swap used, where it is counted.
    pub swap_usage: Option<u64>,
    /// The limit of swap, if there is one: of v1, which limits memory and swap together, what
    /// is left of that beyond the limit of memory.
    pub swap_limit: Option<u64>,
}

impl Cgroup {
    /// Returns how many processes in the cgroup the kernel has killed for want of
    /// memory, or `None` where that is not counted.
    ///
    /// # Errors
    /// Fails where it cannot be read.
    pub fn oom_kill_count(&self) -> Result<Option<u64>, CgroupError> {
        let file = match self.oom_files() {
            Some(crate::OomFiles::V1 { oom_control, .. }) => oom_control,
            Some(crate::OomFiles::V2 { events }) => events,
            None => return Ok(None),
        };
        Ok(read(&file)?.and_then(|text| value_of(&text, "oom_kill")))
    }

    /// Reads the figures. Of a cgroup that is gone, all are `None`.
    ///
    /// # Errors
    /// Fails where they cannot be read.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        match (self.layout.mode(), self.v2_dir()) {
            (Mode::Unified, Some(dir)) => v2_stats(&dir),
            _ => self.v1_stats(),
        }
    }

    /// Counts the processes in the cgroup and below it, threads not; `None` where it is gone.
    ///
    /// # Errors
    /// Fails where they cannot be read.
    pub fn process_count(&self) -> Result<Option<u64>, CgroupError> {
        // One hierarchy has them all.
        let dir = match self.layout.v1_dir("pids", &self.path) {
            Some(dir) => Some(dir),
            None => self.layout.dirs(&self.path).into_iter().next(),
        };
        let Some(dir) = dir.filter(|dir| dir.is_dir()) else { return Ok(None) };
        let mut count = 0;
        for below in subtree(&dir) {
            let text = read(&below.join("cgroup.procs"))?.unwrap_or_default();
            count += text.lines().count() as u64;
        }
        Ok(Some(count))
    }

    fn v1_stats(&self) -> Result<Stats, CgroupError> {
        let number = |controller: &str, file: &str| match self.layout.v1_dir(controller, &self.path)
        {
            Some(dir) => read_number(&dir.join(file)),
            None => Ok(None),
        };
        Ok(Stats {
            cpu_usage_ns: number("cpuacct", "cpuacct.usage")?,
            memory: self.v1_memory()?,
            pids: number("pids", "pids.current")?,
            pids_limit: number("pids", "pids.max")?,
        })
    }

    fn v1_memory(&self) -> Result<Option<MemoryStats>, CgroupError> {
        let Some(dir) = self.layout.v1_dir("memory", &self.path) else { return Ok(None) };
        let Some(usage) = read_number(&dir.join("memory.usage_in_bytes"))? else { return Ok(None) };
        let Some(stat) = read(&dir.join("memory.stat"))? else { return Ok(None) };
        let value = |key| value_of(&stat, key).unwrap_or(0);
        let both = read_number(&dir.join("memory.memsw.usage_in_bytes"))?;
        let limit = |file: &str| -> Result<Option<u64>, CgroupError> {
            Ok(read_number(&dir.join(file))?.filter(|limit| *limit < V1_UNLIMITED))
        };
        let (limit, limit_of_both) =
            (limit("memory.limit_in_bytes")?, limit("memory.memsw.limit_in_bytes")?);
        Ok(Some(MemoryStats {
            usage,
            working_set: usage.saturating_sub(value("total_inactive_file")),
            rss: value("total_rss"),
            page_faults: value("total_pgfault"),
            major_page_faults: value("total_pgmajfault"),
            limit,
            swap_usage: both.map(|both| both.saturating_sub(usage)),
            swap_limit: limit_of_both.zip(limit).map(|(both, limit)| both.saturating_sub(limit)),
        }))
    }
}

fn v2_stats(dir: &std::path::Path) -> Result<Stats, CgroupError> {
    let cpu = read(&dir.join("cpu.stat"))?;
    Ok(Stats {
        cpu_usage_ns: cpu
            .and_then(|t| value_of(&t, "usage_usec"))
            .map(|us| us.saturating_mul(1000)),
        memory: v2_memory(dir)?,
        pids: read_number(&dir.join("pids.current"))?,
        pids_limit: read_number(&dir.join("pids.max"))?,
    })
}

fn v2_memory(dir: &std::path::Path) -> Result<Option<MemoryStats>, CgroupError> {
    let Some(usage) = read_number(&dir.join("memory.current"))? else { return Ok(None) };
    let Some(stat) = read(&dir.join("memory.stat"))? else { return Ok(None) };
    let value = |key| value_of(&stat, key).unwrap_or(0);
    Ok(Some(MemoryStats {
        usage,
        working_set: usage.saturating_sub(value("inactive_file")),
        rss: value("anon"),
        page_faults: value("pgfault"),
        major_page_faults: value("pgmajfault"),
        limit: read_number(&dir.join("memory.max"))?,
        swap_usage: read_number(&dir.join("memory.swap.current"))?,
        swap_limit: read_number(&dir.join("memory.swap.max"))?,
    }))
}
