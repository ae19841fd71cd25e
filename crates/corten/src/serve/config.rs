//! `corten config`: the daemon's settings, shown, checked and changed.

use std::{io::Write, path::PathBuf};

use anyhow::Context as _;

use super::wire::network_options;

/// What to do with the settings.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print all settings with their defaults
    Default,
    /// Print all settings as they are
    Show(File),
    /// Say whether the settings can be used
    Check(File),
    /// Print the configuration list of the network that pods get where there is no CNI
    /// configuration; saved into the CNI directory and changed there, it is used instead
    Network(File),
    /// Change one setting, in a drop-in file: it counts from the daemon's next start
    Set(Set),
}

/// The settings' file.
#[derive(Debug, clap::Args)]
pub struct File {
    /// The configuration file [default: /etc/corten/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A setting.
#[derive(Debug, clap::Args)]
pub struct Set {
    #[command(flatten)]
    file: File,
    /// The setting, such as network.subnet
    key: String,
    /// Its value, such as 10.99.0.0/16
    value: String,
}

impl File {
    fn load(&self) -> anyhow::Result<config::Config> {
        Ok(match &self.config {
            Some(path) => config::load(path, true)?,
            None => config::load(config::DEFAULT_PATH.as_ref(), false)?,
        })
    }
}

/// Runs a command.
///
/// # Errors
/// Fails where the settings cannot be used, and says why.
pub fn run(command: Command, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        Command::Default => write!(out, "{}", config::to_text(&config::Config::default())?)?,
        Command::Show(file) => write!(out, "{}", config::to_text(&file.load()?)?)?,
        Command::Check(file) => {
            network_options(&file.load()?)?.validate()?;
            writeln!(out, "the configuration is valid")?;
        }
        Command::Network(file) => {
            let options = network_options(&file.load()?)?;
            options.validate()?;
            let list = options.default_conflist().context(
                "network.builtin is off: pods get no network without a CNI configuration",
            )?;
            writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        }
        Command::Set(Set { file, key, value }) => {
            let path = file.config.unwrap_or_else(|| config::DEFAULT_PATH.into());
            let changed = config::set(&path, &key, &value)?;
            writeln!(out, "{}", changed.display())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn output(command: Command) -> anyhow::Result<String> {
        let mut out = Vec::new();
        run(command, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn the_default_network_is_printed_and_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "root = \"/r\"\n").unwrap();
        let file = || File { config: Some(path.clone()) };
        let list = || -> serde_json::Value {
            serde_json::from_str(&output(Command::Network(file())).unwrap()).unwrap()
        };
        let ranges = |list: &serde_json::Value| list["plugins"][0]["ipam"]["ranges"].to_string();
        assert_eq!(ranges(&list()), r#"[[{"subnet":"10.88.0.0/16"}]]"#);
        assert_eq!(list()["plugins"][0]["ipam"]["dataDir"], "/r/cni/networks");
        let set = |key: &str, value: &str| {
            let (key, value) = (key.to_owned(), value.to_owned());
            output(Command::Set(Set { file: file(), key, value }))
        };
        set("network.subnet6", "fd00:88::/64").unwrap();
        let both = r#"[[{"subnet":"10.88.0.0/16"}],[{"subnet":"fd00:88::/64"}]]"#;
        assert_eq!(ranges(&list()), both);
        set("network.subnet", "").unwrap();
        assert_eq!(ranges(&list()), r#"[[{"subnet":"fd00:88::/64"}]]"#);
        assert!(output(Command::Show(file())).unwrap().contains("fd00:88::/64"));
        output(Command::Check(file())).unwrap();
        set("network.subnet", "10.1.2.3/16").unwrap();
        let error = output(Command::Check(file())).unwrap_err();
        assert!(format!("{error:#}").contains("network.subnet"), "{error:#}");
        set("network.subnet", "").unwrap();
        set("network.builtin", "false").unwrap();
        output(Command::Network(file())).unwrap_err();
    }

    #[test]
    fn the_defaults_are_printed_as_settings_that_are_the_defaults() {
        let text = output(Command::Default).unwrap();
        let read = config::load_text("defaults".as_ref(), &text).unwrap();
        assert_eq!(read, config::Config::default());
    }
}
