//! Debian's `docker-registry` on a port and in a folder of its own, filled with the stand-in images. It ends
//! with the process that started it, however that ends.

use crate::image;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;

/// What the registry says once it serves.
const SERVES: &str = "listening on";

/// The port of the registry of this process, on all addresses of the machine.
///
/// # Panics
/// Where it can't be started or filled: a test can't go on without.
pub fn port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let (tell, told) = mpsc::channel();
        // The kernel ends the registry with the thread that started it, and a test's own thread ends early.
        std::thread::spawn(move || serve(&tell));
        let port = told.recv().expect("docker-registry serves");
        image::push_all(&format!("http://127.0.0.1:{port}")).expect("the registry takes the stand-in images");
        port
    })
}

/// Runs the registry for as long as this process lives.
fn serve(tell: &mpsc::Sender<u16>) {
    let dir = tempfile::tempdir().expect("a folder");
    // Free at this moment; the registry can't be told to choose one itself.
    let port = TcpListener::bind("0.0.0.0:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port();
    let config = dir.path().join("config.yml");
    let text = format!(
        "version: 0.1\n\
         log: {{level: info, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: \"0.0.0.0:{port}\"}}\n",
        dir.path().join("data").display()
    );
    std::fs::write(&config, text).expect("the registry's configuration is written");
    let mut registry = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("docker-registry is installed");
    let lines = BufReader::new(registry.stderr.take().expect("a pipe")).lines();
    let mut said = Vec::new();
    for line in lines.map_while(Result::ok) {
        if line.contains(SERVES) {
            tell.send(port).ok();
        }
        said.push(line);
    }
    panic!(
        "docker-registry ended: {:?}\n{}",
        registry.wait(),
        said.join("\n")
    );
}
