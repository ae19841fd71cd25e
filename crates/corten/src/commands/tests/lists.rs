use crate::fake::{CONTAINER_1, CONTAINER_2, IMAGE_1, POD_1, Served};

#[tokio::test]
async fn containers_as_a_table() {
    let served = Served::start();
    assert_eq!(
        served.run(&["ps", "-a"]).await.clean(),
        "\
CONTAINER           IMAGE               CREATED             STATE               NAME                ATTEMPT             POD ID              POD                 NAMESPACE
3333333333333       5555555555555       5 seconds ago       Running             server              0                   1111111111111       web                 default
4444444444444       busybox:1.36        8 minutes ago       Exited              init                0                   1111111111111       web                 default
",
    );
}

#[tokio::test]
async fn containers_by_filters() {
    let served = Served::start();
    let (one, two) = (format!("{CONTAINER_1}\n"), format!("{CONTAINER_2}\n"));
    let both = one.clone() + &two;
    for (args, expected) in [
        (&[][..], &one),
        (&["-a"], &both),
        (&["--id", "444"], &two),
        (&["--state", "EXITED"], &two),
        (&["-a", "--name", "^in"], &two),
        (&["-a", "--namespace", "^kube"], &String::new()),
        (&["-a", "--pod", "1111"], &both),
        (&["-a", "--pod", "2222"], &String::new()),
        (&["--latest"], &one),
        (&["-n", "2"], &both),
        (&["-a", "--image", "busybox:1.36"], &both),
        (&["-a", "--image", IMAGE_1], &both),
        (&["-a", "--image", "none"], &String::new()),
    ] {
        let args = [&["ps", "-q"], args].concat();
        assert_eq!(&served.run(&args).await.clean(), expected, "{args:?}");
    }
    let error = served.run(&["ps", "--name", "("]).await.error();
    assert!(error.contains("--name `(` is no regular expression"), "{error}");
    let error = served.run(&["ps", "--label", "x"]).await.error();
    assert_eq!(error, "--label `x` is not of the form KEY=VALUE");
}

#[tokio::test]
async fn containers_in_full() {
    let served = Served::start();
    assert_eq!(
        served.run(&["ps", "-v"]).await.clean(),
        format!(
            "\
ID: {CONTAINER_1}
PodID: {POD_1}
Namespace: default
Name: server
Attempt: 0
State: Running
Image: {IMAGE_1}
Created: 5 seconds ago
Labels:
\tio.kubernetes.pod.name -> web
\tio.kubernetes.pod.namespace -> default

"
        ),
    );
    let text = served.run(&["ps", "-r"]).await.clean();
    assert!(text.contains("docker.io/library/busybox:1.36   5 seconds ago"), "{text}");
}

#[tokio::test]
async fn containers_as_json_and_yaml() {
    let served = Served::start();
    assert_eq!(
        served.run(&["ps", "-o", "json"]).await.clean(),
        format!(
            r#"{{
  "containers": [
    {{
      "id": "{CONTAINER_1}",
      "podSandboxId": "{POD_1}",
      "metadata": {{
        "name": "server",
        "attempt": 0
      }},
      "image": {{
        "image": "{IMAGE_1}",
        "annotations": {{}},
        "userSpecifiedImage": "",
        "runtimeHandler": "",
        "imageRef": ""
      }},
      "imageRef": "{IMAGE_1}",
      "state": "CONTAINER_RUNNING",
      "createdAt": "1699999995000000000",
      "labels": {{
        "io.kubernetes.pod.name": "web",
        "io.kubernetes.pod.namespace": "default"
      }},
      "annotations": {{}},
      "imageId": "{IMAGE_1}"
    }}
  ]
}}
"#
        ),
    );
    assert_eq!(
        served.run(&["ps", "-o", "yaml"]).await.clean(),
        format!(
            "\
containers:
- id: {CONTAINER_1}
  podSandboxId: {POD_1}
  metadata:
    name: server
    attempt: 0
  image:
    image: {IMAGE_1}
    annotations: {{}}
    userSpecifiedImage: \"\"
    runtimeHandler: \"\"
    imageRef: \"\"
  imageRef: {IMAGE_1}
  state: CONTAINER_RUNNING
  createdAt: \"1699999995000000000\"
  labels:
    io.kubernetes.pod.name: web
    io.kubernetes.pod.namespace: default
  annotations: {{}}
  imageId: {IMAGE_1}
"
        ),
    );
    let error = served.run(&["ps", "-o", "go-template"]).await.error();
    assert!(error.contains("go-template output is not supported, use --output json"), "{error}");
}

#[tokio::test]
async fn pods_as_a_table() {
    let served = Served::start();
    assert_eq!(
        served.run(&["pods"]).await.clean(),
        "\
POD ID              CREATED             STATE               NAME                NAMESPACE           ATTEMPT             RUNTIME
1111111111111       10 minutes ago      Ready               web                 default             1                   (default)
2222222222222       2 hours ago         NotReady            batch               default             1                   runsc
",
    );
}

#[tokio::test]
async fn pods_by_filters_and_in_full() {
    let served = Served::start();
    for (args, expected) in [
        (&["--state", "ready"][..], "1"),
        (&["--state", "NotReady"], "2"),
        (&["--name", "^ba"], "2"),
        (&["--namespace", "kube"], ""),
        (&["--label", "app=web", "--label", "tier=front"], "1"),
        (&["--id", "2"], "2"),
        (&["-l"], "1"),
        (&["--last", "0"], "12"),
    ] {
        let args = [&["pods", "-q"], args].concat();
        let text = served.run(&args).await.clean();
        let firsts: String = text.lines().filter_map(|line| line.chars().next()).collect();
        assert_eq!(firsts, expected, "{args:?}");
    }
    assert_eq!(
        served.run(&["pods", "-v", "--id", "1"]).await.clean(),
        format!(
            "\
ID: {POD_1}
Name: web
UID: uid-web
Namespace: default
Attempt: 1
Status: Ready
Created: 2023-11-14T22:03:20Z
Labels:
\tapp -> web
\ttier -> front
Runtime: (default)

"
        ),
    );
}

#[tokio::test]
async fn images_as_a_table() {
    let served = Served::start();
    assert_eq!(
        served.run(&["images"]).await.clean(),
        "\
IMAGE                       TAG                 IMAGE ID            SIZE
<none>                      <none>              7777777777777       700B
docker.io/library/busybox   1.36                5555555555555       4.26MB
localhost:5000/busybox      latest              5555555555555       4.26MB
registry.k8s.io/pause       <none>              6666666666666       750kB
",
    );
    assert_eq!(
        served.run(&["images", "--digests", "--pinned", "localhost:5000/busybox:latest"]).await.clean(),
        "\
IMAGE                       TAG                 DIGEST              IMAGE ID            SIZE                PINNED
docker.io/library/busybox   1.36                9999999999999       5555555555555       4.26MB              false
localhost:5000/busybox      latest              9999999999999       5555555555555       4.26MB              false
",
    );
    let ids = served.run(&["images", "-q"]).await.clean();
    assert_eq!(ids.lines().nth(1), Some(IMAGE_1));
}

#[tokio::test]
async fn stats_and_file_systems_as_tables() {
    let served = Served::start();
    assert_eq!(
        served.run(&["stats"]).await.clean(),
        "\
CONTAINER           NAME                CPU %               MEM                 DISK                INODES
3333333333333       server              1.53                5.3MB               20.5kB              7
",
    );
    assert_eq!(
        served.run(&["statsp"]).await.clean(),
        "\
POD                 NAMESPACE           NAME                CPU %               MEM                 PROCESSES           RX                  TX
1111111111111       default             web                 1.53                -                   3                   1kB                 2MB
",
    );
    assert_eq!(
        served.run(&["imagefsinfo", "-o", "table"]).await.clean(),
        "\
FILESYSTEM          MOUNTPOINT          USED                INODES
image               /var/lib/fake       12.3MB              99
",
    );
}

#[tokio::test]
async fn images_are_shown_as_trees() {
    let served = Served::start();
    let text = served.run(&["image", "tree", IMAGE_1]).await.clean();
    assert!(text.contains("├── aaaaaaaaaaaaa") && text.contains("└── bbbbbbbbbbbbb"), "{text}");
    assert!(text.contains("in 3 images"), "{text}");
    let error = served.run(&["image", "tree", "no-such"]).await.error();
    assert_eq!(error, "no such image: no-such");
    let list = served.run(&["images"]).await.clean();
    assert_eq!(served.run(&["image", "list"]).await.clean(), list);
    let one = served.run(&["inspecti", IMAGE_1]).await.clean();
    assert_eq!(served.run(&["image", "inspect", IMAGE_1]).await.clean(), one);
}
