//! `sbxctl exec` and `attach` on a real cluster: what a user types, through any replica, to the container and back.

use super::{LONG, manifest};
use e2e::cluster::{Cluster, Ran};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Output, Stdio};
use std::time::Instant;

/// `sbxctl exec` with all of `input` as its stdin.
#[track_caller]
fn exec_with(cluster: &Cluster, args: &[&str], input: &[u8]) -> Output {
    let mut child = cluster
        .command()
        .arg("exec")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sbxctl runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("sbxctl ends");
    writer.join().expect("joined").ok();
    output
}

/// `sbxctl exec` without an input.
#[track_caller]
fn exec(cluster: &Cluster, args: &[&str]) -> Ran {
    cluster.sbxctl(&[&["exec"], args].concat())
}

/// Processes of the container, by the words of their command line.
#[track_caller]
fn await_processes(cluster: &Cluster, sandbox: &str, part: &str, expected: usize) {
    let begun = Instant::now();
    loop {
        let all = exec(cluster, &[sandbox, "--", "ps", "-o", "args"]).ok();
        let found = all.lines().filter(|line| line.contains(part)).count();
        if found == expected {
            return;
        }
        assert!(
            begun.elapsed() < LONG,
            "{part}: {found}, not {expected}, in:\n{all}"
        );
    }
}

#[test]
fn command_in_a_container_gets_its_input_and_gives_its_output_and_exit_code() {
    let mut cluster = Cluster::up(1, &[]);
    for runtime in ["native", "runc"] {
        let of_runtime = manifest(runtime, "sleep 600", &format!("runtime: {runtime}"));
        cluster.apply(&of_runtime, &["--wait"]).ok();
        let told = exec(
            &cluster,
            &[runtime, "--", "sh", "-c", "echo out; echo err >&2; exit 7"],
        );
        told.fails(7, "err");
        let input: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let echoed = exec_with(&cluster, &["-i", runtime, "--", "cat"], &input);
        assert!(
            echoed.status.success(),
            "{}",
            String::from_utf8_lossy(&echoed.stderr)
        );
        assert!(
            echoed.stdout == input,
            "{} of {} bytes",
            echoed.stdout.len(),
            input.len()
        );
        exec(&cluster, &[runtime, "--", "sh", "-c", "kill -9 $$"]).fails(137, "");
        exec(&cluster, &[runtime, "--", "/no/such/program"]).fails(127, "/no/such/program");
        let env = exec(
            &cluster,
            &["-e", "WHO=me", runtime, "--", "sh", "-c", "echo $WHO"],
        )
        .ok();
        assert_eq!(env, "me\n");
    }
    exec(&cluster, &["nobody", "--", "true"]).fails(1, "nobody");
    exec(&cluster, &["-c", "other", "native", "--", "true"]).fails(1, "it has main");
    // A user of any replica gets there.
    for role in ["follower", "leader"] {
        let member = cluster.member_that_is(role);
        cluster.speak_to(&member);
        assert_eq!(
            exec(&cluster, &["native", "--", "echo", role]).ok(),
            format!("{role}\n")
        );
    }
}

#[test]
fn terminal_is_one_and_has_the_users_size_and_keys() {
    let cluster = Cluster::up(1, &[]);
    cluster
        .apply(&manifest("shell", "sleep 600", ""), &["--wait"])
        .ok();
    // `script` gives sbxctl a terminal of its own.
    let program = e2e::cluster::program("sbxctl");
    let line = format!(
        "stty cols 101 rows 37; {} exec -it shell -- sh -c 'tty; stty size; read word; echo got $word; exit 4'",
        program.display()
    );
    let inner = cluster.command();
    let mut script = std::process::Command::new("script");
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => script.env(key, value),
            None => script.env_remove(key),
        };
    }
    let mut child = script
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script runs: it is in Debian's bsdutils");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut said = String::new();
    while !said.contains("37 101") {
        let read = stdout.read_line(&mut said).expect("text");
        assert!(read > 0, "it ended with: {said}");
    }
    assert!(said.contains("/dev/pts/"), "{said}");
    stdin.write_all(b"hello\r").expect("typed");
    stdout.read_to_string(&mut said).expect("text");
    assert!(said.contains("got hello"), "{said}");
    drop(stdin);
    assert_eq!(child.wait().expect("it ends").code(), Some(4), "{said}");
}

#[test]
fn command_ends_when_its_user_is_gone_or_its_sandbox_is() {
    let cluster = Cluster::up(1, &[]);
    cluster
        .apply(&manifest("shared", "sleep 600", ""), &["--wait"])
        .ok();
    let mut left = cluster.start("exec shared -- sleep 4321");
    await_processes(&cluster, "shared", "sleep 4321", 1);
    left.kill().expect("killed");
    left.wait().expect("ended");
    await_processes(&cluster, "shared", "sleep 4321", 0);

    let mut stays = cluster.start("exec shared -- sleep 4322");
    await_processes(&cluster, "shared", "sleep 4322", 1);
    cluster.run("delete sandbox shared --wait").ok();
    let ended = stays.wait().expect("it ends");
    assert!(!ended.success(), "{ended}");
}

#[test]
fn attached_user_sees_what_is_written_from_now_on_until_the_end() {
    let cluster = Cluster::up(1, &[]);
    let script =
        "i=0; while [ ! -e /tmp/end ]; do i=$((i+1)); echo beat $i; sleep 0.1; done; echo last; exit 0";
    cluster.apply(&manifest("beats", script, ""), &["--wait"]).ok();
    let mut attached = cluster.start("attach beats");
    let mut lines = BufReader::new(attached.stdout.take().expect("a pipe")).lines();
    let first = lines.next().expect("a line").expect("text");
    assert!(first.starts_with("beat "), "{first}");
    exec(&cluster, &["beats", "--", "touch", "/tmp/end"]).ok();
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(rest.last().map(String::as_str), Some("last"), "{rest:?}");
    assert!(attached.wait().expect("it ends").success());
}
