//! Debian's `docker-registry` in a folder that several of them can share: one that takes images, and others that ask who
//! is there before they give them.

use super::*;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// What the registry says once it serves.
const SERVES: &str = "listening on";

/// A running registry; ends when dropped, or with the thread that made it.
pub(super) struct Registry {
    pub(super) port: u16,
    process: Child,
    _config: TempDir,
}

impl Registry {
    /// Serves what is in `data`. `http` and `auth` are sections of the registry's configuration, in YAML's flow form.
    pub(super) fn start(data: &Path, tls: Option<&str>, auth: Option<&str>) -> Self {
        let config = tempfile::tempdir().expect("a folder");
        // Free at this moment; the registry can't be told to choose one itself.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a free port")
            .port();
        let tls = tls.map(|tls| format!(", tls: {tls}")).unwrap_or_default();
        let auth = auth.map(|auth| format!("auth: {auth}\n")).unwrap_or_default();
        let text = format!(
            "version: 0.1\n\
             log: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"{tls}}}\n{auth}",
            data.display()
        );
        let path = config.path().join("config.yml");
        fs::write(&path, text).expect("written");
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        let mut said = BufReader::new(process.stderr.take().expect("a pipe"));
        let mut line = String::new();
        let mut all = String::new();
        while !line.contains(SERVES) {
            line.clear();
            let read = said.read_line(&mut line).expect("it speaks");
            assert!(read > 0, "docker-registry ended:\n{all}");
            all.push_str(&line);
        }
        // It must not stop because nobody listens.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self {
            port,
            process,
            _config: config,
        }
    }

    /// One that takes and gives everything, filled with `images`.
    pub(super) async fn filled(data: &Path, images: &[build::Image]) -> Self {
        let registry = Self::start(data, None, None);
        for image in images {
            let built = image.build().expect("built");
            build::push(&format!("http://127.0.0.1:{}", registry.port), image, &built)
                .await
                .expect("pushed");
        }
        registry
    }

    pub(super) fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes an authority, `ca.pem`, and what it vouches for: 127.0.0.1, with `key.pem` and `cert.pem`.
pub(super) fn certificates(dir: &Path) {
    let file = |name: &str| dir.join(name).into_os_string();
    let make = |key: &str, out: &str, name: &str, more: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", name,
        ]);
        openssl
            .args(more)
            .arg("-keyout")
            .arg(file(key))
            .arg("-out")
            .arg(file(out));
        if out != "ca.pem" {
            openssl
                .arg("-CA")
                .arg(file("ca.pem"))
                .arg("-CAkey")
                .arg(file("ca.key"));
        }
        let made = openssl.output().expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    make("ca.key", "ca.pem", "/CN=authority", &[]);
    let leaf = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    make("key.pem", "cert.pem", "/CN=127.0.0.1", &leaf);
}
