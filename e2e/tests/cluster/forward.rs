//! `sbxctl port-forward` to real programs in a sandbox.

use super::LONG;
use e2e::cluster::Cluster;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::thread;

/// A web server that listens on 127.0.0.1 alone, with a large file, another one on the sandbox's address alone, and a program that answers once its user has said
/// all.
const SERVER: &str = "
apiVersion: sandboxd.o/v1
kind: Sandbox
id: web
spec:
  containers:
    - name: main
      image: busybox:1.36
      args:
        - /bin/sh
        - -c
        - |
          mkdir /tmp/www; cd /tmp/www; echo hello > index.html
          head -c 20000000 /dev/zero | tr '\\0' x > large
          httpd -p 127.0.0.1:80 -h /tmp/www
          httpd -p $(hostname -i):82 -h /tmp/www
          nc -ll -p 81 -e md5sum &
          echo ready; exec sleep 600
      resource: {cpu: 800m, memory: 64Mi, ephemeral_storage: 200Mi}
";

struct Forward {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Forward {
    fn start(cluster: &Cluster, line: &str) -> Self {
        let mut command = cluster.command();
        let command = command.args(line.split_whitespace()).stdin(Stdio::null());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sbxctl runs");
        Self {
            stdout: BufReader::new(child.stdout.take().expect("a pipe")),
            stderr: BufReader::new(child.stderr.take().expect("a pipe")),
            child,
        }
    }

    /// The port of this machine that stands for `remote`, as the next line tells.
    #[track_caller]
    fn port(&mut self, remote: u16) -> u16 {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("read");
        let told = line.trim().strip_prefix("Forwarding from 127.0.0.1:");
        let port = told.and_then(|told| told.strip_suffix(&format!(" -> {remote}")));
        port.unwrap_or_else(|| panic!("{line:?}"))
            .parse()
            .expect("a port")
    }

    #[track_caller]
    fn complaint(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).expect("read");
        line
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // One that has ended is no failure.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Says `text`, ends its half, and hears the rest.
fn ask(port: u16, text: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(LONG)).expect("set");
    let mut half = stream.try_clone().expect("cloned");
    let text = text.to_owned();
    let writing = thread::spawn(move || {
        half.write_all(&text).expect("written");
        half.shutdown(Shutdown::Write).expect("ended");
    });
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("read");
    writing.join().expect("written");
    heard
}

fn get(port: u16, path: &str) -> Vec<u8> {
    let answer = ask(port, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
    let text = String::from_utf8_lossy(&answer[..answer.len().min(4_096)]).into_owned();
    let head = text
        .find("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head: {text:?}"))
        + 4;
    assert!(text.contains(" 200 "), "{text}");
    answer[head..].to_vec()
}

#[test]
fn ports_of_a_sandbox_are_reached_from_the_users_machine() {
    let mut cluster = Cluster::up(1, &[]);
    cluster.apply(SERVER, &["--wait"]).ok();
    super::await_log(&cluster, "web", "ready");
    // Through a replica that does not lead.
    let follower = cluster.member_that_is("follower");
    cluster.speak_to(&follower);
    let mut forward = Forward::start(&cluster, "port-forward web :80 :81 :82 :9");
    let (http, sum) = (forward.port(80), forward.port(81));
    let (outer, none) = (forward.port(82), forward.port(9));
    cluster.speak_to_all();
    for port in [http, outer] {
        assert_eq!(get(port, "/"), b"hello\n");
    }

    // Many at a time, and a large one.
    let many: Vec<_> = (0..30).map(|_| thread::spawn(move || get(http, "/"))).collect();
    let large = get(http, "/large");
    assert!(
        large.len() == 20_000_000 && large.iter().all(|byte| *byte == b'x'),
        "{}",
        large.len()
    );
    for one in many {
        assert_eq!(one.join().expect("answered"), b"hello\n");
    }
    // It answers once it has heard all: the user's half is ended, and the other one is not.
    let said: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let answer = String::from_utf8(ask(sum, &said)).expect("text");
    assert_eq!(answer.split(' ').next(), Some(md5(&said).as_str()), "{answer}");

    // One that nobody listens on fails alone, and is told of.
    assert_eq!(ask(none, b""), b"");
    let complaint = forward.complaint();
    assert!(
        complaint.contains("no program in the sandbox listens on port 9"),
        "{complaint:?}"
    );
    assert_eq!(get(http, "/"), b"hello\n");
    cluster.run("port-forward nobody 80").fails(1, "nobody");
    cluster
        .run(&format!("port-forward web {http}:80"))
        .fails(1, &format!("listen on 127.0.0.1:{http}"));
    cluster.run("port-forward web 0").fails(2, ":PORT");
}

#[test]
fn new_connections_find_the_new_leader_and_the_end_of_the_sandbox_is_told() {
    let cluster = Cluster::up(1, &[]);
    cluster.apply(SERVER, &["--wait"]).ok();
    super::await_log(&cluster, "web", "ready");
    let mut forward = Forward::start(&cluster, "port-forward web :80");
    let http = forward.port(80);
    assert_eq!(get(http, "/"), b"hello\n");
    cluster.run("dev kill leader").ok();
    assert_eq!(get(http, "/"), b"hello\n");
    cluster.run("delete sandbox web --wait").ok();
    assert_eq!(forward.child.wait().expect("it ends").code(), Some(1));
    let mut told = String::new();
    forward.stderr.read_to_string(&mut told).expect("read");
    assert!(
        told.contains("sandbox/web is Deleting") || told.contains("sandbox/web was deleted"),
        "{told:?}"
    );
}

/// By the machine's own program.
fn md5(bytes: &[u8]) -> String {
    let mut child = std::process::Command::new("/bin/busybox")
        .arg("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("busybox-static is installed");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(bytes)
        .expect("written");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split(' ').next().expect("a sum").to_owned()
}
