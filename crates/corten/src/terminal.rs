//! The terminal that we run in: raw while a container's terminal is shown in it.

use std::io;

use rustix::termios::{OptionalActions, Termios};
use streaming::TerminalSize;

/// A terminal in raw mode. Dropped, it is as it was.
pub struct RawMode(Option<Termios>);

impl RawMode {
    /// Sets standard input raw; what is no terminal stays as it is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        if !rustix::termios::isatty(stdin) {
            return Ok(Self(None));
        }
        let before = rustix::termios::tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin, OptionalActions::Flush, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let stdin = rustix::stdio::stdin();
            let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Flush, before);
        }
    }
}

/// The size of the terminal on standard output, or else on standard input.
pub fn size() -> Option<TerminalSize> {
    let of = |fd| rustix::termios::tcgetwinsize(fd).ok();
    let size = of(rustix::stdio::stdout()).or_else(|| of(rustix::stdio::stdin()))?;
    (size.ws_col > 0).then_some(TerminalSize { width: size.ws_col, height: size.ws_row })
}
