//! Who gets which credentials.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{
    Bed,
    fake::{Asked, Fake, Reply},
    made::{self, Layer, Made},
};
use images::{Auth, PullErrorKind as Kind};

fn password() -> Auth {
    Auth { username: "user".into(), password: "pass".into(), ..Auth::default() }
}

const BASIC: &str = "Basic dXNlcjpwYXNz";

/// A registry that wants a token of a token server, which is itself.
fn with_tokens() -> (Arc<Fake>, Made) {
    let fake = Arc::new(Fake::new());
    let image = Made::new(&[Layer::file("f", "1"), Layer::file("g", "2")]);
    fake.push("a/b", "latest", &image);
    let address = fake.address;
    fake.first(move |asked| {
        if asked.path == "/token" {
            return Some(token(asked));
        }
        let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"reg\"");
        (asked.header("authorization") != Some("Bearer good")).then(|| {
            let body =
                br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            Reply::status(401).with("WWW-Authenticate", &challenge).body(body)
        })
    });
    (fake, image)
}

fn token(asked: &Asked) -> Reply {
    let answer = |token: &str| Reply::ok("application/json", token.as_bytes());
    if asked.method == "POST" {
        let good = asked.body.contains("grant_type=refresh_token")
            && asked.body.contains("refresh_token=refresh")
            && asked.body.contains("scope=repository%3Aa%2Fb%3Apull");
        return answer(if good { r#"{"access_token":"good"}"# } else { r#"{"token":"bad"}"# });
    }
    assert!(asked.query.contains("service=reg"), "{asked:?}");
    assert!(asked.query.contains("scope=repository%3Aa%2Fb%3Apull"), "{asked:?}");
    match asked.header("authorization") {
        Some(BASIC) => answer(r#"{"token":"good"}"#),
        Some(_) => Reply::status(401).body(br#"{"details":"incorrect password"}"#),
        None => answer(r#"{"token":"anonymous"}"#),
    }
}

#[tokio::test]
async fn tokens_are_fetched_with_each_kind_of_credentials() {
    let auth = |auth: &str| Auth { auth: auth.into(), ..Auth::default() };
    for (auth, kind) in [
        (Some(password()), None),
        (Some(auth("dXNlcjpwYXNz")), None),
        (Some(Auth { identity_token: "refresh".into(), ..Auth::default() }), None),
        (Some(Auth { registry_token: "good".into(), ..Auth::default() }), None),
        (None, Some(Kind::Unauthorized)),
        (Some(auth("dXNlcjp3cm9uZw==")), Some(Kind::Unauthorized)),
        (Some(auth("%%%")), Some(Kind::InvalidArgument)),
        (
            Some(Auth { server_address: "other.example".into(), ..password() }),
            Some(Kind::Unauthorized),
        ),
    ] {
        let (fake, image) = with_tokens();
        let bed = Bed::new();
        match (bed.images.pull(&fake.name("a/b"), auth.clone()).await, kind) {
            (Ok(pulled), None) => assert_eq!(pulled.id.to_string(), image.id()),
            (Err(error), Some(kind)) => assert_eq!(error.kind(), kind, "{error}"),
            (other, _) => panic!("{auth:?}: {other:?}"),
        }
        assert!(fake.count("/token") <= 1, "one token is enough for a pull");
    }
}

#[tokio::test]
async fn the_token_servers_words_are_repeated() {
    let (fake, _) = with_tokens();
    let auth = Auth { password: "wrong".into(), ..password() };
    let error = Bed::new().images.pull(&fake.name("a/b"), Some(auth)).await.unwrap_err();
    assert!(error.to_string().contains("incorrect password"), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
}

#[tokio::test]
async fn an_image_that_is_there_is_still_its_owners() {
    let (fake, _) = with_tokens();
    let bed = Bed::new();
    bed.images.pull(&fake.name("a/b"), Some(password())).await.unwrap();
    let error = bed.images.pull(&fake.name("a/b"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
}

#[tokio::test]
async fn basic_authentication_works_and_does_not_follow_a_redirect() {
    let (fake, elsewhere, bed) = (Fake::new(), Fake::new(), Bed::new());
    let image = Made::new(&[Layer::file("f", "1")]);
    fake.push("a", "latest", &image);
    elsewhere.push("a", "latest", &image);
    let (to, layer) = (elsewhere.address, made::digest(&image.layers[0].stored));
    fake.first(move |asked| {
        if asked.header("authorization") != Some(BASIC) {
            return Some(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let location = format!("http://{to}{}", asked.path);
        asked.path.contains(&layer).then(|| Reply::status(307).with("Location", &location))
    });
    bed.images.pull(&fake.name("a"), Some(password())).await.unwrap();
    assert_eq!(elsewhere.asked().len(), 1);
    assert_eq!(elsewhere.asked()[0].header("authorization"), None);
}

#[tokio::test]
async fn redirects_lead_only_where_registries_are() {
    for (location, count) in [
        ("http://169.254.169.254/latest/meta-data", 1),
        ("file:///etc/passwd", 1),
        ("/v2/a/manifests/latest", 11),
    ] {
        let (fake, bed) = (Fake::new(), Bed::new());
        fake.first(move |_| Some(Reply::status(302).with("Location", location)));
        let error = bed.images.pull(&fake.name("a"), None).await.unwrap_err();
        assert!(error.to_string().contains("redirect"), "{error}");
        assert!(fake.asked().len() <= count, "{location}: {}", fake.asked().len());
    }
}

#[tokio::test]
async fn what_another_machine_says_after_a_redirect_is_not_repeated() {
    let (fake, inside, bed) = (Fake::new(), Fake::new(), Bed::new());
    inside.first(|_| Some(Reply::status(403).body(b"internal secret")));
    let to = format!("http://{}/x", inside.address);
    fake.first(move |_| Some(Reply::status(302).with("Location", &to)));
    let error = bed.images.pull(&fake.name("a"), None).await.unwrap_err();
    assert!(!error.to_string().contains("internal secret"), "{error}");
}

#[tokio::test]
async fn a_refresh_token_does_not_follow_a_redirect() {
    let (fake, elsewhere, bed) = (Fake::new(), Fake::new(), Bed::new());
    let (address, to) = (fake.address, format!("http://{}/token", elsewhere.address));
    fake.first(move |asked| {
        Some(if asked.path == "/token" {
            Reply::status(307).with("Location", &to)
        } else {
            let challenge = format!("Bearer realm=\"http://{address}/token\"");
            Reply::status(401).with("WWW-Authenticate", &challenge)
        })
    });
    let auth = Auth { identity_token: "refresh".into(), ..Auth::default() };
    bed.images.pull(&fake.name("a"), Some(auth)).await.unwrap_err();
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn mirrors_get_only_credentials_that_name_them() {
    for (for_mirror, expected) in [(false, None), (true, Some(BASIC))] {
        let (mirror, bed) = (Fake::new(), Bed::new());
        let image = Made::new(&[Layer::file("f", "1")]);
        mirror.push("a", "latest", &image);
        let seen = Arc::new(std::sync::Mutex::new(None));
        let seen_there = seen.clone();
        mirror.first(move |asked| {
            let sent = asked.header("authorization").map(ToOwned::to_owned);
            *seen_there.lock().unwrap() = sent.clone();
            let wants = asked.path.contains("/manifests/") && sent.is_none() && for_mirror;
            wants.then(|| Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""))
        });
        bed.hosts("up.example", &format!("[host.\"http://{}\"]", mirror.address));
        let mut auth = password();
        if for_mirror {
            auth.server_address = mirror.address.to_string();
        }
        bed.images.pull("up.example/a", Some(auth)).await.unwrap();
        assert_eq!(seen.lock().unwrap().as_deref(), expected);
        assert!(mirror.asked().iter().all(|asked| asked.query == "ns=up.example"));
    }
}
