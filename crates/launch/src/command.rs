//! The command: its environment, where it lies, and executing it.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use sys::exec::{StringArray, execve};

use crate::step::{Done, reason};
use crate::{ChildFailure, Step};

/// Where a command is looked for when the container's environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of the container's passwd file is read for the home directory.
const MAX_PASSWD_BYTES: u64 = 1024 * 1024;

/// What is to be executed, in the form that the kernel reads.
#[derive(Debug)]
pub(crate) struct Command {
    name: String,
    candidates: Vec<CString>,
    args: StringArray,
    env: StringArray,
}

impl Command {
    /// Prepares the command. The container's root is `root`.
    pub(crate) fn of(process: &Process, root: &OwnedFd) -> Done<Self> {
        let args: &[String] = process.args().as_deref().unwrap_or_default();
        let name = args.first().cloned().unwrap_or_default();
        let mut env: Vec<String> = process.env().clone().unwrap_or_default();
        // An entry without a value is no variable, and must never stand for one of ours.
        env.retain(|entry| entry.find('=').is_some_and(|at| at > 0));
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={}", home_of(process.user().uid(), root)));
        }
        let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let candidates = candidates(&name, path.unwrap_or(DEFAULT_PATH));
        Ok(Self {
            candidates: c_strings(&candidates)?,
            args: StringArray::new(c_strings(args)?),
            env: StringArray::new(c_strings(&env)?),
            name,
        })
    }

    /// Executes the first candidate that can be; comes back only with the failure.
    pub(crate) fn execute(&self) -> ChildFailure {
        let mut worst = io::Error::from(Errno::NOENT);
        for candidate in &self.candidates {
            let error = execve(candidate, &self.args, &self.env);
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT | Errno::NOTDIR) => {
                    if rustix::fs::stat(candidate.as_c_str()).is_ok() {
                        return self.failure(
                            &error,
                            "no such file or directory (its interpreter is missing)",
                        );
                    }
                }
                // Another directory of the PATH may have one that is executable.
                Some(Errno::ACCESS) => worst = error,
                _ => return self.failure(&error, &reason(&error)),
            }
        }
        let text = match worst.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) if !self.name.contains('/') => {
                "executable file not found in $PATH".to_owned()
            }
            _ => reason(&worst),
        };
        self.failure(&worst, &text)
    }

    fn failure(&self, error: &io::Error, text: &str) -> ChildFailure {
        let message = format!("exec: {:?}: {text}", self.name);
        let mut failure = ChildFailure::new(Step::Exec, message).on(Path::new(&self.name));
        failure.errno = error.raw_os_error();
        failure
    }
}

fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    if name.is_empty() {
        return Vec::new();
    }
    // An empty entry is the working directory, which is never searched here.
    path.split(':').filter(|dir| !dir.is_empty()).map(|dir| format!("{dir}/{name}")).collect()
}

fn c_strings(strings: &[String]) -> Done<Vec<CString>> {
    let convert = |s: &String| CString::new(s.as_str());
    strings.iter().map(convert).collect::<Result<_, _>>().map_err(|_| {
        ChildFailure::new(Step::Spec, "an argument or a variable contains a zero byte")
    })
}

/// The user's home directory by the container's own passwd file, `/` where it has none.
fn home_of(uid: u32, root: &OwnedFd) -> String {
    read_passwd(root).ok().and_then(|text| home_in(&text, uid)).unwrap_or_else(|| "/".to_owned())
}

/// Reads no more than is sane, and nothing but a regular file: the image may have a pipe there.
fn read_passwd(root: &OwnedFd) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = sys::root::open(root, Path::new("/etc/passwd"), flags)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = Vec::new();
    File::from(file).take(MAX_PASSWD_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn home_in(text: &[u8], uid: u32) -> Option<String> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let number = std::str::from_utf8(fields.get(2)?).ok()?;
        let home = Path::new(OsStr::from_bytes(fields.get(5)?)).to_str()?;
        let is_user = number.parse() == Ok(uid);
        (is_user && home.starts_with('/') && !home.contains(['\r', '\0'])).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_looked_for_where_they_may_lie() {
        let table: [(&str, &str, &[&str]); 5] = [
            ("sh", "/bin:/usr/bin", &["/bin/sh", "/usr/bin/sh"]),
            ("sh", ":/bin::", &["/bin/sh"]),
            ("./sh", "/bin", &["./sh"]),
            ("/x/sh", "/bin", &["/x/sh"]),
            ("", "/bin", &[]),
        ];
        for (name, path, expected) in table {
            assert_eq!(candidates(name, path), expected, "{name}");
        }
    }

    #[test]
    fn the_home_directory_is_the_users() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbad\n:::\nu:x:1000:1000::/home/u:/bin/sh\n\
                       r:x:7:7::relative:/bin/sh\n";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 1000).as_deref(), Some("/home/u"));
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in(passwd, 5), None);
    }
}
