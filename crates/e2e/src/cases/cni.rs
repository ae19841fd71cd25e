//! Daemons of their own: plugins that misbehave, both families, the kubelet's range.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::{
    NetworkConfig, PodSandboxStatusRequest, PortMapping, RuntimeConfig, UpdateRuntimeConfigRequest,
};
use testing::audit::Snapshot;
use testing::{Daemon, DaemonOptions, Ground};

use crate::case;
use crate::case::Case;
use crate::catalog::{BUSYBOX, WEB};
use crate::context::{Context, PATIENCE, code, equal, refusal, until};
use crate::runtime::{Control, Kind, Runtime};

pub(super) const CASES: &[Case] = &[
    case!("cni.plugins_that_misbehave_hold_no_pod", hostile).alone().ours(),
    case!("cni.two_families", two_families).alone().ours(),
    case!("cni.the_kubelets_range_is_taken_over", range).alone().ours(),
    case!("cni.namespace_that_vanished", vanished).alone().ours(),
    case!("cni.plugins_in_files_of_their_own", parts).alone().ours(),
    case!("cni.filter_that_comes_after_the_pods", filter).alone().ours(),
    case!("cni.daemon_killed_while_a_filter_is_told", killed).alone().ours(),
];

/// How a plugin of the tests' own behaves: by the words in the file `mode`.
const PLUGIN: &str = r#"#!/bin/sh
cat >/dev/null
mode=$(cat MODE)
case "$CNI_COMMAND $mode" in
"ADD fail") echo '{"cniVersion":"1.0.0","code":11,"msg":"no room","details":"in the inn"}'; exit 1 ;;
"ADD garbage") echo '<html>'; exit 0 ;;
"ADD crash"|"DEL crash") kill -9 $$ ;;
"ADD hang"|"DEL hang") sleep 600 ;;
"ADD "*) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],
  "ips":[{"address":"198.51.100.9/24","interface":0}]}' ;;
esac
"#;

/// A daemon on a ground of its own.
pub(super) struct Another {
    pub(super) context: Context,
    pub(super) runtime: Arc<Runtime>,
    pub(super) ground: Arc<Ground>,
}

pub(super) async fn another(
    c: &Context,
    options: DaemonOptions,
    ground: Arc<Ground>,
) -> Result<Another> {
    let program = c.runtime.with_daemon(|daemon| Ok(daemon.command().get_program().to_owned()))?;
    let certs_dir = c.runtime.catalog.registry.certs_dir().to_owned();
    let options = DaemonOptions { program: program.into(), certs_dir, ..options };
    let daemon = Daemon::start(&ground, "cni", options)?;
    let catalog = Arc::clone(&c.runtime.catalog);
    let control = Control::Corten(Box::new(daemon));
    let runtime =
        Arc::new(Runtime::connect(Kind::Corten, Arc::clone(&ground), catalog, control).await?);
    let context = Context::new(Arc::clone(&runtime), "cni");
    context.pull(BUSYBOX).await?;
    context.pull(WEB).await?;
    Ok(Another { context, runtime, ground })
}

async fn hostile(c: &Context) -> Result<()> {
    let ground = Arc::new(Ground::new()?);
    let (plugins, conf) = (ground.make("hostile/bin")?, ground.make("hostile/net.d")?);
    let (program, mode) = (plugins.join("hostile"), ground.path().join("hostile/mode"));
    fs::write(&program, PLUGIN.replace("MODE", &mode.display().to_string()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let list = r#"{"cniVersion":"1.0.0","name":"hostile","plugins":[{"type":"hostile"}]}"#;
    fs::write(conf.join("1.conflist"), list)?;
    fs::write(&mode, "good")?;
    let options = DaemonOptions {
        cni_conf_dir: Some(conf),
        plugin_dir: Some(plugins),
        network: "plugin_timeout_s = 2".to_owned(),
        ..DaemonOptions::default()
    };
    let Another { context: other, runtime, .. } = another(c, options, ground).await?;
    other.plain_pod().await?;
    other.clean_up().await?;
    let before = Snapshot::take(&runtime.audit_scope())?;

    for (word, text) in [
        ("fail", "(ADD): no room: in the inn (code 11)"),
        ("garbage", "its result cannot be used"),
        ("crash", "signal: 9"),
        ("hang", "no answer within 2.0 s"),
    ] {
        fs::write(&mode, word)?;
        // DEL crashes and hangs too: it is good from the second try on.
        let config = other.pod()?;
        let error = format!("{:#}", refusal(other.run_pod(config).await)?);
        ensure!(error.contains(text) && error.contains("hostile"), "{word}: {error}");
        fs::write(&mode, "good")?;
        other.clean_up().await?;
        ensure!(runtime.pods.pod_sandboxes(None).await?.is_empty(), "{word}: a pod is listed");
        before.audit()?;
    }
    for word in ["crash", "hang", "missing"] {
        fs::write(&mode, "good")?;
        let pod = other.plain_pod().await?;
        fs::write(&mode, word)?;
        let aside = program.with_extension("aside");
        if word == "missing" {
            fs::rename(&program, &aside)?;
        }
        let first = format!("{:#}", refusal(other.stop_pod(&pod.id).await)?);
        ensure!(first.contains("(DEL)"), "{word}: {first}");
        // The kubelet's second try succeeds, and what is owed is paid when it can be.
        other.stop_pod(&pod.id).await?;
        other.remove_pod(&pod.id).await?;
        let owed = owed(&runtime)?;
        ensure!(!owed.is_empty(), "{word}: nothing is owed");
        if word == "missing" {
            fs::rename(&aside, &program)?;
        }
        fs::write(&mode, "good")?;
        until(PATIENCE, "the debt's payment", || async {
            let left = self::owed(&runtime)?;
            Ok(left.is_empty().then_some(()))
        })
        .await?;
        before.audit()?;
    }
    Ok(())
}

/// Says who is called for what.
const RECORDER: &str = r#"#!/bin/sh
word=$(sed 's/.*"word":"\([a-z]*\)".*/\1/')
case "$CNI_COMMAND" in ADD|DEL) echo "$CNI_COMMAND $word" >> RECORD ;; esac
case "$CNI_COMMAND" in ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],
  "ips":[{"address":"198.51.100.9/24","interface":0}]}' ;; esac
"#;

/// A network whose plugins lie in a directory of its name: all are called in their order, and
/// those that a pod was made by are called at its end.
async fn parts(c: &Context) -> Result<()> {
    let ground = Arc::new(Ground::new()?);
    let (plugins, conf) = (ground.make("parts/bin")?, ground.make("parts/net.d")?);
    let (program, record) = (plugins.join("recorder"), ground.path().join("parts/record"));
    fs::write(&program, RECORDER.replace("RECORD", &record.display().to_string()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let own = ground.make("parts/net.d/parts")?;
    let plugin = |word: &str| format!(r#"{{"type":"recorder","word":"{word}"}}"#);
    let list = |rest: &str| {
        let own = plugin("own");
        format!(r#"{{"cniVersion":"1.0.0","name":"parts",{rest}"plugins":[{own}]}}"#)
    };
    fs::write(conf.join("1.conflist"), list(""))?;
    fs::write(own.join("10-one.conf"), plugin("one"))?;
    let options = DaemonOptions {
        cni_conf_dir: Some(conf.clone()),
        plugin_dir: Some(plugins),
        ..DaemonOptions::default()
    };
    let Another { context: other, .. } = another(c, options, ground).await?;
    let said = async || -> Result<String> {
        let text = fs::read_to_string(&record).unwrap_or_default();
        fs::write(&record, "")?;
        Ok(text.lines().collect::<Vec<_>>().join(", "))
    };
    let pod = other.plain_pod().await?;
    equal("the calls", said().await?, "ADD own, ADD one")?;
    // What comes later is not of that pod.
    fs::write(own.join("20-two.conf"), plugin("two"))?;
    let next = other.plain_pod().await?;
    equal("the calls with another", said().await?, "ADD own, ADD one, ADD two")?;
    fs::write(conf.join("1.conflist"), list(r#""loadOnlyInlinedPlugins":true,"#))?;
    let last = other.plain_pod().await?;
    equal("the calls without", said().await?, "ADD own")?;
    fs::remove_dir_all(&own)?;
    for (pod, wanted) in
        [(pod, "DEL one, DEL own"), (next, "DEL two, DEL one, DEL own"), (last, "DEL own")]
    {
        other.stop_pod(&pod.id).await?;
        equal("the calls at its end", said().await?, wanted)?;
    }
    other.clean_up().await
}

/// Takes away what the case and the plugin make of iptables, and the bridge that stays.
struct Filter;

impl Drop for Filter {
    fn drop(&mut self) {
        let _ = sh("ip link del corten-f0
                    for table in 'ip filter' 'ip6 filter'; do nft delete table $table; done");
    }
}

/// Writes a list that the daemon runs itself where nothing filters.
fn chain_with_firewall(ground: &Ground) -> Result<PathBuf> {
    let conf = ground.make("filter/net.d")?;
    let list = r#"{"cniVersion":"1.0.0","name":"filter","plugins":[
        {"type":"bridge","bridge":"corten-f0","isGateway":true,"ipMasq":true,"ipam":{
            "type":"host-local","dataDir":"DIR","ranges":[[{"subnet":"198.51.100.0/24"}]],
            "routes":[{"dst":"0.0.0.0/0"}]}},
        {"type":"portmap","capabilities":{"portMappings":true}},{"type":"firewall"}]}"#;
    let leases = ground.make("filter/leases")?.display().to_string();
    fs::write(conf.join("1.conflist"), list.replace("DIR", &leases))?;
    Ok(conf)
}

/// How many rules of the plugin know a pod: two a pod.
fn rules() -> Result<String> {
    let listed = sh("iptables -S CNI-FORWARD 2>/dev/null | grep -c 198.51.100. || true")?;
    Ok(listed.trim().to_owned())
}

fn sh(script: &str) -> Result<String> {
    testing::program::output(std::process::Command::new("sh").args(["-c", script]))
}

/// A chain with a firewall that the daemon runs itself, and a filter that comes later: while
/// the daemon runs, and while it does not.
async fn filter(c: &Context) -> Result<()> {
    let ground = Arc::new(Ground::new()?);
    let options = DaemonOptions {
        cni_conf_dir: Some(chain_with_firewall(&ground)?),
        ..DaemonOptions::default()
    };
    let Another { context: other, runtime, .. } = another(c, options, ground).await?;
    // On another bridge: what is between them is forwarded.
    let ping = format!("ping -c 1 -W 1 {}", c.address(&c.plain_pod().await?).await?);
    let before = Snapshot::take(&runtime.audit_scope())?;
    for down in [false, true] {
        let made = Filter;
        let (pod, id) = other.waiting_container().await?;
        let (second, _) = other.waiting_container().await?;
        let goes_out = async || other.sh(&id, &ping).await.is_ok();
        ensure!(goes_out().await, "the pod does not reach another network");
        equal("the rules", rules()?, "0")?;
        if down {
            runtime.kill()?;
        }
        sh("iptables -P FORWARD DROP")?;
        if down {
            runtime.launch().await?;
        }
        until(PATIENCE, "the filter's exception", || async { Ok((rules()? == "4").then_some(())) })
            .await?;
        ensure!(goes_out().await, "the filter does not know the pod");
        // What is owed outlives the daemon.
        runtime.kill()?;
        runtime.launch().await?;
        ensure!(goes_out().await, "the filter has forgotten the pod");
        let late = other.plain_pod().await?;
        equal("the rules with one made by programs", rules()?, "6")?;
        for pod in [&pod, &second, &late] {
            other.stop_pod(&pod.id).await?;
        }
        equal("the rules of pods that are stopped", rules()?, "0")?;
        other.clean_up().await?;
        ensure!(owed(&runtime)?.is_empty(), "something is owed");
        drop(made);
        before.with_scope(runtime.audit_scope()).audit()?;
    }
    Ok(())
}

/// The plugin, which kills the daemon before or after it does its work.
const KILLER: &str = r#"#!/bin/sh
case "$(cat MODE) $CNI_COMMAND" in
"before ADD"|"before DEL") kill -9 $PPID; exit 1 ;;
"after ADD"|"after DEL") /usr/lib/cni/firewall; kill -9 $PPID ;;
*) exec /usr/lib/cni/firewall ;;
esac
"#;

/// A daemon that dies between what it notes and what the plugin does, and after that.
async fn killed(c: &Context) -> Result<()> {
    let ground = Arc::new(Ground::new()?);
    let plugins = ground.make("filter/bin")?;
    let (program, mode) = (plugins.join("firewall"), ground.path().join("filter/mode"));
    fs::write(&program, KILLER.replace("MODE", &mode.display().to_string()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let options = DaemonOptions {
        cni_conf_dir: Some(chain_with_firewall(&ground)?),
        plugin_dir: Some(plugins),
        ..DaemonOptions::default()
    };
    fs::write(&mode, "good")?;
    let Another { context: other, runtime, .. } = another(c, options, ground).await?;
    let ping = format!("ping -c 1 -W 1 {}", c.address(&c.plain_pod().await?).await?);
    let before = Snapshot::take(&runtime.audit_scope())?;
    let again = async || {
        runtime.with_daemon(|daemon| daemon.wait(PATIENCE).map(drop))?;
        fs::write(&mode, "good")?;
        runtime.launch().await
    };
    for moment in ["before", "after"] {
        let made = Filter;
        let (pod, id) = other.waiting_container().await?;
        fs::write(&mode, moment)?;
        sh("iptables -P FORWARD DROP")?;
        again().await?;
        until(PATIENCE, "the filter's exception", || async { Ok(other.sh(&id, &ping).await.ok()) })
            .await?;
        equal("the rules", rules()?, "2")?;
        fs::write(&mode, moment)?;
        refusal(other.stop_pod(&pod.id).await)?;
        again().await?;
        other.stop_pod(&pod.id).await?;
        equal("the rules of a pod that is stopped", rules()?, "0")?;
        other.clean_up().await?;
        ensure!(owed(&runtime)?.is_empty(), "{moment}: something is owed");
        drop(made);
        before.with_scope(runtime.audit_scope()).audit()?;
    }
    Ok(())
}

/// What pods' networks still owe.
fn owed(runtime: &Runtime) -> Result<Vec<PathBuf>> {
    let dir = runtime.with_daemon(|daemon| Ok(daemon.root().join("cni/owed")))?;
    Ok(fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

async fn two_families(c: &Context) -> Result<()> {
    let ground = Arc::new(Ground::new()?);
    let network = "subnet6 = \"fd00:198:18::/64\"".to_owned();
    let options = DaemonOptions { network, ..DaemonOptions::default() };
    let Another { context: other, runtime, ground } = another(c, options, ground).await?;
    other.plain_pod().await?;
    other.clean_up().await?;
    let before = Snapshot::take(&runtime.audit_scope())?;
    let mut config = other.pod()?;
    config.hostname = "web.example.org".to_owned();
    config.port_mappings =
        vec![PortMapping { container_port: 80, host_port: 18_080, ..PortMapping::default() }];
    let pod = other.run_pod(config).await?;
    // The web server of the images listens in one family only.
    let server = "mkdir /www; echo both >/www/index.html; exec httpd -f -p [::]:80 -h /www";
    other.run(&pod, &other.script(server)).await?;
    let address = other.address(&pod).await?;
    until(PATIENCE, "the web server", || async {
        Ok(super::network::get(&format!("{address}:80")).await.ok())
    })
    .await?;
    let status = other.pod_status(&pod.id).await?.network.unwrap_or_default();
    ensure!(status.ip.starts_with(&ground.subnet_prefix()), "the IP is {}", status.ip);
    let more: Vec<&str> = status.additional_ips.iter().map(|ip| ip.ip.as_str()).collect();
    ensure!(more.len() == 1 && more[0].starts_with("fd00:198:18::"), "further IPs: {more:?}");
    let second = other.plain_pod().await?;
    for host in [format!("[{}]", more[0]), address.clone(), "[fd00:198:18::1]:18080".to_owned()] {
        let config = other.script(&format!("wget -q -O - http://{host}/"));
        let page = other.output(&second, &config).await?;
        equal("the page", page.as_str(), "both")?;
    }
    let text = other.output(&pod, &other.script("hostname; cat /etc/hostname /etc/hosts")).await?;
    let wanted = format!("{address}\tweb.example.org web\n{}\tweb.example.org web", more[0]);
    ensure!(text.starts_with("web.example.org\nweb.example.org\n"), "{text}");
    ensure!(text.ends_with(&wanted), "{text}");

    runtime.kill()?;
    runtime.launch().await?;
    let page = super::network::get("127.0.0.1:18080").await?;
    equal("the page", page.trim_end(), "both")?;
    other.clean_up().await?;
    before.with_scope(runtime.audit_scope()).audit()
}

async fn range(c: &Context) -> Result<()> {
    let ground = Arc::new(Ground::new()?);
    let Another { context: other, runtime, .. } =
        another(c, DaemonOptions::default(), ground).await?;
    let tell = |pod_cidr: &str| {
        let network_config = Some(NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let runtime_config = Some(RuntimeConfig { network_config });
        runtime.pods.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config })
    };
    let refused = tell("10.1.2.3/40").await;
    equal("the code", code(refused.map_err(Into::into))?, Code::InvalidArgument)?;
    tell("").await?;
    tell("198.19.77.0/24").await?;
    let pod = other.plain_pod().await?;
    let address = other.address(&pod).await?;
    ensure!(address.starts_with("198.19.77."), "the address is {address}");
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let info = runtime.pods.pod_sandbox_status(request).await?.info;
    ensure!(!info.is_empty(), "no information");
    other.clean_up().await
}

async fn vanished(c: &Context) -> Result<()> {
    let ground = Arc::new(Ground::new()?);
    let Another { context: other, runtime, ground } =
        another(c, DaemonOptions::default(), ground).await?;
    other.plain_pod().await?;
    other.clean_up().await?;
    let before = Snapshot::take(&runtime.audit_scope())?;
    for replaced in [false, true] {
        let pod = other.plain_pod().await?;
        let pin = ground.path().join("run/netns").join(format!("corten-{}", pod.id));
        rustix::mount::unmount(&pin, rustix::mount::UnmountFlags::DETACH)?;
        if !replaced {
            fs::remove_file(&pin)?;
        }
        other.stop_pod(&pod.id).await?;
        other.remove_pod(&pod.id).await?;
        before.audit()?;
    }
    // New pods are not disturbed.
    let pod = other.plain_pod().await?;
    super::network::web_server(&other, &pod).await?;
    other.clean_up().await?;
    before.audit()
}
