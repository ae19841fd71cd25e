use crate::fake::{CONTAINER_1, CONTAINER_2, IMAGE_1, POD_1, Served};

#[tokio::test]
async fn version_in_crictls_form() {
    let served = Served::start();
    assert_eq!(
        served.run(&["version"]).await.clean(),
        "Version:  0.1.0\nRuntimeName:  fake\nRuntimeVersion:  v2.0\nRuntimeApiVersion:  v1\n",
    );
}

#[tokio::test]
async fn info_has_conditions_handlers_features_and_the_rest() {
    let served = Served::start();
    assert_eq!(
        served.run(&["info"]).await.clean(),
        r#"{
  "status": {
    "conditions": [
      {
        "type": "RuntimeReady",
        "status": true,
        "reason": "",
        "message": ""
      },
      {
        "type": "NetworkReady",
        "status": false,
        "reason": "NoNetwork",
        "message": ""
      }
    ]
  },
  "runtimeHandlers": [
    {
      "name": "runc",
      "features": {
        "recursive_read_only_mounts": true
      }
    }
  ],
  "features": {},
  "config": {
    "n": 1,
    "root": "/r"
  },
  "note": "hello"
}
"#,
    );
    let quiet = served.run(&["info", "-q"]).await.clean();
    assert!(!quiet.contains("config"), "{quiet}");
    let error = served.run(&["info", "-o", "table"]).await.error();
    assert_eq!(error, "this has no table form, use --output json or yaml");
}

#[tokio::test]
async fn a_container_as_json_has_times_as_text() {
    let served = Served::start();
    let text = served.run(&["inspect", "4444"]).await.clean();
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["info"]["runtimeSpec"]["hostname"], "web");
    let status = &value["status"];
    assert_eq!(status["id"], CONTAINER_2);
    assert_eq!(status["state"], "CONTAINER_EXITED");
    assert_eq!(status["exitCode"], 3);
    assert_eq!(status["createdAt"], "2023-11-14T22:05:00Z");
    assert_eq!(status["startedAt"], "2023-11-14T22:05:01Z");
    assert_eq!(status["finishedAt"], "2023-11-14T22:05:03Z");
    // Unset values are shown, unset messages are not.
    assert_eq!(status["reason"], "");
    assert_eq!(status["mounts"], serde_json::json!([]));
    assert_eq!(status.get("resources"), None);

    let text = served.run(&["inspect", "-q", CONTAINER_1, CONTAINER_2]).await.clean();
    let both: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(both[0]["status"]["finishedAt"], "0001-01-01T00:00:00Z");
    assert_eq!(both[0].get("info"), None);
    assert_eq!(both[1]["status"]["id"], CONTAINER_2);
}

#[tokio::test]
async fn a_container_as_a_table() {
    let served = Served::start();
    assert_eq!(
        served.run(&["inspect", "-q", "-o", "table", "--state", "exited"]).await.clean(),
        format!(
            "\
ID: {CONTAINER_2}
Name: init
Attempt: 0
State: CONTAINER_EXITED
Created: 8 minutes ago
Started: 8 minutes ago
Finished: 8 minutes ago
Exit Code: 3
Labels:
\tapp -> web
"
        ),
    );
}

#[tokio::test]
async fn a_pod_and_an_image() {
    let served = Served::start();
    assert_eq!(
        served.run(&["inspectp", "-o", "table", "1111"]).await.clean(),
        format!(
            "\
ID: {POD_1}
Name: web
UID: uid-web
Namespace: default
Attempt: 1
Status: SANDBOX_READY
Created: 2023-11-14T22:03:20Z
IP Addresses: 10.88.0.2
Additional IP: fd00::2
Labels:
\tapp -> web
\ttier -> front
Info:
\tinfo -> {{\"pid\":42}}
"
        ),
    );
    let text = served.run(&["inspectp", "1111"]).await.clean();
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["status"]["network"]["additionalIps"][0]["ip"], "fd00::2");
    assert_eq!(value["info"]["pid"], 42);
    assert_eq!(
        served.run(&["inspecti", "-o", "table", "busybox:1.36"]).await.clean(),
        format!(
            "\
ID: {IMAGE_1}
Tag: docker.io/library/busybox:1.36
Tag: localhost:5000/busybox:latest
Digest: docker.io/library/busybox@sha256:{}
Size: 4.26MB
Info:
\tinfo -> {{\"layers\":[\"sha256:aaaaaaaaaaaaaaaa\",\"sha256:bbbbbbbbbbbbbbbb\"],\"layerBytes\":[1000,2000000]}}
",
            "9".repeat(64),
        ),
    );
    assert_eq!(served.run(&["inspecti", "none"]).await.error(), "no such image: none");
    let error = served.run(&["inspect", "999"]).await.error();
    assert!(error.ends_with("failed: no container 999 (NotFound)"), "{error}");
    let error = served.run(&["inspectp", "--name", "none"]).await.error();
    assert_eq!(error, "no pod is named and none matches the filters");
}

#[tokio::test]
async fn small_answers() {
    let served = Served::start();
    assert_eq!(
        served.run(&["runtime-config", "-o", "yaml"]).await.clean(),
        "linux:\n  cgroupDriver: CGROUPFS\n",
    );
    assert_eq!(
        served.run(&["events", "-o", "table"]).await.clean(),
        "2023-11-14T22:13:20Z STARTED  3333333333333 -\n",
    );
    let text = served.run(&["imagefsinfo"]).await.clean();
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["status"]["imageFilesystems"][0]["usedBytes"]["value"], "12345678");
    assert_eq!(value["status"]["containerFilesystems"], serde_json::json!([]));
}
