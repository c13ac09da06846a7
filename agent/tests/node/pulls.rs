//! Sandboxes that wait for their images: one pull however many ask, a pull that is slow, one that is cut off half way.
//! From a real registry, behind a proxy that counts and holds back.

use super::leader::{Leader, PATIENCE, desired};
use super::machine::{Machine, Running};
use super::{LONG_LEASE, machine, one};
use proto::wire::{self, Phase};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The proxy, as those see it who are in the network of the test.
#[derive(Default)]
struct Proxy {
    /// Request lines.
    asked: Mutex<Vec<String>>,
    /// Nothing of what is asked for comes through.
    is_closed: watch::Sender<bool>,
}

/// Far less than a pull takes that is held back, and enough to start what is pulled.
const START_TIMEOUT: Duration = Duration::from_secs(3);
/// What an answer is cut into.
const PIECE: usize = 64 << 10;

impl Proxy {
    /// Serves on the listener from the network of this thread, which is the one that the registry is in.
    fn serve(self: &Arc<Self>, registry: u16) -> std::sync::mpsc::Sender<std::net::TcpListener> {
        let (sender, listeners) = std::sync::mpsc::channel::<std::net::TcpListener>();
        let proxy = self.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(listener) = listeners.recv() else { return };
            runtime.expect("a runtime").block_on(async move {
                listener.set_nonblocking(true).expect("set");
                let listener = TcpListener::from_std(listener).expect("a listener");
                // Until the process ends.
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(proxy.clone().carry(client, ([127, 0, 0, 1], registry).into()));
                }
            });
        });
        sender
    }

    async fn carry(self: Arc<Self>, client: TcpStream, registry: SocketAddr) {
        let Ok(upstream) = TcpStream::connect(registry).await else {
            return;
        };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_registry, mut to_registry) = upstream.into_split();
        let requests = async {
            let mut buffer = vec![0; PIECE];
            while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                self.note(&buffer[..length]);
                if to_registry.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        };
        let answers = async {
            let mut buffer = vec![0; PIECE];
            while let Ok(length @ 1..) = from_registry.read(&mut buffer).await {
                let mut is_closed = self.is_closed.subscribe();
                // The sender lives as long as this.
                is_closed.wait_for(|is_closed| !is_closed).await.ok();
                if to_client.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = requests => {}, () = answers => {} }
    }

    fn note(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().filter(|line| line.starts_with("GET /v2/"));
        self.asked.lock().expect("whole").extend(lines.map(str::to_owned));
    }

    /// Waits until it is.
    async fn is_asked_for(&self, what: &str) {
        let begun = Instant::now();
        let is_asked = || {
            let asked = self.asked.lock().expect("whole");
            asked.iter().any(|line| line.contains(what))
        };
        while !is_asked() {
            assert!(begun.elapsed() < PATIENCE, "nobody asks for {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Runs a test on a machine without images, beside a registry that is reached through a proxy.
fn with_registry<F: Future<Output = ()>>(test: impl FnOnce(Arc<Proxy>, Leader, Bare) -> F + Send) {
    let proxy = Arc::new(Proxy::default());
    let listening = proxy.serve(e2e::registry::port());
    machine::isolated(|| async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        listening.send(listener).expect("it serves");
        let leader = Leader::start(LONG_LEASE).await;
        let machine = Machine::without_images(&leader.url);
        test(proxy, leader, Bare { machine, url }).await;
    });
}

struct Bare {
    machine: Machine,
    url: String,
}

impl Bare {
    fn start(&self) -> Running {
        self.machine.start_with(|agent| {
            agent.args(["--mirror", &format!("docker.io={}", self.url)]);
            agent.args(["--start-timeout", &format!("{}s", START_TIMEOUT.as_secs())]);
        })
    }
}

fn sandbox(uid: u64) -> wire::DesiredSandbox {
    desired(uid, &format!("s{uid}"), &one("sleep 600"))
}

#[test]
fn image_is_pulled_once_however_many_ask_and_slow_pulls_do_not_count_as_starting() {
    with_registry(|proxy, mut leader, node| async move {
        let _agent = node.start();
        let mut session = leader.session().await;
        proxy.is_closed.send_replace(true);
        let all: Vec<_> = (1..=4).map(sandbox).collect();
        session.desire(&all).await;
        proxy.is_asked_for("/v2/").await;
        tokio::time::sleep(START_TIMEOUT + Duration::from_millis(500)).await;
        proxy.is_closed.send_replace(false);
        for uid in 1..=4 {
            let report = session.reported(uid, Phase::Running).await;
            let pull = Duration::from_millis(report.timings_ms["pull"]);
            assert!(pull > START_TIMEOUT, "{report:?}");
        }
        let asked = proxy.asked.lock().expect("whole").clone();
        for what in ["/manifests/", "/blobs/"] {
            let mut lines: Vec<_> = asked.iter().filter(|line| line.contains(what)).collect();
            let all = lines.len();
            lines.sort_unstable();
            lines.dedup();
            assert_eq!(lines.len(), all, "each once: {asked:#?}");
            assert!(all > 0, "{asked:#?}");
        }
    });
}

#[test]
fn pull_cut_off_by_the_agents_death_is_done_again_and_leaves_no_halves() {
    with_registry(|proxy, mut leader, node| async move {
        let agent = node.start();
        let session = leader.session().await;
        session.desire(&[]).await;
        let empty = node.machine.traces().await;
        session.desire(&[sandbox(1)]).await;
        proxy.is_asked_for("/blobs/").await;
        proxy.is_closed.send_replace(true);
        drop(session);
        agent.kill();
        proxy.is_closed.send_replace(false);
        let _agent = node.start();
        let mut session = leader.session().await;
        session.desire(&[sandbox(1)]).await;
        session.reported(1, Phase::Running).await;
        let halves = node.machine.halves_of_images();
        assert_eq!(halves, Vec::<std::path::PathBuf>::new());
        session.remove(1).await;
        session.reported(1, Phase::Deleting).await;
        node.machine.await_traces(&empty).await;
    });
}
