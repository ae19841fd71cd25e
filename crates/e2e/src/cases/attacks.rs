//! Attacks on what is told by clients and by whoever starts the daemon, and on the filter.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{
    Capability, ContainerStatsRequest, Mount, NamespaceMode, ReopenContainerLogRequest,
    SecurityProfile,
};
use testing::image::LayerBuilder;

use super::hostile::{HANDLERS, of_image};
use super::users::publish;
use crate::case;
use crate::case::Case;
use crate::catalog::BUSYBOX;
use crate::context::{
    Context, PATIENCE, code, equal, namespaces, refusal, security, strings, until,
};

pub(super) const CASES: &[Case] = &[
    case!("hostile.ids_are_no_paths", ids).attack().ours(),
    case!("hostile.nothing_covers_what_the_runtime_writes", covered).attack().ours(),
    case!("hostile.calls_have_their_answer", calls).attack().ours(),
    case!("hostile.every_kind_of_container_is_in_its_group", groups).attack().ours(),
    case!("hostile.open_directories_are_closed_at_the_start", opened).alone().ours(),
    case!("hostile.modes_are_not_the_starters", starters).alone().ours(),
];

/// What would be a path if somebody took it for one.
fn paths_for_ids(c: &Context) -> Vec<String> {
    let canary = c.canary().display().to_string();
    let up = format!("../../../../../../../../..{canary}");
    vec![canary, up, "..".to_owned(), ".".to_owned(), "a/b".to_owned(), "x\0y".to_owned()]
}

/// No id of a client's leads to a file: it is unknown, or refused.
async fn ids(c: &Context) -> Result<()> {
    for id in paths_for_ids(c) {
        for (what, result) in [
            ("stop", c.stop(&id, 0).await),
            ("remove", c.remove(&id).await),
            ("stop the pod", c.stop_pod(&id).await),
            ("remove the pod", c.remove_pod(&id).await),
        ] {
            // What is not there is stopped and removed.
            if result.is_err() {
                equal(what, code(result)?, Code::InvalidArgument)?;
            }
        }
        let request = ContainerStatsRequest { container_id: id.clone() };
        let stats = c.runtime.pods.container_stats(request).await;
        let request = ReopenContainerLogRequest { container_id: id.clone() };
        let reopened = c.runtime.pods.reopen_container_log(request).await;
        for (what, result) in [
            ("status", c.status(&id).await.map(drop)),
            ("start", c.start(&id).await),
            ("exec", c.exec_for(&id, &["true"], 5).await.map(drop)),
            ("figures", stats.map(drop).map_err(Into::into)),
            ("log", reopened.map(drop).map_err(Into::into)),
            ("the pod's status", c.pod_status(&id).await.map(drop)),
        ] {
            let code = code(result)?;
            let refused = code == Code::NotFound || code == Code::InvalidArgument;
            ensure!(refused, "{what} of {id:?}: {code:?}");
        }
    }
    // Names go into records, logs and host names, never into paths.
    let mut config = c.pod()?;
    if let Some(metadata) = &mut config.metadata {
        metadata.uid = format!("../../../../../../..{}", c.canary().display());
        metadata.name = "../../name".to_owned();
        metadata.namespace = "..".to_owned();
    }
    if let Ok(pod) = c.run_pod(config).await {
        let mut config = c.script("echo fine");
        if let Some(metadata) = &mut config.metadata {
            metadata.name = format!("../../../../../..{}/keep", c.canary().display());
        }
        equal("by strange names", c.output(&pod, &config).await?, "fine")?;
    }
    c.clean_up().await
}

/// What the runtime writes labels and parameters to is not what a client has mounted there
/// (CVE-2025-52881): with a volume or with the image's own links, by each handler.
async fn covered(c: &Context) -> Result<()> {
    let volume = c.directory()?;
    fs::write(volume.join("catch"), "")?;
    for handler in HANDLERS {
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        for target in [
            "/proc/self/attr/exec",
            "/proc/self/oom_score_adj",
            "/proc/sys/kernel/shmmax",
            "/proc/thread-self/attr/apparmor/exec",
            "/proc/self/uid_map",
        ] {
            let mut config = c.waiting();
            config.mounts = vec![Mount {
                host_path: volume.join("catch").display().to_string(),
                container_path: target.to_owned(),
                ..Mount::default()
            }];
            let error = refusal(c.run(&pod, &config).await)?.to_string();
            ensure!(error.contains("/proc"), "{handler:?}, {target}: {error}");
        }
        c.clean_up().await?;
    }
    equal("what was caught", fs::read_to_string(volume.join("catch"))?, "")
}

/// How a program enters the kernel.
#[derive(Clone, Copy)]
enum Entry {
    /// `syscall`.
    Native,
    /// `int 0x80`, with the numbers of 32-bit programs.
    Compat,
}

/// A call with its first arguments.
struct Call {
    what: &'static str,
    entry: Entry,
    number: u32,
    arguments: [u32; 3],
    /// What the default profile has it answer: an error's number.
    answer: u8,
}

const fn call(what: &'static str, number: u32, arguments: [u32; 3], answer: u8) -> Call {
    Call { what, entry: Entry::Native, number, arguments, answer }
}

const fn compat(what: &'static str, number: u32, arguments: [u32; 3], answer: u8) -> Call {
    Call { entry: Entry::Compat, ..call(what, number, arguments, answer) }
}

const EPERM: u8 = 1;
const ENOSYS: u8 = 38;
/// What a call answers that the kernel took: no memory is at the address.
const EFAULT: u8 = 14;
const EACCES: u8 = 13;
const EINVAL: u8 = 22;
/// Its arguments are in memory, where no filter looks: what AppArmor says, if anything does.
const UNSEEN: u8 = 255;
/// No error.
const FINE: u8 = 0;

/// Where a program's words for a call lie.
const WORDS: u32 = 0x40_0e00;

/// Calls by which containers were left, and some that must work (x86-64).
const CALLS: [Call; 22] = [
    call("socket(AF_ALG)", 41, [38, 5, 0], EPERM),
    call("socket(AF_VSOCK)", 41, [40, 1, 0], EPERM),
    call("clone3", 435, [0, 0, 0], ENOSYS),
    call("io_uring_setup", 425, [1, 0, 0], EPERM),
    call("keyctl", 250, [0, 0, 0], EPERM),
    call("add_key", 248, [0, 0, 0], EPERM),
    call("mount", 165, [0, 0, 0], EPERM),
    call("umount2", 166, [WORDS, 0, 0], EPERM),
    call("unshare(CLONE_NEWUSER)", 272, [0x1000_0000, 0, 0], EPERM),
    // With CLONE_FS too, which the kernel never grants: without a filter no child is made.
    call("clone(CLONE_NEWUSER)", 56, [0x1000_0200, 0, 0], EPERM),
    call("setns", 308, [0, 0, 0], EPERM),
    call("bpf", 321, [0, 0, 0], EPERM),
    call("userfaultfd", 323, [0, 0, 0], EPERM),
    call("open_by_handle_at", 304, [0, 0, 0], EPERM),
    call("init_module", 175, [0, 0, 0], EPERM),
    call("kexec_load", 246, [0, 0, 0], EPERM),
    call("x32's getpid", 0x4000_0000 | 39, [0, 0, 0], ENOSYS),
    compat("32-bit mount", 21, [0, 0, 0], EPERM),
    compat("32-bit socket(AF_ALG)", 359, [38, 5, 0], EPERM),
    compat("32-bit socketcall(AF_ALG)", 102, [1, WORDS, 0], UNSEEN),
    compat("32-bit getuid", 199, [0, 0, 0], FINE),
    call("pipe2", 293, [1, 0, 0], EFAULT),
];

/// A program of a few hundred bytes that makes the calls and writes a byte for each: the number
/// of its error.
fn program(calls: &[Call]) -> Vec<u8> {
    const BASE: u32 = 0x40_0000;
    const HEADERS: u32 = 0x78;
    const BYTES: u32 = BASE + 0xf00;
    let mut code = Vec::new();
    let mov = |code: &mut Vec<u8>, register: u8, value: u32| {
        code.push(0xb8 + register);
        code.extend(value.to_le_bytes());
    };
    for (at, call) in (0_u32..).zip(calls) {
        let [first, second, third] = call.arguments;
        // The registers of the arguments: edi, esi, edx; or ebx, ecx, edx.
        let (one, two, enter) = match call.entry {
            Entry::Native => (7, 6, [0x0f, 0x05]),
            Entry::Compat => (3, 1, [0xcd, 0x80]),
        };
        mov(&mut code, 0, call.number);
        mov(&mut code, one, first);
        mov(&mut code, two, second);
        mov(&mut code, 2, third);
        code.extend([0x4d, 0x31, 0xd2]); // xor r10, r10
        code.extend(enter);
        code.extend([0xf7, 0xd8]); // neg eax
        code.extend([0x88, 0x04, 0x25]); // mov [byte], al
        code.extend((BYTES + at).to_le_bytes());
    }
    // write(1, BYTES, n); exit(0)
    let count = calls.iter().fold(0, |count, _| count + 1);
    for (register, value) in [(0, 1), (7, 1), (6, BYTES), (2, count)] {
        mov(&mut code, register, value);
    }
    code.extend([0x0f, 0x05]);
    mov(&mut code, 0, 60);
    mov(&mut code, 7, 0);
    code.extend([0x0f, 0x05]);

    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // a program for x86-64
    file.extend(u64::from(BASE + HEADERS).to_le_bytes());
    file.extend(64_u64.to_le_bytes()); // where the segment's header is
    file.extend([0; 12]);
    file.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]); // loaded; read, written, executed
    file.extend([0; 8]);
    file.extend([u64::from(BASE); 2].map(u64::to_le_bytes).concat());
    file.extend([0x1000_u64; 3].map(u64::to_le_bytes).concat());
    file.extend(code);
    // The words of a socketcall: AF_ALG, SOCK_SEQPACKET, 0.
    file.resize((WORDS - BASE) as usize, 0);
    file.extend([38_u32, 5, 0].map(u32::to_le_bytes).concat());
    file.resize(0x1000, 0);
    file
}

async fn calls(c: &Context) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(()); // the program is of its machine
    }
    let mut layer = LayerBuilder::new();
    layer.file("calls", 0o755, &program(&CALLS))?;
    let name = publish(c, "calls", &c.runtime.catalog.busybox.with_layer(layer.finish()?)).await?;
    let pod = c.plain_pod().await?;
    let mut answers = Vec::new();
    for profile in [ProfileType::RuntimeDefault, ProfileType::Unconfined] {
        let mut config = of_image(c.script("/calls | od -An -v -tu1 -w1"), &name);
        security(&mut config)?.seccomp =
            Some(SecurityProfile { profile_type: profile.into(), localhost_ref: String::new() });
        let text = c.output(&pod, &config).await?;
        let bytes: Vec<u8> = text.split_whitespace().flat_map(str::parse).collect();
        equal("the number of answers", bytes.len(), CALLS.len())?;
        answers.push(bytes);
    }
    for (call, answer) in CALLS.iter().zip(&answers[0]).filter(|(call, _)| call.answer != UNSEEN) {
        equal(call.what, *answer, call.answer)?;
    }
    // It is the filter that says so, as far as the kernel has the call and needs no capability.
    for what in ["clone3", "keyctl", "unshare(CLONE_NEWUSER)"] {
        let at = CALLS.iter().position(|call| call.what == what).context("no such call")?;
        ensure!(answers[1][at] != CALLS[at].answer, "{what} is refused without a filter, too");
    }
    let clone3 = CALLS.iter().position(|call| call.number == 435).context("no clone3")?;
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|y| y.contains('Y'))
    {
        let at = CALLS.iter().position(|call| call.answer == UNSEEN).context("no such call")?;
        equal(CALLS[at].what, answers[0][at], EACCES)?;
    }
    equal("clone3 without a filter", answers[1][clone3], EINVAL)?;
    c.clean_up().await?;
    c.remove_image(&name).await
}

/// Whatever a pod shares with the node, its containers are in their groups, below its parent.
async fn groups(c: &Context) -> Result<()> {
    type Ask = fn(&mut cri_proto::v1::NamespaceOption);
    let asks: [(&str, Ask); 5] = [
        ("a PID namespace of its own", |_| {}),
        ("the pod's", |spaces| spaces.pid = NamespaceMode::Pod.into()),
        ("the node's", |spaces| spaces.pid = NamespaceMode::Node.into()),
        ("the node's network", |spaces| spaces.network = NamespaceMode::Node.into()),
        ("the node's IPC", |spaces| spaces.ipc = NamespaceMode::Node.into()),
    ];
    for (what, ask) in asks {
        for handler in HANDLERS {
            let mut config = c.pod()?;
            ask(namespaces(&mut config)?);
            let spaces = namespaces(&mut config)?.clone();
            let pod = c.run_pod_by(handler, config).await?;
            let marker = format!("in-its-group-{}", c.next());
            let mut config = c.script(&format!("tail -f /dev/null & wait # {marker}"));
            security(&mut config)?.namespace_options = Some(spaces);
            let id = c.run(&pod, &config).await?;
            // A program answers a moment before its process executes.
            let pid = until(PATIENCE, "the process", || async {
                Ok(crate::process::with_argument(&marker).ok())
            })
            .await?;
            let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
            for controller in crate::process::controllers(&["memory", "pids", "devices", "cpu"]) {
                let line = own.lines().find(|line| {
                    let names = line.split(':').nth(1).unwrap_or_default();
                    names.split(',').any(|name| name == *controller)
                });
                let line = line.with_context(|| format!("{what}: no {controller} in {own}"))?;
                ensure!(line.contains(&id), "{what} by {handler:?}: {line}");
            }
            c.stop(&id, 0).await?;
        }
        c.clean_up().await?;
    }
    Ok(())
}

/// What an earlier version left open to others is closed by the next daemon.
async fn opened(c: &Context) -> Result<()> {
    let (root, state) = c.runtime.with_daemon(|daemon| Ok((daemon.root(), daemon.state())))?;
    c.runtime.kill()?;
    for top in [&root, &state] {
        fs::set_permissions(top, fs::Permissions::from_mode(0o755))?;
    }
    c.runtime.launch().await?;
    for top in [&root, &state] {
        let mode = fs::metadata(top)?.permissions().mode() & 0o7777;
        equal(&top.display().to_string(), format!("{mode:o}"), "700")?;
    }
    let pod = c.plain_pod().await?;
    equal("a container", c.output(&pod, &c.script("echo runs")).await?, "runs")?;
    c.clean_up().await
}

/// Neither a strict nor an open umask of whoever starts the daemon is seen in a container or on
/// the node.
async fn starters(c: &Context) -> Result<()> {
    let program = c.runtime.with_daemon(|daemon| Ok(daemon.program().to_owned()))?;
    let program = fs::canonicalize(program)?;
    for umask in ["000", "077"] {
        let (ground, _) = super::builtin::ground()?;
        let script = c.directory()?.join("corten");
        let text = format!("#!/bin/sh\numask {umask}\nexec {} \"$@\"\n", program.display());
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let runtime = super::builtin::by_program(c, ground, script, false, String::new()).await?;
        let other = Context::new(std::sync::Arc::new(runtime), "starters");
        other.pull(BUSYBOX).await?;
        let pod = other.plain_pod().await?;
        let mut config = other.script(
            "umask; for p in / /etc /etc/hosts /etc/resolv.conf /etc/hostname /dev /dev/null \
             /dev/shm /tmp /work /work/deep; do stat -c '%n %a' $p; done",
        );
        config.working_dir = "/work/deep".to_owned();
        let secured = security(&mut config)?;
        secured.run_as_user = Some(cri_proto::v1::Int64Value { value: 1000 });
        secured.capabilities =
            Some(Capability { drop_capabilities: strings(&["ALL"]), ..Capability::default() });
        let wanted = "0022\n/ 755\n/etc 755\n/etc/hosts 644\n/etc/resolv.conf 644\n\
            /etc/hostname 644\n/dev 755\n/dev/null 666\n/dev/shm 1777\n/tmp 1777\n\
            /work 755\n/work/deep 755";
        equal(&format!("umask {umask}"), other.output(&pod, &config).await?, wanted)?;
        let (root, state) =
            other.runtime.with_daemon(|daemon| Ok((daemon.root(), daemon.state())))?;
        let mut find = std::process::Command::new("find");
        find.args([&root, &state]).args(["-perm", "/022", "-not", "-type", "l"]);
        find.args([
            "-not",
            "-type",
            "s",
            "-not",
            "-path",
            "*/layers/*/*",
            "-not",
            "-path",
            "*/fs/*",
            "-not",
            "-path",
            "*/shm*",
        ]);
        find.args(["-not", "-type", "c", "-printf", "%m %p\n"]);
        let open = testing::program::output(&mut find)?;
        ensure!(open.is_empty(), "umask {umask}: others may write {open}");
        other.clean_up().await?;
    }
    Ok(())
}
