//! The monitor's own log: what nobody else can be told.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most lines of a monitor's life. It has little to say; a condition that repeats must not
/// fill the disk of the state directory, which may be memory.
const MAX_LINES: usize = 256;

static LINES: AtomicUsize = AtomicUsize::new(0);

/// Says something in the monitor's log, one line. What the disk does not take is not said.
pub(crate) fn say(text: &str) {
    let number = LINES.fetch_add(1, Ordering::Relaxed);
    let text = match number {
        0..MAX_LINES => text,
        MAX_LINES => "more is not said",
        _ => {
            // The count stays where it is: it must not come around.
            LINES.store(MAX_LINES + 1, Ordering::Relaxed);
            return;
        }
    };
    let _ = writeln!(std::io::stderr(), "corten-monitor: {}", text.replace('\n', " "));
}
