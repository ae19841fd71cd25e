//! What is executed, with which environment, and where.

use oci_spec::runtime::Process;
use types::{ContainerConfig, ImageConfig};

use crate::{
    SpecError, SpecInput,
    text::{check_count, check_line, check_no_nul, shown},
};

/// The search path of an image that has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many bytes arguments and environment may have together: three quarters of the
/// 8 MiB that a stack may have, above which execve(2) always fails.
pub const MAX_PROCESS_BYTES: usize = 6 * 1024 * 1024;

/// What a process is executed with.
pub(crate) struct Command {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
}

/// Settles arguments, environment and working directory.
pub(crate) fn command(input: &SpecInput<'_>) -> Result<Command, SpecError> {
    let args = args(input.container, input.image)?;
    let env = env(input)?;
    let bytes = args.iter().chain(&env).map(|text| text.len() + 1).sum();
    check_count("bytes of arguments and environment", bytes, MAX_PROCESS_BYTES)?;
    Ok(Command { args, env, cwd: cwd(input.container, input.image)? })
}

/// Makes the process of an exec session: that of the container, with other arguments.
pub fn exec_process(container: &Process, args: &[String], tty: bool) -> Process {
    let mut process = container.clone();
    process.set_args(Some(args.to_vec()));
    process.set_terminal(Some(tty));
    if tty {
        let env = process.env_mut().get_or_insert_default();
        if !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
    }
    process
}

/// The request's command replaces the image's entrypoint and its command; the request's
/// arguments alone replace the image's command.
fn args(container: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, SpecError> {
    let (first, rest) = match (container.command.is_empty(), container.args.is_empty()) {
        (false, _) => (&container.command, &container.args),
        (true, false) => (&image.entrypoint, &container.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let all: Vec<String> = first.iter().chain(rest).cloned().collect();
    if all.is_empty() {
        return Err(SpecError::NoCommand);
    }
    all.iter().try_for_each(|arg| check_no_nul("argument", arg))?;
    Ok(all)
}

/// Defaults, then the image's variables, then the request's; a later one replaces an
/// earlier one in its place. Nothing of the runtime's own environment is in it.
fn env(input: &SpecInput<'_>) -> Result<Vec<String>, SpecError> {
    let mut env = Environment::default();
    env.set(DEFAULT_PATH.to_owned());
    if input.container.tty {
        env.set("TERM=xterm".to_owned());
    }
    env.set(format!("HOSTNAME={}", input.hostname));
    for entry in &input.image.env {
        // Without a value it would mean the runtime's own variable.
        if entry.split_once('=').is_some_and(|(name, _)| !name.is_empty()) {
            check_no_nul("environment of the image", entry)?;
            env.set(entry.clone());
        }
    }
    for (name, value) in &input.container.envs {
        env.set(variable(name, value)?);
    }
    match env.get("HOME") {
        None | Some("") => env.set(format!("HOME={}", input.user.home)),
        // Programs write it into files of lines.
        Some(home) => check_line("HOME", home)?,
    }
    Ok(env.entries)
}

fn variable(name: &str, value: &[u8]) -> Result<String, SpecError> {
    let what = "name of an environment variable";
    if name.is_empty() {
        return Err(SpecError::Empty { what });
    }
    if name.contains(['=', '\0']) {
        return Err(SpecError::Characters { what, text: shown(name) });
    }
    let value =
        std::str::from_utf8(value).map_err(|_| SpecError::EnvNotText { name: shown(name) })?;
    check_no_nul("value of an environment variable", value)?;
    Ok(format!("{name}={value}"))
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Environment {
    entries: Vec<String>,
    places: std::collections::HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, entry: String) {
        let name = name_of(&entry).to_owned();
        match self.places.get(&name) {
            Some(place) => self.entries[*place] = entry,
            None => {
                self.places.insert(name, self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let entry = &self.entries[*self.places.get(name)?];
        entry.split_once('=').map(|(_, value)| value)
    }
}

/// Sets a variable in a list, in the place of one of its name.
pub(crate) fn set_variable(list: &mut Vec<String>, entry: &str) {
    match list.iter_mut().find(|known| name_of(known) == name_of(entry)) {
        Some(known) => entry.clone_into(known),
        None => list.push(entry.to_owned()),
    }
}

fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn cwd(container: &ContainerConfig, image: &ImageConfig) -> Result<String, SpecError> {
    let what = "working directory";
    let cwd = [&container.working_dir, &image.working_dir].into_iter().find(|cwd| !cwd.is_empty());
    let Some(cwd) = cwd else { return Ok("/".to_owned()) };
    check_no_nul(what, cwd)?;
    if !cwd.starts_with('/') {
        return Err(SpecError::NotAbsolute { what, path: shown(cwd) });
    }
    Ok(cwd.clone())
}

/// The signal that stops a container: the request's, else the image's by name or number,
/// else SIGTERM. A text of an image that names none counts as none.
pub fn stop_signal(requested: Option<i32>, image: &ImageConfig) -> i32 {
    const SIGTERM: i32 = 15;
    requested
        .filter(|signal| *signal > 0)
        .or_else(|| types::signal_number(&image.stop_signal))
        .unwrap_or(SIGTERM)
}
