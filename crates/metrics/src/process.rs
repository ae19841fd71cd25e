//! What the kernel says of this process, by the names that all of Prometheus' libraries have.

use std::{fs, sync::OnceLock, time::Duration};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

use crate::exposition::{Exposition, Kind};

/// Writes the figures of this process. Those that the kernel does not tell are left out.
pub fn write_process(exposition: &mut Exposition) {
    use Kind::{Counter, Gauge};
    let cpu = seconds(ClockId::ProcessCPUTime);
    exposition.single(
        Counter,
        "process_cpu_seconds",
        "Processor time of the daemon, of user and system, in seconds.",
        cpu,
    );
    if let Some(Stat { threads, started }) = Stat::read() {
        let help = "When the daemon was started, in seconds since 1970.";
        exposition.single(Gauge, "process_start_time_seconds", help, started);
        exposition.single(Gauge, "process_threads", "Threads of the daemon.", threads);
    }
    if let Some([virtual_pages, resident_pages]) = pages() {
        let page = page_size() as u64;
        let help = "Address space of the daemon, in bytes.";
        exposition.single(Gauge, "process_virtual_memory_bytes", help, virtual_pages * page);
        let help = "Memory of the daemon that is resident, in bytes.";
        exposition.single(Gauge, "process_resident_memory_bytes", help, resident_pages * page);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One is that of the directory itself.
        let open = open.count().saturating_sub(1);
        let help = "File descriptors that the daemon has open.";
        exposition.single(Gauge, "process_open_fds", help, open);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        let help = "The most file descriptors that the daemon may have open.";
        exposition.single(Gauge, "process_max_fds", help, most);
    }
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    let whole = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(whole, nanos).as_secs_f64()
}

/// Of proc_pid_stat(5).
struct Stat {
    threads: u64,
    /// In seconds since 1970.
    started: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        // It must not move with each reading as the two clocks do.
        static STARTED: OnceLock<f64> = OnceLock::new();
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let [threads, ticks] = fields(&stat)?;
        let started = STARTED.get_or_init(|| {
            let since_boot = ticks as f64 / clock_ticks_per_second() as f64;
            let boot = seconds(ClockId::Realtime) - seconds(ClockId::Boottime);
            ((boot + since_boot) * 100.0).round() / 100.0
        });
        Some(Self { threads, started: *started })
    }
}

/// The number of threads, and the start in ticks since the machine's.
fn fields(stat: &str) -> Option<[u64; 2]> {
    // The name may hold anything, parentheses included; the state, field 3, is behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some([field(20)?, field(22)?])
}

/// The pages of the address space, and those that are resident.
fn pages() -> Option<[u64; 2]> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut numbers = statm.split_ascii_whitespace().map_while(|number| number.parse().ok());
    Some([numbers.next()?, numbers.next()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4 1 0 0 0 3 4 0 0 20 0 12 0 9876 1 2 3";
        assert_eq!(fields(stat), Some([12, 9876]));
        assert_eq!(fields("7 (a) S 1"), None);
    }

    #[test]
    fn the_figures_are_this_process() {
        let mut exposition = Exposition::new(Format::Text);
        write_process(&mut exposition);
        let text = exposition.finish();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.split(' ').next() == Some(name));
            line.and_then(|line| line.split(' ').nth(1)).expect(name).parse().expect(name)
        };
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let started = value("process_start_time_seconds");
        assert!(started <= now + 1.0 && now - started < 3600.0, "{started} {now}");
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_resident_memory_bytes") > 65536.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
