//! How code in the child turns causes into the failure that it reports.

use std::io;
use std::path::{Path, PathBuf};

use crate::{ChildFailure, Step};

/// The result of a step in the child.
pub(crate) type Done<T = ()> = Result<T, ChildFailure>;

/// The most characters of a message: with its path it fits one frame of the channel.
const MAX_MESSAGE_CHARS: usize = 1024;

impl ChildFailure {
    /// A failure that the kernel has no number for.
    pub(crate) fn new(step: Step, message: impl Into<String>) -> Self {
        let message: String = message.into().chars().take(MAX_MESSAGE_CHARS).collect();
        let message = message.replace(['\n', '\r'], " ");
        Self { step, path: None, errno: None, message }
    }

    /// The same, on this path.
    pub(crate) fn on(mut self, path: &Path) -> Self {
        let shown: String = path.to_string_lossy().chars().take(MAX_MESSAGE_CHARS).collect();
        self.path = Some(PathBuf::from(shown));
        self
    }

    fn caused_by(mut self, cause: &io::Error) -> Self {
        self.errno = cause.raw_os_error();
        self
    }
}

/// Names the step that an I/O error ended.
pub(crate) trait During<T> {
    /// The step failed as a whole: `failed to …: cause`.
    fn during(self, step: Step, what: &str) -> Done<T>;
    /// The step failed on a path: `failed to … <path>: cause`.
    fn during_on(self, step: Step, what: &str, path: impl AsRef<Path>) -> Done<T>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: Step, what: &str) -> Done<T> {
        self.map_err(|cause| {
            let cause = cause.into();
            ChildFailure::new(step, format!("{what}: {}", reason(&cause))).caused_by(&cause)
        })
    }

    fn during_on(self, step: Step, what: &str, path: impl AsRef<Path>) -> Done<T> {
        self.map_err(|cause| {
            let (cause, path) = (cause.into(), path.as_ref());
            let message = format!("{what} {}: {}", path.display(), reason(&cause));
            ChildFailure::new(step, message).on(path).caused_by(&cause)
        })
    }
}

/// The cause as users know it: lower case and without the number.
pub(crate) fn reason(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_step_path_and_cause() {
        let cause: Result<(), _> = Err(io::Error::from_raw_os_error(2));
        let failure = cause.during_on(Step::Mount, "failed to mount", "/a\nb").expect_err("fails");
        assert_eq!(failure.message, "failed to mount /a b: no such file or directory");
        assert_eq!((failure.step, failure.errno), (Step::Mount, Some(2)));
    }
}
