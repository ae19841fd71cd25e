//! Where the runtime is and how long to wait for it: options first, then the
//! environment, then the settings file, then defaults.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use cri_client::{Endpoint, Options, Timeouts};
use serde_json::{Map, Value};

use crate::cli::Global;
use crate::duration;

/// Where settings are looked for; the first file that exists counts.
const FILES: [&str; 2] = ["/etc/corten/cli.yaml", "/etc/crictl.yaml"];

/// Where runtimes listen by default; the first socket that exists counts.
const ENDPOINTS: [&str; 3] = [
    "unix:///run/corten/corten.sock",
    "unix:///run/containerd/containerd.sock",
    "unix:///run/crio/crio.sock",
];

/// What applies to all commands.
#[derive(Clone, Debug)]
pub struct Settings {
    pub runtime_endpoint: Endpoint,
    pub image_endpoint: Endpoint,
    pub options: Options,
    pub debug: bool,
    /// `create` pulls the image first.
    pub pull_on_create: bool,
    /// `run` does not pull the image first.
    pub no_pull_on_run: bool,
    /// What is odd about the settings file.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Puts the settings together; `global` has the environment in it.
    pub fn load(global: &Global) -> anyhow::Result<Self> {
        let file = match &global.config {
            Some(path) => File::read(path)?,
            None => match FILES.iter().map(Path::new).find(|path| path.exists()) {
                Some(path) => File::read(path)?,
                None => File::default(),
            },
        };
        Self::merge(global, file)
    }

    fn merge(global: &Global, file: File) -> anyhow::Result<Self> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let runtime = given(&global.runtime_endpoint).or(file.runtime_endpoint);
        let image = given(&global.image_endpoint).or(file.image_endpoint);
        let runtime_endpoint = match runtime {
            Some(text) => text.parse()?,
            None => default_endpoint()?,
        };
        let image_endpoint = match image {
            Some(text) => text.parse()?,
            None => runtime_endpoint.clone(),
        };
        let defaults = Timeouts::default();
        let positive = |limit: Duration| (!limit.is_zero()).then_some(limit);
        let timeouts = match global.timeout.and_then(|limit| positive(limit.0)) {
            // Asked for by name, it holds for everything.
            Some(limit) => Timeouts::all(limit),
            None => match file.timeout.and_then(positive) {
                Some(read) => Timeouts { read, change: defaults.change.max(read) },
                None => defaults,
            },
        };
        Ok(Self {
            runtime_endpoint,
            image_endpoint,
            options: Options { timeouts, ..Options::default() },
            debug: global.debug || file.debug,
            pull_on_create: file.pull_on_create,
            no_pull_on_run: file.no_pull_on_run,
            warnings: file.warnings,
        })
    }
}

fn default_endpoint() -> anyhow::Result<Endpoint> {
    let mut first = None;
    for text in ENDPOINTS {
        let endpoint: Endpoint = text.parse()?;
        if endpoint.path().exists() {
            return Ok(endpoint);
        }
        first.get_or_insert(endpoint);
    }
    first.context("there is no default endpoint")
}

/// What a settings file says, in crictl's keys.
#[derive(Debug, Default)]
struct File {
    runtime_endpoint: Option<String>,
    image_endpoint: Option<String>,
    timeout: Option<Duration>,
    debug: bool,
    pull_on_create: bool,
    no_pull_on_run: bool,
    warnings: Vec<String>,
}

impl File {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let show = path.display();
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read the settings file {show}"))?;
        Self::parse(&text).with_context(|| format!("settings file {show}"))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let value: Value = if text.trim().is_empty() {
            Value::Null
        } else {
            let parsed = serde_saphyr::from_str(text);
            parsed.map_err(|error: serde_saphyr::Error| {
                anyhow::anyhow!(error.to_string().lines().next().unwrap_or_default().to_owned())
            })?
        };
        let keys = match value {
            Value::Null => Map::new(),
            Value::Object(keys) => keys,
            _ => anyhow::bail!("it is no list of `key: value`"),
        };
        let mut file = Self::default();
        for (key, value) in &keys {
            file.set(key, value)?;
        }
        Ok(file)
    }

    fn set(&mut self, key: &str, value: &Value) -> anyhow::Result<()> {
        let text = || match value {
            Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Value::Null => Ok(None),
            _ => Err(anyhow::anyhow!("`{key}` must be text")),
        };
        let flag = || match value {
            Value::Bool(flag) => Ok(*flag),
            Value::Null => Ok(false),
            _ => Err(anyhow::anyhow!("`{key}` must be true or false")),
        };
        match key {
            "runtime-endpoint" => self.runtime_endpoint = text()?,
            "image-endpoint" => self.image_endpoint = text()?,
            "timeout" => {
                self.timeout = match value {
                    Value::Null => None,
                    Value::String(text) => Some(duration::parse(text)?),
                    _ => Some(duration::parse(&value.to_string())?),
                }
            }
            "debug" => self.debug = flag()?,
            "pull-image-on-create" => self.pull_on_create = flag()?,
            "disable-pull-on-run" => self.no_pull_on_run = flag()?,
            _ => self.warnings.push(format!("the settings file's key `{key}` is unknown, ignored")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duration::Limit;

    const FILE: &str = "
runtime-endpoint: unix:///run/a.sock
image-endpoint: \"\"
timeout: 10
debug: true
pull-image-on-create: true
disable-pull-on-run: false
colour: red
";

    #[test]
    fn the_file_fills_what_options_leave_open() {
        let settings = Settings::merge(&Global::default(), File::parse(FILE).expect("parsed"))
            .expect("merged");
        assert_eq!(settings.runtime_endpoint.to_string(), "unix:///run/a.sock");
        assert_eq!(settings.image_endpoint, settings.runtime_endpoint);
        assert_eq!(settings.options.timeouts.read, Duration::from_secs(10));
        assert_eq!(settings.options.timeouts.change, Duration::from_secs(120));
        assert!(settings.debug && settings.pull_on_create && !settings.no_pull_on_run);
        assert_eq!(settings.warnings, ["the settings file's key `colour` is unknown, ignored"]);
    }

    #[test]
    fn options_come_first() {
        let global = Global {
            runtime_endpoint: Some("/run/b.sock".into()),
            image_endpoint: Some("unix:/run/c.sock".into()),
            timeout: Some(Limit(Duration::from_secs(3))),
            ..Global::default()
        };
        let settings =
            Settings::merge(&global, File::parse(FILE).expect("parsed")).expect("merged");
        assert_eq!(settings.runtime_endpoint.to_string(), "unix:///run/b.sock");
        assert_eq!(settings.image_endpoint.to_string(), "unix:///run/c.sock");
        assert_eq!(settings.options.timeouts, Timeouts::all(Duration::from_secs(3)));
    }

    #[test]
    fn a_wrong_file_says_which_key() {
        for (text, why) in [
            ("debug: 3\n", "`debug` must be true or false"),
            ("timeout: soon\n", "no span of time"),
            ("runtime-endpoint: [a]\n", "`runtime-endpoint` must be text"),
            ("- a\n", "no list of `key: value`"),
        ] {
            let error = format!("{:#}", File::parse(text).expect_err(text));
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(File::parse("").expect("empty").runtime_endpoint.is_none());
        assert!(File::parse("# nothing\n").is_ok());
    }
}
