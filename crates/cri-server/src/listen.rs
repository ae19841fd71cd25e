//! Unix sockets: opened, never stolen from a live owner, closed without a trace.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Only unix sockets are served.
    #[error("\"{0}\" is not a unix socket: give unix:///absolute/path")]
    NotUnix(String),
    /// A process listens there.
    #[error("{0} is in use: a process listens on it")]
    InUse(PathBuf),
    /// Something that is not a socket is there.
    #[error("{0} is there and is not a socket: remove it")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("failed to listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A socket to be listened on; the file goes with the value, and the directory that was made for
/// it. What another process has put in its place by then stays.
#[derive(Debug)]
pub struct Endpoint {
    path: PathBuf,
    /// The file, by device and number.
    owned: Option<(u64, u64)>,
    made_directory: Option<PathBuf>,
}

impl Endpoint {
    /// Takes `unix:///path`, `unix:/path` or `/path`.
    ///
    /// # Errors
    /// Fails on other schemes and on relative paths.
    pub fn parse(text: &str) -> Result<Self, ListenError> {
        let path =
            text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
        if path.starts_with('/') {
            Ok(Self { path: path.into(), owned: None, made_directory: None })
        } else {
            Err(ListenError::NotUnix(text.to_owned()))
        }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Listens, for root only. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// Fails where a process listens there, where something else is there, or where the
    /// system refuses.
    pub fn listen(&mut self) -> Result<UnixListener, ListenError> {
        let failed = |source| ListenError::Listen { path: self.path.clone(), source };
        if let Some(parent) = self.path.parent().filter(|parent| !parent.exists()) {
            self.made_directory = Some(parent.to_owned());
            fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(failed)?;
        }
        match fs::symlink_metadata(&self.path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(ListenError::NotASocket(self.path.clone()));
            }
            Ok(_) if StdUnixStream::connect(&self.path).is_ok() => {
                return Err(ListenError::InUse(self.path.clone()));
            }
            Ok(_) => fs::remove_file(&self.path).map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        // Made under another name and renamed once its mode is right: nobody else can
        // connect in between.
        let aside = self.path.with_extension("new");
        let _ = fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside).map_err(failed)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let file = identity(&aside).map_err(failed)?;
        fs::rename(&aside, &self.path).map_err(failed)?;
        self.owned = Some(file);
        Ok(listener)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.owned.is_some() && identity(&self.path).ok() == self.owned {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(directory) = &self.made_directory {
            // Only an empty one goes.
            let _ = fs::remove_dir(directory);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_live_socket_is_never_stolen_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("unix://{}", dir.path().join("x.sock").display());
        let mut first = Endpoint::parse(&text).unwrap();
        let listener = first.listen().unwrap();
        let mode = fs::metadata(first.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Endpoint::parse(&text).unwrap().listen(), Err(ListenError::InUse(_))));
        drop(listener);
        Endpoint::parse(&text).unwrap().listen().unwrap();
    }

    #[tokio::test]
    async fn what_was_made_goes_and_what_another_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/x.sock");
        let text = path.display().to_string();
        let mut endpoint = Endpoint::parse(&text).unwrap();
        drop(endpoint.listen().unwrap());
        drop(endpoint);
        assert!(!dir.path().join("made").exists());

        let mut endpoint = Endpoint::parse(&text).unwrap();
        let _listener = endpoint.listen().unwrap();
        fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(endpoint);
        StdUnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn other_files_and_other_schemes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let text = path.display().to_string();
        assert!(matches!(
            Endpoint::parse(&text).unwrap().listen(),
            Err(ListenError::NotASocket(_))
        ));
        assert!(path.exists());
        for bad in ["tcp://127.0.0.1:1", "relative.sock", "unix://relative"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
