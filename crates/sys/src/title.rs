//! What a process is called in lists of processes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::clone::ChildToken;

/// Where `/proc/<pid>/stat` has the first and the last address of the arguments: fields
/// 48 and 49 (proc_pid_stat(5)), counted here from the one that follows the name.
const ARGUMENTS: (usize, usize) = (45, 46);

/// Replaces the process's arguments by its name and `title`.
///
/// A child that was cloned and does not execute has its parent's arguments, and whoever
/// shares its PID namespace can read them. Only a child may: the arguments of the
/// program itself belong to the standard library.
///
/// The memory is written through the kernel: naming another place
/// (`PR_SET_MM_ARG_START`) takes `CAP_SYS_RESOURCE`.
///
/// # Errors
/// Where `/proc` cannot be read, or says nothing sensible.
pub fn set(_child: &ChildToken, title: &str) -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (start, length) = arguments(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let mut text = vec![0; length];
    // The last byte stays zero: otherwise the kernel looks for more behind it.
    for (place, byte) in text.iter_mut().take(length.saturating_sub(1)).zip(title.bytes()) {
        *place = byte;
    }
    File::options().write(true).open("/proc/self/mem")?.write_all_at(&text, start)
}

fn arguments(stat: &str) -> Option<(u64, usize)> {
    // The name may hold anything, parentheses included.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let (start, end) = (field(ARGUMENTS.0)?, field(ARGUMENTS.1)?);
    let length = usize::try_from(end.checked_sub(start)?).ok()?;
    (start != 0).then_some((start, length))
}

#[cfg(test)]
mod tests {
    use super::arguments;

    #[test]
    fn the_place_of_the_arguments_is_found() {
        let stat = fs_stat();
        let (start, length) = arguments(&stat).expect("a place");
        let line = std::fs::read("/proc/self/cmdline").expect("read");
        assert_eq!(line.len(), length);
        assert!(start > 0);
        assert_eq!(arguments("1 (a) b) S 0 0"), None);
        assert_eq!(arguments(""), None);
    }

    fn fs_stat() -> String {
        std::fs::read_to_string("/proc/self/stat").expect("read")
    }
}
