//! Reading and merging of files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use crate::{CgroupDriver, Config, Metrics, MetricsAddress};

/// The most bytes that a configuration file may have.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The drop-in file of settings that were changed by [`set`]: after those of people.
const SET_FILE: &str = "90-set.toml";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("failed to read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("failed to write the configuration {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file is not TOML, or holds an unknown key or a value of the wrong type.
    /// The cause's text has the line and the column.
    #[error("the configuration {path} is not valid: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// A value cannot be used.
    #[error("the configuration's {key} is not valid: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// Why.
        reason: String,
    },
}

/// Reads `path` and the drop-in files of `conf.d` beside it. Where `required` is
/// not set, a missing file means the defaults.
///
/// # Errors
/// Fails where a file cannot be read or used, and names it.
pub fn load(path: &Path, required: bool) -> Result<Config, ConfigError> {
    let mut merged = Table::new();
    match read(path) {
        Ok(text) => merge(&mut merged, parse(path, &text)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => {}
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    }
    for drop_in in drop_ins(path)? {
        let text =
            read(&drop_in).map_err(|source| ConfigError::Read { path: drop_in.clone(), source })?;
        merge(&mut merged, parse(&drop_in, &text)?);
    }
    finish(path, merged)
}

/// Reads settings from a text; `name` stands for the file in errors.
///
/// # Errors
/// Fails where the text cannot be used.
pub fn load_text(name: &Path, text: &str) -> Result<Config, ConfigError> {
    finish(name, parse(name, text)?)
}

/// Returns settings as a text that is read again as the same settings.
///
/// # Errors
/// Fails only where a value has no form in TOML.
pub fn to_text(config: &Config) -> Result<String, ConfigError> {
    toml::to_string_pretty(config)
        .map_err(|e| ConfigError::Value { key: "settings", reason: e.to_string() })
}

/// Changes one setting in a drop-in file beside `path` and returns that file. A value that
/// is no TOML is taken as a text. Where the settings would not be usable nothing changes.
///
/// # Errors
/// Fails where the key or the value cannot be used, or the file cannot be written.
pub fn set(path: &Path, key: &str, value: &str) -> Result<PathBuf, ConfigError> {
    let file = path.with_file_name("conf.d").join(SET_FILE);
    let before = match read(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(ConfigError::Read { path: file, source }),
    };
    let mut table = parse(&file, &before)?;
    let value = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    let mut change = Table::from_iter([(String::new(), value)]);
    for part in key.rsplit('.') {
        let inner = change.remove("").unwrap_or_else(|| Value::Table(change.clone()));
        change = Table::from_iter([(part.to_owned(), inner)]);
    }
    merge(&mut table, change);
    let text = toml::to_string_pretty(&table)
        .map_err(|e| ConfigError::Invalid { path: file.clone(), message: e.to_string() })?;
    parse(&file, &text)?;
    let write = |text: &str| {
        let aside = file.with_extension("new");
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        fs::write(&aside, text)?;
        fs::rename(&aside, &file)
    };
    let failed = |source| ConfigError::Write { path: file.clone(), source };
    write(&text).map_err(failed)?;
    if let Err(error) = load(path, false) {
        let restored = if before.is_empty() { fs::remove_file(&file) } else { write(&before) };
        restored.map_err(failed)?;
        return Err(error);
    }
    Ok(file)
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = path.with_file_name("conf.d");
    let failed = |source| ConfigError::Read { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|e| e == "toml") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Checks one file alone, so that an error has that file's name and line.
fn parse(path: &Path, text: &str) -> Result<Table, ConfigError> {
    let invalid = |e: toml::de::Error| ConfigError::Invalid {
        path: path.to_owned(),
        message: one_line(&e, text),
    };
    toml::from_str::<Config>(text).map_err(invalid)?;
    toml::from_str(text).map_err(invalid)
}

fn one_line(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', ", ");
    match error.span() {
        Some(span) => {
            let line = text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
            format!("line {line}: {message}")
        }
        None => message,
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn finish(path: &Path, table: Table) -> Result<Config, ConfigError> {
    let config: Config = table.try_into().map_err(|e: toml::de::Error| ConfigError::Invalid {
        path: path.to_owned(),
        message: e.message().to_owned(),
    })?;
    check(&config)?;
    Ok(config)
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let value = |key, reason: &str| Err(ConfigError::Value { key, reason: reason.to_owned() });
    for (key, path) in [("root", &config.root), ("state", &config.state)] {
        if !path.is_absolute() {
            return value(key, "the path must be absolute");
        }
    }
    let socket = &config.server.containerd_socket;
    if !socket.is_empty() && !socket.starts_with('/') {
        return value("server.containerd_socket", "it must be an absolute path, or empty for none");
    }
    let images = &config.images;
    for (key, number) in [
        ("images.max_parallel_layers", images.max_parallel_layers),
        ("images.max_parallel_downloads", images.max_parallel_downloads),
        ("images.max_parallel_per_registry", images.max_parallel_per_registry),
    ] {
        if number == 0 {
            return value(key, "it must be 1 or more");
        }
    }
    for (key, seconds) in [
        ("images.dial_timeout_s", images.dial_timeout_s),
        ("images.mirror_dial_timeout_s", images.mirror_dial_timeout_s),
        ("images.progress_timeout_s", images.progress_timeout_s),
    ] {
        if seconds == 0 {
            return value(key, "it must be 1 or more");
        }
    }
    for dir in &images.content_dirs {
        if !dir.is_absolute() {
            return value("images.content_dirs", "the paths must be absolute");
        }
    }
    let parent = config.cgroups.parent();
    match config.cgroups.driver {
        CgroupDriver::Cgroupfs
            if !parent.starts_with('/') || parent.split('/').any(|p| p == "..") =>
        {
            return value("cgroups.parent", "the path must be absolute, without \"..\"");
        }
        CgroupDriver::Systemd if !parent.ends_with(".slice") => {
            return value("cgroups.parent", "with the systemd driver it is the name of a slice");
        }
        CgroupDriver::Cgroupfs | CgroupDriver::Systemd => {}
    }
    if config.network.bridge.is_empty() || config.network.bridge.len() > 15 {
        return value("network.bridge", "an interface's name has 1 to 15 characters");
    }
    if config.containers.max_log_line_bytes < 64 {
        return value("containers.max_log_line_bytes", "it must be 64 or more");
    }
    let profile = config.containers.unset_seccomp_profile.as_str();
    let known = matches!(profile, "unconfined" | "runtime/default")
        || profile.strip_prefix("localhost/").is_some_and(|path| path.starts_with('/'));
    if !known {
        return value(
            "containers.unset_seccomp_profile",
            "it is none of unconfined, runtime/default and localhost/ with an absolute path",
        );
    }
    check_metrics(&config.metrics)?;
    check_handlers(config)
}

fn check_metrics(metrics: &Metrics) -> Result<(), ConfigError> {
    let value = |key, reason: String| Err(ConfigError::Value { key, reason });
    let address = match metrics.address() {
        Ok(address) => address,
        Err(reason) => return value("metrics.listen", reason),
    };
    let Metrics { listen: _, cert_file, key_file, client_ca_file } = metrics;
    let is_given = |file: &PathBuf| file != Path::new("");
    if is_given(cert_file) != is_given(key_file) {
        return value("metrics.cert_file", "it goes together with metrics.key_file".to_owned());
    }
    if is_given(client_ca_file) && !is_given(cert_file) {
        let reason = "clients show certificates only to a server that has one: give \
                      metrics.cert_file and metrics.key_file too";
        return value("metrics.client_ca_file", reason.to_owned());
    }
    if is_given(cert_file) && matches!(address, Some(MetricsAddress::Unix(_))) {
        let reason = "a unix socket has no TLS: its file's mode says who may connect";
        return value("metrics.cert_file", reason.to_owned());
    }
    Ok(())
}

/// The longest that a handler's program may be given.
const MAX_HANDLER_TIMEOUT_S: u64 = 45;

fn check_handlers(config: &Config) -> Result<(), ConfigError> {
    let value = |reason: String| Err(ConfigError::Value { key: "handlers", reason });
    for (name, handler) in &config.handlers {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || name == "corten" || !name.chars().all(good) {
            return value(format!("\"{name}\" cannot be a handler's name"));
        }
        if !handler.program.is_absolute() {
            return value(format!("the program of {name} must be an absolute path"));
        }
        if handler.timeout_s > MAX_HANDLER_TIMEOUT_S {
            return value(format!("timeout_s of {name} is more than {MAX_HANDLER_TIMEOUT_S}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogFormat;

    #[test]
    fn the_defaults_are_valid_and_round_trip() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(load_text(Path::new("x"), &text).unwrap(), Config::default());
    }

    #[test]
    fn drop_ins_replace_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("config.toml");
        fs::write(&main, "[log]\nlevel = \"debug\"\nformat = \"json\"\n").unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        fs::write(dir.path().join("conf.d/10-x.toml"), "[log]\nlevel = \"warn\"\n").unwrap();
        fs::write(dir.path().join("conf.d/ignored.txt"), "nonsense").unwrap();
        let config = load(&main, true).unwrap();
        assert_eq!((config.log.level.as_str(), config.log.format), ("warn", LogFormat::Json));
    }

    #[test]
    fn settings_are_changed_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "[network]\nsubnet = \"10.1.0.0/16\"\n").unwrap();
        let file = set(&path, "network.subnet", "10.2.0.0/16").unwrap();
        set(&path, "network.builtin", "false").unwrap();
        set(&path, "images.pinned", "[\"a\", \"b\"]").unwrap();
        let config = load(&path, true).unwrap();
        assert_eq!(
            (config.network.subnet.as_str(), config.network.builtin),
            ("10.2.0.0/16", false)
        );
        assert_eq!(config.images.pinned, ["a", "b"]);
        let before = fs::read_to_string(&file).unwrap();
        for (key, value) in [
            ("network.no_such_key", "1"),
            ("network.builtin", "perhaps"),
            ("network.bridge", ""),
            ("network", "x"),
            ("", "x"),
        ] {
            assert!(set(&path, key, value).is_err(), "{key} {value}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), before);
        let text = to_text(&config).unwrap();
        assert_eq!(load_text(&path, &text).unwrap(), config);
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_and_line() {
        let error = load_text(Path::new("/etc/c.toml"), "[log]\nlevel = \"info\"\nlevle = 1\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/etc/c.toml") && error.contains("line 3") && error.contains("levle"),
            "{error}"
        );
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            "root = \"relative\"",
            "[server]\ncontainerd_socket = \"containerd.sock\"",
            "[cgroups]\nparent = \"/a/../b\"",
            "[cgroups]\ndriver = \"systemd\"\nparent = \"/a\"",
            "[cgroups]\ndriver = \"runc\"",
            "[images]\nmax_parallel_layers = 0",
            "[images]\nmax_parallel_per_registry = 0",
            "[images]\nprogress_timeout_s = 0",
            "[images]\ncontent_dirs = [\"relative\"]",
            "[network]\nbridge = \"much-too-long-a-name\"",
            "[log]\nformat = \"xml\"",
            "[containers]\nunset_seccomp_profile = \"default\"",
            "[containers]\nunset_seccomp_profile = \"localhost/profile.json\"",
            "[metrics]\nlisten = \"localhost:9090\"",
            "[metrics]\nlisten = \"9090\"",
            "[metrics]\nlisten = \"unix://relative\"",
            "[metrics]\nlisten = \"/run/metrics.sock\"",
            "[metrics]\nlisten = \"127.0.0.1:0\"\ncert_file = \"/c\"",
            "[metrics]\nlisten = \"127.0.0.1:0\"\nclient_ca_file = \"/c\"",
            "[metrics]\nlisten = \"unix:///s\"\ncert_file = \"/c\"\nkey_file = \"/k\"",
            "[handlers.runc]\nprogram = \"runc\"",
            "[handlers.corten]\nprogram = \"/usr/bin/runc\"",
            "[handlers.\"a/b\"]\nprogram = \"/usr/bin/runc\"",
            "[handlers.runc]\nprogram = \"/usr/bin/runc\"\ntimeout_s = 3600",
        ] {
            assert!(load_text(Path::new("x"), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metrics_are_served_on_a_port_or_a_socket_or_nowhere() {
        let address = |listen: &str| {
            Metrics { listen: listen.to_owned(), ..Metrics::default() }.address().unwrap()
        };
        assert_eq!(address(""), None);
        assert_eq!(address("[::1]:0"), Some(MetricsAddress::Tcp("[::1]:0".parse().unwrap())));
        let unix = "unix:///run/m.sock";
        assert_eq!(address(unix), Some(MetricsAddress::Unix(unix.to_owned())));
    }

    #[test]
    fn a_missing_file_means_the_defaults_unless_it_was_asked_for() {
        let missing = Path::new("/nonexistent/config.toml");
        assert_eq!(load(missing, false).unwrap(), Config::default());
        assert!(matches!(load(missing, true), Err(ConfigError::Read { .. })));
    }
}
