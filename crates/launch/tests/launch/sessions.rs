//! Exec sessions and terminals.

use std::fs::File;
use std::io::{Read, Write};

use launch::{LaunchError, Stdio, start_exec};
use serde_json::json;
use sys::pidfd::Exit;

use crate::bench::{Bench, Running, read_link, status_of, wait_for_start};
use crate::harness::Case;

pub const CASES: &[Case] = &[
    ("sessions::exec_runs_in_the_container", exec_runs_in_the_container),
    ("sessions::exec_is_as_confined_as_its_container", exec_is_as_confined_as_its_container),
    ("sessions::exec_has_its_own_user_and_directory", exec_has_its_own_user_and_directory),
    ("sessions::exec_that_cannot_run_says_why", exec_that_cannot_run_says_why),
    ("sessions::exec_in_an_ended_container_fails", exec_in_an_ended_container_fails),
    ("sessions::a_container_has_a_terminal", a_container_has_a_terminal),
    ("sessions::a_session_has_a_terminal", a_session_has_a_terminal),
];

/// A container that waits for its end.
fn running(bench: &mut Bench) -> Running {
    bench.script("echo up; exec sleep 1000");
    let mut container = bench.start().expect("started");
    assert_eq!(container.wait_for_output(), "up\n");
    container
}

fn exec_runs_in_the_container() {
    let mut bench = Bench::new();
    let container = running(&mut bench);
    let outcome = bench
        .exec(
            &container,
            "for n in pid mnt ipc uts net cgroup; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done
             hostname; cat /proc/1/comm; touch /made; exit 5",
        )
        .expect("started");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    for pair in lines.get(..12).expect("lines").chunks(2) {
        assert_eq!(pair[0], pair[1]);
        let kind = pair[0].split(':').next().expect("kind");
        assert_ne!(pair[0], read_link(format!("/proc/self/ns/{kind}")));
    }
    assert_eq!(lines.get(12..), Some(["corten-test", "sleep"].as_slice()));
    assert_eq!(outcome.exit, Exit::Code(5));
    assert!(bench.path("upper/made").exists());
    container.stop();
}

fn exec_is_as_confined_as_its_container() {
    let mut bench = Bench::new();
    bench.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
    bench.spec["process"]["oomScoreAdj"] = json!(321);
    let container = running(&mut bench);
    for no_new_privileges in [true, false] {
        let mut process = bench.spec["process"].clone();
        process["oomScoreAdj"] = json!(null);
        process["noNewPrivileges"] = json!(no_new_privileges);
        process["args"] = json!([
            "/bin/sh",
            "-c",
            "cat /proc/self/status /proc/self/oom_score_adj; mkdir /tmp/x; ls /proc/self/fd | wc -l"
        ]);
        let outcome = bench.exec_process(&container, &process).expect("started");
        assert_eq!(status_of(&outcome.stdout, "Seccomp"), "2");
        let expected = format!("{:016x}", 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10);
        assert_eq!(status_of(&outcome.stdout, "CapBnd"), expected);
        assert_eq!(status_of(&outcome.stdout, "CapInh"), format!("{:016x}", 0));
        assert!(outcome.stderr.contains("Function not implemented"), "{outcome:?}");
        let last: Vec<&str> = outcome.stdout.lines().rev().take(2).collect();
        assert_eq!(last, ["4", "321"], "descriptors with that of ls, and the score");
    }
    container.stop();
}

fn exec_has_its_own_user_and_directory() {
    let mut bench = Bench::new();
    let container = running(&mut bench);
    let mut process = bench.spec["process"].clone();
    process["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [9]});
    process["cwd"] = json!("/tmp");
    process["env"] = json!(["PATH=/bin", "B=2"]);
    process["args"] = json!(["sh", "-c", "id -u; id -G; pwd; echo $B $HOME; echo x > /dev/stdout"]);
    let outcome = bench.exec_process(&container, &process).expect("started");
    assert_eq!(outcome.stdout, "1000\n1000 9\n/tmp\n2 /home/user\nx\n", "{outcome:?}");
    container.stop();
}

fn exec_that_cannot_run_says_why() {
    let mut bench = Bench::new();
    let container = running(&mut bench);
    let mut process = bench.spec["process"].clone();
    process["args"] = json!(["missing"]);
    let error = bench.exec_process(&container, &process).expect_err("missing");
    assert_eq!(error.to_string(), "exec: \"missing\": executable file not found in $PATH");
    process["args"] = json!(["true"]);
    for cwd in ["/no/such", "/proc/self/fd/3", "/bin/busybox"] {
        process["cwd"] = json!(cwd);
        let error = bench.exec_process(&container, &process).expect_err(cwd);
        let expected = format!("failed to enter the working directory {cwd}");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    container.stop();
}

fn exec_in_an_ended_container_fails() {
    let mut bench = Bench::new();
    let container = running(&mut bench);
    crate::harness::kill(&container.launching.pidfd);
    assert!(crate::harness::wait_readable(
        &container.launching.pidfd,
        std::time::Duration::from_secs(10)
    ));
    let error = bench.exec(&container, "true").expect_err("ended");
    assert!(
        matches!(error, LaunchError::JoinPid(_) | LaunchError::PidNamespaceEnded(_)),
        "{error}"
    );
    container.finish();
}

/// Reads a terminal to its end, which the kernel tells by an error.
fn read_all(master: &mut File) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(text).expect("text")
}

fn a_container_has_a_terminal() {
    let mut bench = Bench::new();
    bench.spec["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    bench.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bench.script(
        "tty; stty size; stat -c '%t %u' $(tty); stat -c %t /dev/console; echo x > /dev/tty
         echo y > /dev/console; ls /proc/self/fd | wc -l; read line; echo got $line",
    );
    let (launching, started) = bench.start_on_terminal().expect("started");
    let mut master = File::from(started.console.expect("a master"));
    master.write_all(b"input\n").expect("written");
    let text = read_all(&mut master).replace('\r', "");
    let lines: Vec<&str> = text.lines().filter(|line| *line != "input").collect();
    let expected = ["/dev/pts/0", "33 99", "88 1000", "88", "x", "y", "4", "got input"];
    assert_eq!(lines, expected, "{text}");
    let exit = sys::pidfd::wait_and_reap(&launching.pidfd).expect("reaped");
    assert_eq!(exit, Exit::Code(0));
}

fn a_session_has_a_terminal() {
    let mut bench = Bench::new();
    let container = running(&mut bench);
    let mut process = bench.spec["process"].clone();
    process["terminal"] = json!(true);
    process["args"] = json!(["/bin/sh", "-c", "tty; echo x > /dev/tty; exit 3"]);
    let request = bench.exec_request(&container, &process, Stdio::Terminal);
    let mut launching = start_exec(&request).expect("started");
    let started = wait_for_start(&mut launching).expect("started");
    let mut master = File::from(started.console.expect("a master"));
    assert_eq!(read_all(&mut master), "/dev/pts/0\r\nx\r\n");
    let exit = sys::pidfd::wait_and_reap(&launching.pidfd).expect("reaped");
    assert_eq!(exit, Exit::Code(3));
    container.stop();
}
