use crate::fake::{CONTAINER_1, CONTAINER_2, IMAGE_1, POD_1, POD_2, Served};
use crate::output::Exit;

const POD: &str = "metadata: {name: web, namespace: default, uid: u}\n";
const CONTAINER: &str = "
metadata: {name: server}
image: {image: 'busybox:1.36', annotations: {a: b}}
command: [sleep, '1']
envs: [{key: A, value: plain}]
mounts: [{container_path: /data, image: {image: 'data:1'}}]
";

#[tokio::test]
async fn a_pod_is_run() {
    let served = Served::start();
    let pod = served.file("pod.yaml", POD);
    assert_eq!(served.run(&["runp", "-r", "runsc", &pod]).await.clean(), "new-pod\n");
    assert_eq!(served.run(&["runp", "-T", "30s", &pod]).await.clean(), "new-pod\n");
    assert_eq!(served.calls(), ["RunPodSandbox web \"runsc\"", "RunPodSandbox web \"\""]);
}

#[tokio::test]
async fn unknown_keys_are_warned_of() {
    let served = Served::start();
    let pod = served.file("pod.yaml", &format!("{POD}colour: red\n"));
    let ran = served.run(&["runp", &pod]).await;
    assert_eq!(ran.err, format!("corten: warning: {pod}: `colour` is unknown and ignored\n"));
    assert_eq!(ran.out, "new-pod\n");
}

#[tokio::test]
async fn a_container_is_created_with_or_without_pulling() {
    let served = Served::start();
    let (pod, container) = (served.file("p.yaml", POD), served.file("c.yaml", CONTAINER));
    let text = served.run(&["create", "POD", &container, &pod]).await.clean();
    assert_eq!(text, "new-container\n");
    assert_eq!(served.calls(), ["CreateContainer POD"]);
    let request = served.fake.created.lock().expect("created").take().expect("a request");
    let config = request.config.expect("a configuration");
    assert_eq!(config.envs[0].value, b"plain");
    assert_eq!(config.image.expect("an image").user_specified_image, "busybox:1.36");
    assert_eq!(request.sandbox_config.expect("a pod").metadata.expect("metadata").uid, "u");

    let args = ["create", "--with-pull", "--creds", "me:se:cret", "POD", &container, &pod];
    served.run(&args).await.clean();
    let pulls = ["PullImage busybox:1.36", "PullImage data:1", "CreateContainer POD"];
    assert_eq!(served.calls(), pulls);
    let pulled = served.fake.pulled.lock().expect("pulled").clone();
    let auth = pulled[0].auth.clone().expect("credentials");
    assert_eq!((auth.username.as_str(), auth.password.as_str()), ("me", "se:cret"));
    assert_eq!(pulled[0].image.clone().expect("an image").annotations["a"], "b");

    let args = ["create", "POD", &container, &pod];
    served.run_with(&args, |settings| settings.pull_on_create = true).await.clean();
    assert_eq!(served.calls(), pulls);
}

#[tokio::test]
async fn run_makes_pod_and_container() {
    let served = Served::start();
    let (pod, container) = (served.file("p.yaml", POD), served.file("c.yaml", CONTAINER));
    let made =
        ["RunPodSandbox web \"\"", "CreateContainer new-pod", "StartContainer new-container"];
    assert_eq!(
        served.run(&["run", "--no-pull", &container, &pod]).await.clean(),
        "new-container\n"
    );
    assert_eq!(served.calls(), made);
    served.run(&["run", &container, &pod]).await.clean();
    assert_eq!(served.calls()[..2], ["PullImage busybox:1.36", "PullImage data:1"]);
    let no_pull = |settings: &mut crate::settings::Settings| settings.no_pull_on_run = true;
    served.run_with(&["run", &container, &pod], no_pull).await.clean();
    assert_eq!(served.calls(), made);
}

#[tokio::test]
async fn run_leaves_no_pod_behind_when_the_container_fails() {
    let served = Served::start();
    let text = CONTAINER.replace("[sleep, '1']", "[bad]");
    let (pod, container) = (served.file("p.yaml", POD), served.file("c.yaml", &text));
    let error = served.run(&["run", "--no-pull", &container, &pod]).await.error();
    assert!(error.ends_with("failed: exec: \"bad\": not found (InvalidArgument)"), "{error}");
    let calls = served.calls();
    assert_eq!(calls[3..], ["StopPodSandbox new-pod", "RemovePodSandbox new-pod"]);
}

#[tokio::test]
async fn several_are_done_although_one_fails() {
    let served = Served::start();
    let ran = served.run(&["start", "a", "bad", "b"]).await;
    assert_eq!(ran.out, "a\nb\n");
    assert!(ran.err.starts_with("corten: StartContainer on unix://"), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1);
    assert_eq!(ran.error(), "1 of 3 failed");
}

#[tokio::test]
async fn containers_stop_and_go() {
    let served = Served::start();
    assert_eq!(served.run(&["stop", "-t", "7", "a"]).await.clean(), "a\n");
    assert_eq!(served.run(&["stop", "--all"]).await.clean(), format!("{CONTAINER_1}\n"));
    assert_eq!(
        served.calls(),
        ["StopContainer a 7".into(), format!("StopContainer {CONTAINER_1} 0")]
    );

    let error = served.run(&["rm", "3333"]).await.error();
    assert_eq!(error, "container 3333 is running, stop it first or use --force");
    assert!(served.calls().is_empty());
    served.run(&["rm", "-f", "3333"]).await.clean();
    assert_eq!(served.calls(), ["StopContainer 3333 0", "RemoveContainer 3333"]);
    let ran = served.run(&["rm", "--all"]).await;
    assert_eq!(ran.out, format!("{CONTAINER_2}\n"));
    assert_eq!(ran.error(), "1 of 2 failed");
}

#[tokio::test]
async fn pods_stop_and_go() {
    let served = Served::start();
    assert_eq!(served.run(&["stopp", "1"]).await.clean(), "Stopped sandbox 1\n");
    let error = served.run(&["rmp", "1"]).await.error();
    assert_eq!(error, "pod 1 is ready, stop it first or use --force");
    served.calls();
    assert_eq!(
        served.run(&["rmp", "-f", "-a"]).await.clean(),
        format!("Removed sandbox {POD_1}\nRemoved sandbox {POD_2}\n"),
    );
    let mut calls = served.calls();
    calls.sort();
    assert_eq!(
        calls,
        [
            format!("RemovePodSandbox {POD_1}"),
            format!("RemovePodSandbox {POD_2}"),
            format!("StopPodSandbox {POD_1}"),
        ],
    );
}

#[tokio::test]
async fn images_come_and_go() {
    let served = Served::start();
    let text = served.run(&["pull", "--auth", "YTpi", "-a", "k=v", "busybox"]).await.clean();
    assert_eq!(text, format!("Image is up to date for {IMAGE_1}\n"));
    let pulled = served.fake.pulled.lock().expect("pulled").remove(0);
    assert_eq!(pulled.auth.expect("credentials").auth, "YTpi");
    assert_eq!(pulled.image.expect("an image").annotations["k"], "v");

    served.calls();
    assert_eq!(
        served.run(&["rmi", "busybox:1.36"]).await.clean(),
        "Deleted: docker.io/library/busybox:1.36\nDeleted: localhost:5000/busybox:latest\n",
    );
    assert_eq!(served.calls(), ["RemoveImage busybox:1.36"]);
    assert_eq!(served.run(&["rmi", "none"]).await.error(), "no such image: none");
    // One is in use, one is pinned.
    let text = served.run(&["rmi", "--prune"]).await.clean();
    assert_eq!(text, format!("Deleted: registry.k8s.io/pause@sha256:{}\n", "8".repeat(64)));
    served.calls();
    served.run(&["rmi", "--all"]).await.clean();
    assert_eq!(served.calls().len(), 3);
}

#[tokio::test]
async fn archives_are_loaded() {
    let served = Served::start();
    let archive = served.file("image.tar", &"x".repeat(1_000_000));
    let text = served.run(&["image", "load", &archive]).await.clean();
    assert_eq!(text, "Loaded: of-1000000-bytes\n");
    let error = served.run(&["image", "load", "/nowhere.tar"]).await.error();
    assert!(error.starts_with("failed to read /nowhere.tar"), "{error}");
}

#[tokio::test]
async fn exec_passes_output_and_exit_code_on() {
    let served = Served::start();
    let ran = served.run(&["exec", "-s", "--timeout", "1500ms", "c", "ls", "-l", "--", "x"]).await;
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
    assert!(ran.result.is_ok());
    assert_eq!(served.calls(), [r#"ExecSync ["ls", "-l", "--", "x"] 2"#]);
    let ran = served.run(&["exec", "--sync", "c", "false"]).await;
    let exit = ran.result.expect_err("a code").downcast::<Exit>().expect("an exit code");
    assert_eq!(exit.0, 1);
    let error = served.run(&["exec", "-s", "-it", "c", "sh"]).await.error();
    assert!(error.starts_with("--tty needs streams"), "{error}");
}

#[tokio::test]
async fn logs_of_a_container_that_ended() {
    let served = Served::start();
    assert!(served.run(&["logs", "4444"]).await.error().contains("has no log"));
    let path = served.file(
        "0.log",
        "2023-11-14T22:00:00Z stdout F old\n2023-11-14T22:13:19Z stdout F new\n2023-11-14T22:13:19Z stderr F odd\n",
    );
    *served.fake.log_path.lock().expect("log path") = path;
    for (args, out, err) in [
        (&[][..], "old\nnew\n", "odd\n"),
        (&["-f"], "old\nnew\n", "odd\n"),
        (&["--tail", "1"], "", "odd\n"),
        (&["--tail", "-1"], "old\nnew\n", "odd\n"),
        (&["--since", "1m", "-s", "stdout"], "new\n", ""),
        (
            &["-t", "--since", "2023-11-14T22:13:00Z"],
            "2023-11-14T22:13:19Z new\n",
            "2023-11-14T22:13:19Z odd\n",
        ),
    ] {
        let ran = served.run(&[&["logs"], args, &["4444"]].concat()).await;
        assert!(ran.result.is_ok(), "{args:?}: {:?}", ran.result);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), (out, err), "{args:?}");
    }
    let error = served.run(&["logs", "-p", "4444"]).await.error();
    assert!(error.contains("is the first attempt"), "{error}");
}

#[tokio::test]
async fn a_runtime_that_is_away_is_named() {
    let served = Served::start();
    let gone: cri_client::Endpoint = "/nowhere/s.sock".parse().expect("an endpoint");
    let ran = served.run_with(&["pods"], |settings| settings.runtime_endpoint = gone).await;
    assert_eq!(
        ran.error(),
        "failed to connect to unix:///nowhere/s.sock: no such socket: is the runtime running, \
         and is this its endpoint?",
    );
}

#[tokio::test]
async fn resources_are_changed() {
    let served = Served::start();
    let args =
        ["update", "--memory", "1024", "--cpu-quota", "-1", "--cpuset-cpus", "0-1", "a", "b"];
    assert_eq!(served.run(&args).await.clean(), "a\nb\n");
    let mut calls = served.calls();
    calls.sort();
    let wanted = ["a", "b"].map(|id| format!("UpdateContainerResources {id} 1024 0 -1 \"0-1\""));
    assert_eq!(calls, wanted);
    assert_eq!(served.run(&["update", "a"]).await.error(), "nothing is to be changed");
    assert!(served.calls().is_empty());
}

#[tokio::test]
async fn images_are_saved_whole_or_not_at_all() {
    let served = Served::start();
    assert_eq!(
        served.run(&["image", "save", "-o", "/nonexistent/x", "a"]).await.error().lines().count(),
        1
    );
    let path = served.dir.path().join("saved");
    let text = path.to_str().expect("text");
    served.run(&["image", "save", "--output", text, "first ", "second"]).await.clean();
    assert_eq!(std::fs::read_to_string(&path).expect("saved"), "first second");
    let error = served.run(&["image", "save", "-o", text, "other", "none"]).await.error();
    assert!(error.contains("image none not found"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("saved"), "first second");
    assert_eq!(std::fs::read_dir(served.dir.path()).expect("a directory").count(), 2);
}

#[tokio::test]
async fn damage_is_told_and_gives_the_exit_code_of_fsck() {
    let served = Served::start();
    let text = served.run(&["fsck"]).await.clean();
    assert_eq!(text, "3 images and 5 layers looked at: 0 damaged\n");
    for (arguments, action, code) in [
        (&["fsck", "--read"][..], "repair removes it", 4),
        (&["fsck", "--read", "--repair"], "removed", 1),
    ] {
        let ran = served.run(arguments).await;
        let line = format!("layer sha256:1: its files are others ({action})\n");
        assert!(ran.out.starts_with(&line), "{}", ran.out);
        assert!(ran.out.ends_with("5 layers and 0 blobs read: 1 damaged\n"), "{}", ran.out);
        let error = ran.result.expect_err("damage");
        assert_eq!(error.downcast_ref::<Exit>().map(|exit| exit.0), Some(code));
    }
}
