//! The demonstration: a pod on this machine, from an image to its removal, by the
//! command line that people use; what was run, what it printed, how long it took,
//! and what the leak audit finds.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testing::audit::Snapshot;
use testing::image::{Layout, busybox, web_server};
use testing::{Daemon, DaemonOptions, Ground, program, wait};

const BUSYBOX: &str = "docker.io/library/demo-busybox:1";
const WEB: &str = "docker.io/library/demo-web:1";
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let program = target.join("dist/corten").canonicalize();
    let program = program.context("the programs are not built: run `make build`")?;
    start_with(&program)?;

    let ground = Ground::new()?;
    let mut demo = Demo { ground: &ground, program: program.clone(), socket: None, steps: vec![] };
    let layout = demo.step("build two images of Debian's packages", |demo| demo.build_images())?;
    let mut daemon = demo.step("start the daemon on throw-away directories", |demo| {
        let options = DaemonOptions {
            program,
            certs_dir: ground.make("certs.d")?,
            cni_conf_dir: None,
            ..DaemonOptions::default()
        };
        let daemon = Daemon::start(&ground, "demo", options)?;
        demo.socket = Some(daemon.socket());
        Ok(daemon)
    })?;
    demo.corten("load the images", &["image", "load", path(&layout)?])?;
    demo.corten("list the images", &["images"])?;

    // What is there before the pod must be all that is there after it, but for the
    // equipment that the first pod brings: the bridge, its table, the monitors' cgroup.
    let before = Snapshot::take(&daemon.audit_scope(&ground))?;
    demo.a_pods_life()?;
    demo.step("the leak audit after the pod", |_| {
        before.audit()?;
        println!("nothing is left: {} facts looked at, none more than before", before.len());
        Ok(())
    })?;
    demo.corten("remove the images", &["rmi", BUSYBOX, WEB])?;
    demo.step("end the daemon", |_| {
        daemon.ask_to_end()?;
        daemon.ended()
    })?;
    demo.summary();
    Ok(())
}

/// What the demonstration stands on.
fn start_with(program: &Path) -> Result<()> {
    println!("== what this starts with");
    let kernel = program::output(Command::new("uname").args(["-sr"]))?;
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("?");
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    let cgroups = if v2 {
        "v2"
    } else if hybrid {
        "v1, hybrid"
    } else {
        "v1"
    };
    println!("system   {}, {}", system.trim_matches('"'), kernel.trim());
    println!("cgroups  {cgroups}");
    for program in [program.to_owned(), program.with_file_name("corten-monitor")] {
        let size = fs::metadata(&program)?.len();
        println!("program  {} ({} KiB)", program.display(), size / 1024);
    }
    println!("network  the built-in one: no plugin, no configuration");
    Ok(())
}

struct Demo<'a> {
    ground: &'a Ground,
    program: PathBuf,
    socket: Option<PathBuf>,
    steps: Vec<(String, Duration)>,
}

impl Demo<'_> {
    fn step<T>(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let begun = Instant::now();
        let result = run(self).with_context(|| format!("failed to {name}"))?;
        let took = begun.elapsed();
        println!("   ({})", shown(took));
        self.steps.push((name.to_owned(), took));
        Ok(result)
    }

    /// Runs our command line and shows what it prints.
    fn corten(&mut self, name: &str, arguments: &[&str]) -> Result<String> {
        self.step(name, |demo| {
            println!("$ corten {}", arguments.join(" "));
            let output = demo.run(arguments)?;
            print!("{output}");
            Ok(output.trim().to_owned())
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        if let Some(socket) = &self.socket {
            command.arg("--runtime-endpoint").arg(format!("unix://{}", socket.display()));
        }
        program::output(command.args(arguments))
    }

    fn build_images(&self) -> Result<PathBuf> {
        let path = self.ground.path().join("layout");
        let mut layout = Layout::new(&path)?;
        let base = busybox()?;
        layout.add(BUSYBOX, &base)?;
        layout.add(WEB, &web_server(&base)?)?;
        println!("{BUSYBOX}  busybox-static\n{WEB}  nginx-light on the layer of the other");
        Ok(path)
    }

    fn a_pods_life(&mut self) -> Result<()> {
        let logs = self.ground.make("pods/demo")?;
        let pod_file = self.write("pod.json", &json!({
            "metadata": { "name": "demo", "namespace": "default", "uid": "demo-1", "attempt": 0 },
            "hostname": "demo",
            "log_directory": logs,
            "labels": { "app": "demo" },
            "linux": {},
        }))?;
        let web_file = self.write(
            "web.json",
            &json!({
                "metadata": { "name": "web", "attempt": 0 },
                "image": { "image": WEB },
                "log_path": "web.log",
                "linux": { "resources": { "memory_limit_in_bytes": 67_108_864 } },
            }),
        )?;
        let talk = "trap 'echo bye; exit 0' TERM; \
            for i in 1 2 3; do echo line $i; done; echo ready; tail -f /dev/null & wait";
        let side_file = self.write(
            "side.json",
            &json!({
                "metadata": { "name": "side", "attempt": 0 },
                "image": { "image": BUSYBOX },
                "command": ["sh", "-c", talk],
                "log_path": "side.log",
                "linux": {},
            }),
        )?;
        let (pod_file, web_file, side_file) =
            (path(&pod_file)?, path(&web_file)?, path(&side_file)?);

        let pod = self.corten("run a pod", &["runp", pod_file])?;
        let web = self.corten("create the web server", &["create", &pod, web_file, pod_file])?;
        let side = self.corten("create its companion", &["create", &pod, side_file, pod_file])?;
        self.corten("start the web server", &["start", &web])?;
        self.corten("start its companion", &["start", &side])?;
        self.corten("list pods", &["pods"])?;
        self.corten("list containers", &["ps"])?;
        let inspected = self.run(&["inspectp", "-o", "json", &pod])?;
        let address = address_in(&inspected)?;
        self.step(&format!("fetch the page from http://{address}/"), |_| {
            let page = wait::until(PATIENCE, "the page", || Ok(page(&address).ok()))?;
            print!("{page}");
            ensure!(page == testing::image::PAGE, "it is another page");
            Ok(())
        })?;
        self.step("wait for the companion's words", |demo| {
            wait::until(PATIENCE, "its log", || {
                Ok(demo.run(&["logs", &side])?.contains("ready").then_some(()))
            })
        })?;
        self.corten("read the companion's log", &["logs", "--timestamps", &side])?;
        self.corten("read the web server's log", &["logs", &web])?;
        let command = "hostname; id -u; wget -q -O - http://127.0.0.1/; ps -o pid,args";
        self.corten("run a program in the companion", &["exec", &side, "sh", "-c", command])?;
        self.corten("stop the companion", &["stop", "--timeout", "10", &side])?;
        self.corten("list all containers", &["ps", "-a"])?;
        self.corten("remove the companion", &["rm", &side])?;
        self.corten("stop the pod", &["stopp", &pod])?;
        self.corten("remove the pod", &["rmp", &pod])?;
        fs::remove_dir_all(&logs).context("failed to remove the logs")
    }

    fn write(&self, name: &str, value: &Value) -> Result<PathBuf> {
        let path = self.ground.path().join(name);
        fs::write(&path, value.to_string())
            .with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }

    fn summary(&self) {
        println!("\n== how long each step took");
        for (name, took) in &self.steps {
            println!("{:>10}  {name}", shown(*took));
        }
    }
}

fn shown(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not text")
}

/// The pod's address in what `inspectp` prints.
fn address_in(inspected: &str) -> Result<String> {
    let value: Value = serde_json::from_str(inspected).context("inspectp prints no JSON")?;
    let value = if value.is_array() { &value[0] } else { &value };
    let address = value["status"]["network"]["ip"].as_str().unwrap_or_default();
    ensure!(!address.is_empty(), "the pod has no address: {inspected}");
    Ok(address.to_owned())
}

fn page(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect((address, 80))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, page) = answer.split_once("\r\n\r\n").context("not an answer")?;
    Ok(page.to_owned())
}
