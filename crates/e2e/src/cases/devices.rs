//! Devices of the node, and of vendors (Container Device Interface).

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::{CdiDevice, ContainerConfig, Device, NamespaceMode};
use testing::wait::patient;

use crate::case;
use crate::case::Case;
use crate::context::{
    Context, PATIENCE, Pod, code, equal, map, namespaces, refusal, security, until,
};
use crate::runtime::CDI_DIRS;

pub(super) const CASES: &[Case] = &[
    case!("device.directory_of_devices", directory),
    case!("device.place_and_permissions", place).ours(),
    case!("device.bad_ones_are_refused", bad)
        .differs("1.6 takes paths and permissions that are none"),
    case!("cdi.device_by_field_and_by_annotation", by_field_and_annotation).ours(),
    case!("cdi.what_was_just_written_counts", refresh).ours(),
    case!("cdi.unknown_is_refused_by_name", unknown).ours(),
    case!("cdi.hooks_run_before_the_container", hooks).alone().attack().ours(),
    case!("cdi.late_hooks_are_for_programs", late_hooks).ours(),
    case!("cdi.network_devices_move_into_the_pod", net_devices).ours(),
    case!("cdi.network_devices_that_cannot_be_had", bad_net_devices).ours(),
];

fn device(from: &str, to: &str, permissions: &str) -> Device {
    Device {
        host_path: from.to_owned(),
        container_path: to.to_owned(),
        permissions: permissions.to_owned(),
    }
}

async fn directory(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let many = c.directory()?;
    for (name, minor) in [("none", "3"), ("deep/zero", "5")] {
        let node = many.join(name);
        std::fs::create_dir_all(node.parent().unwrap_or(&many))?;
        let made =
            std::process::Command::new("mknod").arg(&node).args(["c", "1", minor]).status()?;
        ensure!(made.success(), "no node was made");
    }
    std::fs::write(many.join("file"), "no device")?;
    let script = "find /dev/many -type c | sort; head -c 3 /dev/many/deep/zero | wc -c; wc -c < /dev/many/none";
    let mut config = c.script(script);
    config.devices = vec![device(&many.display().to_string(), "/dev/many", "rw")];
    let wanted = "/dev/many/deep/zero\n/dev/many/none\n3\n0";
    equal("the devices", c.output(&pod, &config).await?, wanted)
}

/// Without a place of its own a device is where the node has it; each letter is a right.
async fn place(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = "test -c /dev/loop-control && echo there; exec 3< /dev/loop-control && echo reads; \
        (exec 4> /dev/loop-control) 2> /dev/null && echo writes; \
        mknod /tmp/made c 10 237 2> /dev/null && echo makes; true";
    for (permissions, wanted) in [
        ("r", "there\nreads\nmakes"),
        ("rw", "there\nreads\nwrites\nmakes"),
        ("rwm", "there\nreads\nwrites\nmakes"),
        ("", "there\nreads\nwrites\nmakes"),
    ] {
        let mut config = c.script(script);
        config.devices = vec![device("/dev/loop-control", "", permissions)];
        equal(permissions, c.output(&pod, &config).await?, wanted)?;
    }
    let mut config = c.script(
        "(exec 3< /dev/mine) 2> /dev/null && echo reads; (exec 4> /dev/mine) && echo writes",
    );
    config.devices = vec![device("/dev/loop-control", "/dev/mine", "w")];
    equal("writing alone", c.output(&pod, &config).await?, "writes")
}

async fn bad(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for (from, to, permissions) in [
        ("/dev/no-such-device", "/dev/x", "r"),
        ("dev/null", "/dev/x", "r"),
        ("/etc/passwd", "/dev/x", "r"),
        ("/dev/null", "/dev/x", "rwx"),
    ] {
        let mut config = c.waiting();
        config.devices = vec![device(from, to, permissions)];
        let error = refusal(c.run(&pod, &config).await)?.to_string();
        ensure!(!error.contains('\n'), "more than a line: {error}");
    }
    Ok(())
}

/// A vendor's directory; the later one wins.
fn vendor_dir(c: &Context, which: usize) -> Result<PathBuf> {
    c.runtime.ground.make(CDI_DIRS[which])
}

/// A vendor's file of one card with a variable, a node and a mount.
fn write(dir: &Path, kind: &str, value: &str, source: &Path) -> Result<PathBuf> {
    let file = dir.join(format!("{}.json", kind.replace('/', "-")));
    let text = serde_json::json!({
        "cdiVersion": "0.6.0",
        "kind": kind,
        "containerEdits": { "env": ["EVERY=card"] },
        "devices": [{ "name": "0", "containerEdits": {
            "env": [format!("CARD={value}")],
            "deviceNodes": [{ "path": "/dev/card", "hostPath": "/dev/loop-control", "permissions": "r" }],
            "mounts": [{ "hostPath": source, "containerPath": "/opt/card", "options": ["ro", "bind"] }],
            "additionalGIDs": [44],
        }}],
    });
    std::fs::write(&file, text.to_string())?;
    Ok(file)
}

fn asked(c: &Context) -> ContainerConfig {
    c.script("echo $EVERY $CARD; exec 3< /dev/card && echo read; (exec 4> /dev/card) 2> /dev/null || echo no; \
        cat /opt/card/file; touch /opt/card/x 2>&1; id -G")
}

async fn by_field_and_annotation(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let source = c.directory()?;
    std::fs::write(source.join("file"), "driver\n")?;
    let file = write(&vendor_dir(c, 0)?, "field.example/card", "one", &source)?;
    let wanted = "card one\nread\nno\ndriver\ntouch: /opt/card/x: Read-only file system\n0 44";
    let mut config = asked(c);
    config.cdi_devices = vec![CdiDevice { name: "field.example/card=0".to_owned() }];
    equal("by the field", c.output(&pod, &config).await?, wanted)?;
    let mut config = asked(c);
    config.annotations = map(&[("cdi.k8s.io/plugin", "field.example/card=0")]);
    equal("by an annotation", c.output(&pod, &config).await?, wanted)?;
    // Named in both ways it is still one.
    config = asked(c);
    config.annotations = map(&[("cdi.k8s.io/plugin", "field.example/card=0")]);
    config.cdi_devices = vec![CdiDevice { name: "field.example/card=0".to_owned() }];
    equal("by both", c.output(&pod, &config).await?, wanted)?;
    Ok(std::fs::remove_file(file)?)
}

async fn refresh(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let source = c.directory()?;
    let ask = |pod: Pod| async move {
        let mut config = c.script("echo $CARD");
        config.cdi_devices = vec![CdiDevice { name: "fresh.example/card=0".to_owned() }];
        c.output(&pod, &config).await
    };
    ensure!(ask(pod.clone()).await.is_err(), "nobody has described it");
    let first = write(&vendor_dir(c, 0)?, "fresh.example/card", "first", &source)?;
    equal("the first", ask(pod.clone()).await?, "first")?;
    let second = write(&vendor_dir(c, 1)?, "fresh.example/card", "second", &source)?;
    equal("the later directory's", ask(pod.clone()).await?, "second")?;
    std::fs::remove_file(second)?;
    std::fs::remove_file(first)?;
    ensure!(ask(pod).await.is_err(), "it is still known");
    Ok(())
}

async fn unknown(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let broken = vendor_dir(c, 0)?.join("broken.json");
    std::fs::write(&broken, "{")?;
    let mut config = c.waiting();
    config.cdi_devices = vec![CdiDevice { name: "nobody.example/card=7".to_owned() }];
    let error = refusal(c.create(&pod, &config).await)?;
    let text = error.to_string();
    for wanted in ["nobody.example/card=7", CDI_DIRS[0], CDI_DIRS[1], "broken.json"] {
        ensure!(text.contains(wanted), "it does not say {wanted}: {text}");
    }
    equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)?;
    config.cdi_devices = vec![CdiDevice { name: "no name at all".to_owned() }];
    equal("no name", code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    Ok(std::fs::remove_file(broken)?)
}

/// Vendors' programs run before the container does, whoever makes it; they see nothing of its
/// environment, and what they say of a failure is told.
async fn hooks(c: &Context) -> Result<()> {
    for handler in ["corten", "runc"] {
        let dir = c.directory()?;
        let script = dir.join("hook");
        let text = "#!/bin/sh\ncat > $OUT.state\n\
            b=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/' $OUT.state)\nenv | grep -v '^PWD=' | sort > $OUT.env\n\
            ls /proc/self/fd | sort -n | tr '\\n' ' ' > $OUT.fds\nreadlink /proc/self/ns/mnt > $OUT.ns\n\
            [ \"$FAIL\" = 1 ] && echo no card >&2 && exit 3\n\
            [ \"$WRITE\" = 1 ] && echo card > $b/rootfs/from-hook\ntrue\n";
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let hook = |when: &str, more: &str| {
            let out = dir.join(when).display().to_string();
            serde_json::json!({ "hookName": when, "path": script, "args": ["hook"],
                "env": [format!("OUT={out}"), "PATH=/bin:/usr/bin".to_owned(), more.to_owned()] })
        };
        let write = |hooks: &[serde_json::Value]| -> Result<PathBuf> {
            let file = vendor_dir(c, 0)?.join("hook.json");
            let device = serde_json::json!({ "name": "0", "containerEdits": { "hooks": hooks } });
            let text = serde_json::json!({
                "cdiVersion": "0.6.0", "kind": "hook.example/card", "devices": [device],
            });
            std::fs::write(&file, text.to_string())?;
            Ok(file)
        };
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        let ask = || {
            let mut config = c.script("cat /from-hook; readlink /proc/self/ns/mnt");
            config.cdi_devices = vec![CdiDevice { name: "hook.example/card=0".to_owned() }];
            let (key, value) = ("LD_PRELOAD".to_owned(), "/x".into());
            config.envs.push(cri_proto::v1::KeyValue { key, value });
            config
        };
        write(&[hook("createRuntime", "A=1"), hook("createContainer", "WRITE=1")])?;
        let text = c.output(&pod, &ask()).await?;
        let (from_hook, own) = text.split_once('\n').unwrap_or_default();
        equal("what the hook wrote", from_hook, "card")?;
        let read = |name: &str| std::fs::read_to_string(dir.join(name));
        for when in ["createRuntime", "createContainer"] {
            let env = read(&format!("{when}.env"))?;
            // What the vendor's file says, and nothing of the container's or the daemon's.
            let own = if when == "createRuntime" { "A=1" } else { "WRITE=1" };
            let mut wanted = [
                own.to_owned(),
                format!("OUT={}", dir.join(when).display()),
                "PATH=/bin:/usr/bin".to_owned(),
            ];
            wanted.sort();
            equal(&format!("what {when} saw"), env.trim_end(), wanted.join("\n"))?;
            if handler == "corten" {
                // `ls` has what it lists.
                equal(&format!("what {when} has open"), read(&format!("{when}.fds"))?, "0 1 2 3 ")?;
            }
            let state: serde_json::Value = serde_json::from_str(&read(&format!("{when}.state"))?)?;
            // Within its PID namespace it may be the first.
            let lowest = if when == "createRuntime" { 2 } else { 1 };
            let pid = state["pid"].as_i64().unwrap_or_default();
            ensure!(pid >= lowest, "{when} read {state}");
            ensure!(state["bundle"].as_str().is_some_and(|b| b.contains(&pod.id)), "{state}");
        }
        let node = std::fs::read_link("/proc/self/ns/mnt")?.display().to_string();
        equal("where the runtime's hook ran", read("createRuntime.ns")?.trim(), node)?;
        equal("where the container's hook ran", read("createContainer.ns")?.trim(), own)?;
        let file = write(&[hook("createContainer", "FAIL=1")])?;
        let error = refusal(c.run(&pod, &ask()).await)?.to_string();
        ensure!(error.contains("hook") && !error.contains('\n'), "{error}");
        let mut endless = hook("createContainer", "A=1");
        (endless["path"], endless["timeout"]) = ("/bin/sleep".into(), 1.into());
        endless["args"] = serde_json::json!(["sleep", "1000"]);
        write(&[endless])?;
        let begun = std::time::Instant::now();
        let error = refusal(c.run(&pod, &ask()).await)?.to_string();
        ensure!(begun.elapsed() < patient(PATIENCE), "it took {:?}", begun.elapsed());
        ensure!(error.contains("hook"), "{error}");
        std::fs::remove_file(file)?;
    }
    Ok(())
}

async fn late_hooks(c: &Context) -> Result<()> {
    let text = serde_json::json!({
        "cdiVersion": "0.6.0",
        "kind": "late.example/card",
        "devices": [{ "name": "0", "containerEdits": {
            "hooks": [{ "hookName": "poststop", "path": "/bin/true" }],
        }}],
    });
    let file = vendor_dir(c, 0)?.join("late.json");
    std::fs::write(&file, text.to_string())?;
    let mut config = c.script("true");
    config.cdi_devices = vec![CdiDevice { name: "late.example/card=0".to_owned() }];
    let pod = c.plain_pod().await?;
    let error = refusal(c.create(&pod, &config).await)?;
    ensure!(error.to_string().contains("hooks"), "{error}");
    equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)?;
    let pod = c.run_pod_by("runc", c.pod()?).await?;
    c.output(&pod, &config).await?;
    Ok(std::fs::remove_file(file)?)
}

fn ip(arguments: &[&str]) -> Result<String> {
    testing::program::output(std::process::Command::new("ip").args(arguments))
}

/// A pair of interfaces of the node's: one to give away, with addresses, and the one behind it.
struct Pair(&'static str, &'static str);

impl Pair {
    fn make(name: &'static str, behind: &'static str, subnet: &str) -> Result<Self> {
        ip(&["link", "add", name, "type", "veth", "peer", "name", behind])?;
        let made = Self(name, behind);
        ip(&["addr", "add", &format!("{subnet}.7/24"), "dev", name])?;
        ip(&["addr", "add", "fd00:7::7/64", "dev", name])?;
        ip(&["addr", "add", &format!("{subnet}.1/24"), "dev", behind])?;
        ip(&["link", "set", name, "up"])?;
        ip(&["link", "set", behind, "up"])?;
        Ok(made)
    }

    fn exists(&self) -> bool {
        [self.0, self.1].iter().any(|name| Path::new("/sys/class/net").join(name).exists())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = ip(&["link", "delete", self.1]);
    }
}

/// A vendor's file of one network device.
fn write_net_device(c: &Context, kind: &str, host: &str, name: &str) -> Result<PathBuf> {
    let file = vendor_dir(c, 0)?.join(format!("{}.json", kind.replace('/', "-")));
    let device = serde_json::json!({ "name": "0", "containerEdits": {
        "netDevices": [{ "hostInterfaceName": host, "name": name }],
    }});
    let text = serde_json::json!({ "cdiVersion": "1.1.0", "kind": kind, "devices": [device] });
    std::fs::write(&file, text.to_string())?;
    Ok(file)
}

/// A device of the node is in the pod under its new name, with its addresses, and carries packets;
/// a container that comes later has it too, and it goes with the pod.
async fn net_devices(c: &Context) -> Result<()> {
    for (handler, name, behind, subnet) in [
        ("", "cdi-one", "cdi-one-back", "198.51.100"),
        ("runc", "cdi-two", "cdi-two-back", "203.0.113"),
    ] {
        let pair = Pair::make(name, behind, subnet)?;
        let file = write_net_device(c, "net.example/card", name, "fabric0")?;
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        let script = format!(
            "ip -o addr show dev fabric0 scope global | tr -s ' ' | cut -d ' ' -f 4; \
             cat /sys/class/net/fabric0/operstate; ping -c 1 -W 5 {subnet}.1 | grep -c ' 0% packet'"
        );
        let wanted = format!("{subnet}.7/24\nfd00:7::7/64\nup\n1");
        let mut config = c.script(&script);
        config.cdi_devices = vec![CdiDevice { name: "net.example/card=0".to_owned() }];
        equal("the device", c.output(&pod, &config).await?, wanted.as_str())?;
        ensure!(!Path::new("/sys/class/net").join(name).exists(), "it is the node's still");
        let mut again = c.script(&script);
        again.cdi_devices = config.cdi_devices.clone();
        equal("for the next container", c.output(&pod, &again).await?, wanted)?;
        // Another pod cannot have it.
        let other = c.run_pod_by(handler, c.pod()?).await?;
        let mut config = c.script("true");
        config.cdi_devices = again.cdi_devices;
        let error = refusal(c.run(&other, &config).await)?.to_string();
        ensure!(error.contains(name) && !error.contains('\n'), "{error}");
        c.clean_up().await?;
        until(PATIENCE, "the device's end", || async { Ok((!pair.exists()).then_some(())) })
            .await?;
        std::fs::remove_file(file)?;
    }
    Ok(())
}

async fn bad_net_devices(c: &Context) -> Result<()> {
    let ask = || {
        let mut config = c.waiting();
        config.cdi_devices = vec![CdiDevice { name: "badnet.example/card=0".to_owned() }];
        config
    };
    let pod = c.plain_pod().await?;
    let file = write_net_device(c, "badnet.example/card", "cdi-none", "fabric0")?;
    let error = refusal(c.run(&pod, &ask()).await)?.to_string();
    ensure!(error.contains("cdi-none"), "{error}");
    // A name that the pod has: the device stays the node's, with its addresses.
    let pair = Pair::make("cdi-three", "cdi-three-back", "192.0.2")?;
    write_net_device(c, "badnet.example/card", "cdi-three", "eth0")?;
    let error = refusal(c.run(&pod, &ask()).await)?.to_string();
    ensure!(error.contains("eth0"), "{error}");
    let left = ip(&["-o", "-4", "addr", "show", "dev", "cdi-three"])?;
    ensure!(left.contains("192.0.2.7/24"), "it is not as it was: {left}");
    write_net_device(c, "badnet.example/card", "cdi-three", "no/name")?;
    equal("a bad name", code(c.create(&pod, &ask()).await)?, Code::InvalidArgument)?;
    // The node's network has them all.
    write_net_device(c, "badnet.example/card", "cdi-three", "fabric0")?;
    let mut config = c.pod()?;
    namespaces(&mut config)?.network = NamespaceMode::Node.into();
    let spaces = namespaces(&mut config)?.clone();
    let pod = c.run_pod(config).await?;
    let mut config = ask();
    security(&mut config)?.namespace_options = Some(spaces);
    let error = refusal(c.create(&pod, &config).await)?;
    ensure!(error.to_string().contains("the node's network"), "{error}");
    equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)?;
    c.clean_up().await?;
    drop(pair);
    Ok(std::fs::remove_file(file)?)
}
