//! Registries that ask who is there, and registries with certificates of their own.

use super::registry::{Registry, certificates};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use std::process::Command;
use std::time::UNIX_EPOCH;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `user:secret`, as htpasswd(1) writes it.
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

fn config(port: u16, user: &str, password: &str) -> RegistryConfig {
    let credentials = Credentials {
        username: user.to_owned(),
        password: password.to_owned(),
    };
    RegistryConfig {
        credentials: BTreeMap::from([(format!("127.0.0.1:{port}"), credentials)]),
        ..plain(port)
    }
}

/// The file that `docker login` writes.
fn docker_config(dir: &Path, port: u16, user: &str, password: &str) -> PathBuf {
    let auth = STANDARD.encode(format!("{user}:{password}"));
    let path = dir.join("config.json");
    let text = json!({"auths": {format!("127.0.0.1:{port}"): {"auth": auth}}});
    fs::write(&path, text.to_string()).expect("written");
    path
}

#[track_caller]
fn check_refused(pulled: Result<Arc<Image>, ImageError>, name: &str) {
    let said = pulled.expect_err("refused").to_string();
    assert!(said.contains("access refused"), "{said}");
    assert!(said.contains("give the agent credentials"), "{said}");
    assert!(said.contains(name) && !said.contains("wrong"), "{said}");
}

#[tokio::test]
async fn password_opens_a_registry_that_asks_for_it() {
    let data = tempfile::tempdir().expect("a folder");
    drop(Registry::filled(data.path(), &[two_layers("1")]).await);
    let users = data.path().join("htpasswd");
    fs::write(&users, HTPASSWD).expect("written");
    let auth = format!("{{htpasswd: {{realm: here, path: {}}}}}", users.display());
    let registry = Registry::start(data.path(), None, Some(&auth));
    let name = registry.name("team/app:1");

    check_refused(Node::new(plain(registry.port)).store.ensure(&name).await, &name);
    let wrong = Node::new(config(registry.port, "user", "wrong"));
    check_refused(wrong.store.ensure(&name).await, &name);
    let right = Node::new(config(registry.port, "user", "secret"));
    check_is_two_layers(&right.store.ensure(&name).await.expect("pulled"), "1");

    // A file that changes meanwhile counts as it is then.
    let path = docker_config(data.path(), registry.port, "user", "wrong");
    let node = Node::new(RegistryConfig {
        docker_config: Some(path),
        ..plain(registry.port)
    });
    check_refused(node.store.ensure(&name).await, &name);
    docker_config(data.path(), registry.port, "user", "secret");
    check_is_two_layers(&node.store.ensure(&name).await.expect("pulled"), "1");
}

#[tokio::test]
async fn unreadable_file_of_credentials_is_named() {
    let node = Node::new(RegistryConfig {
        docker_config: Some("/nowhere/config.json".into()),
        ..RegistryConfig::default()
    });
    let said = node
        .store
        .ensure("alpine")
        .await
        .expect_err("refused")
        .to_string();
    assert!(
        said.contains("/nowhere/config.json") && said.contains("cannot read it"),
        "{said}"
    );
}

/// Gives tokens for `user:secret`, signed with the key in `dir`, each good for `seconds`. Gives its address.
async fn token_server(dir: PathBuf, seconds: u64) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let expected = format!("authorization: basic {}", STANDARD.encode("user:secret")).to_lowercase();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).await.expect("read");
            let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
            let asks = request.contains("scope=repository%3ateam%2fapp%3apull&service=here");
            let answer = if asks && request.contains(&expected) {
                let body = json!({"token": token(&dir, seconds)}).to_string();
                format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            } else {
                "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned()
            };
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    });
    format!("http://{address}/token")
}

/// As the registry's specification of tokens says, with the certificate in it.
fn token(dir: &Path, seconds: u64) -> String {
    let pem = fs::read_to_string(dir.join("cert.pem")).expect("read");
    let der: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
    let access = json!([{"type": "repository", "name": "team/app", "actions": ["pull"]}]);
    let claims = json!({
        "iss": "issuer", "sub": "user", "aud": "here", "jti": "1", "iat": now, "nbf": now - 10,
        "exp": now + seconds, "access": access,
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let file = dir.join("signed");
    fs::write(&file, &signed).expect("written");
    let signature = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(dir.join("key.pem"))
        .arg(&file)
        .output()
        .expect("openssl is installed");
    assert!(signature.status.success());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.stdout))
}

#[tokio::test]
async fn token_opens_a_registry_that_asks_for_one() {
    let data = tempfile::tempdir().expect("a folder");
    drop(Registry::filled(data.path(), &[two_layers("1"), two_layers("2")]).await);
    certificates(data.path());
    let realm = token_server(data.path().to_owned(), 1).await;
    let auth = format!(
        "{{token: {{realm: \"{realm}\", service: here, issuer: issuer, rootcertbundle: {}}}}}",
        data.path().join("ca.pem").display()
    );
    let registry = Registry::start(data.path(), None, Some(&auth));
    let name = registry.name("team/app:1");
    check_refused(Node::new(plain(registry.port)).store.ensure(&name).await, &name);
    let wrong = Node::new(config(registry.port, "user", "wrong"));
    check_refused(wrong.store.ensure(&name).await, &name);
    let right = Node::new(config(registry.port, "user", "secret"));
    check_is_two_layers(&right.store.ensure(&name).await.expect("pulled"), "1");
    // The registry allows tokens a minute after their time, so a stale one is simulated by spoiling it.
    right.store.inner.puller.spoil_grants();
    let two = right.store.ensure(&registry.name("team/app:2")).await;
    check_is_two_layers(&two.expect("with a fresh token"), "2");
}

#[tokio::test]
async fn own_authority_is_trusted_where_it_is_named() {
    let data = tempfile::tempdir().expect("a folder");
    drop(Registry::filled(data.path(), &[two_layers("1")]).await);
    certificates(data.path());
    let file = |name: &str| data.path().join(name);
    let tls = format!(
        "{{certificate: {}, key: {}}}",
        file("cert.pem").display(),
        file("key.pem").display()
    );
    let registry = Registry::start(data.path(), Some(&tls), None);
    let name = registry.name("team/app:1");
    let with = |transport: Transport| {
        let transports = BTreeMap::from([(format!("127.0.0.1:{}", registry.port), transport)]);
        Node::new(RegistryConfig {
            transports,
            ..RegistryConfig::default()
        })
    };
    let trusting = with(Transport::OwnAuthority(file("ca.pem")));
    check_is_two_layers(&trusting.store.ensure(&name).await.expect("pulled"), "1");
    let careless = with(Transport::Unverified);
    check_is_two_layers(&careless.store.ensure(&name).await.expect("pulled"), "1");
    for (transport, why) in [
        (Transport::Tls, "certificate"),
        (Transport::OwnAuthority(file("none.pem")), "cannot read"),
        (Transport::Plain, "HTTP status 400"),
    ] {
        let said = with(transport)
            .store
            .ensure(&name)
            .await
            .expect_err("refused")
            .to_string();
        assert!(said.contains(why), "{said}");
    }
}
