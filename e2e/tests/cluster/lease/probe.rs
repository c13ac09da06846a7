//! Sees when each copy of a sandbox lives: by its answers on its published port, and by its process. Answers bound the
//! moments from outside, as users see them; the kernel's own record of a process's start, and the last sight of the older
//! one, from inside.

use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks. No kernel tells when a port of another network, or a process of no child of ours, comes or goes.
const PAUSE: Duration = Duration::from_millis(2);
/// Of one request. A first packet that is lost is sent again after a second: asked anew before that.
const ATTEMPT: Duration = Duration::from_millis(200);
/// In which the kernel tells when a process began.
const TICK: Duration = Duration::from_millis(10);

/// A copy, by where its users reach it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Copy(SocketAddr);

impl Copy {
    pub(super) fn new(address: &str, port: u64) -> Self {
        Self(format!("{address}:{port}").parse().expect("an address"))
    }
}

/// It lived at some moment between these two.
#[derive(Debug, Clone, Copy)]
struct Answer {
    begun: Instant,
    ended: Instant,
}

/// A process, in time since the machine was started.
#[derive(Debug, Clone, Copy)]
struct Life {
    began: Duration,
    last_seen: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    answers: BTreeMap<Copy, Vec<Answer>>,
    /// By pid.
    lives: BTreeMap<u32, Life>,
}

/// Looks until it is ended.
pub(super) struct Probe {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Probe {
    /// Of the processes that serve the folder `/tmp/ID`, and of one copy's answers.
    pub(super) fn start(id: &str, first: Copy) -> Self {
        let probe = Self {
            seen: Arc::default(),
            stop: Arc::default(),
            threads: Mutex::default(),
        };
        let folder = format!("/tmp/{id}");
        probe.spawn(move |seen| note_processes(&folder, seen));
        probe.add(first);
        probe
    }

    /// And of another's.
    pub(super) fn add(&self, copy: Copy) {
        self.spawn(move |seen| {
            let begun = Instant::now();
            if answers(copy.0) {
                let ended = Instant::now();
                let answers = &mut lock(seen).answers;
                answers
                    .entry(copy.clone())
                    .or_default()
                    .push(Answer { begun, ended });
            }
        });
    }

    fn spawn(&self, mut look: impl FnMut(&Mutex<Seen>) + Send + 'static) {
        let (seen, stop) = (self.seen.clone(), self.stop.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                look(&seen);
                std::thread::sleep(PAUSE);
            }
        });
        lock(&self.threads).push(thread);
    }

    #[track_caller]
    pub(super) fn until_it_answers(&self, copy: &Copy, patience: Duration) {
        let begun = Instant::now();
        while !lock(&self.seen).answers.contains_key(copy) {
            assert!(begun.elapsed() < patience, "{copy:?} has not answered");
            std::thread::sleep(PAUSE);
        }
    }

    /// All that was seen.
    pub(super) fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            thread.join().expect("it only looks");
        }
        std::mem::take(&mut *lock(&self.seen))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    /// When the last request was sent that it answered.
    pub(super) fn last_answer(&self, copy: &Copy) -> Instant {
        let answers = self.answers.get(copy).and_then(|answers| answers.last());
        answers.expect("it has answered").begun
    }

    /// That `second` came only after `first` had gone for good, and that there were no others.
    #[track_caller]
    pub(super) fn assert_one_at_a_time(&self, first: &Copy, second: &Copy) {
        let last = self.last_answer(first);
        let next = self.answers[second].first().expect("it has answered").ended;
        assert!(
            last <= next,
            "the first copy answered a request that was sent {:?} after an answer of the second",
            last - next
        );
        let mut lives: Vec<&Life> = self.lives.values().collect();
        lives.sort_by_key(|life| life.began);
        let [one, other] = lives[..] else {
            panic!("two copies have two processes, in turn: {:?}", self.lives);
        };
        assert!(
            one.last_seen <= other.began + TICK,
            "the first copy's process was there {:?} after the second's had begun",
            one.last_seen - other.began
        );
        eprintln!(
            "the second copy's process began {:?} after the last sight of the first's, its answers came {:?} later",
            other.began.saturating_sub(one.last_seen),
            next - last
        );
    }
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, ATTEMPT)?;
        stream.set_read_timeout(Some(ATTEMPT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.contains("here"))
}

/// Known ones are looked at each time, all others as often as that takes.
fn note_processes(folder: &str, seen: &Mutex<Seen>) {
    let now = since_boot();
    let known: Vec<u32> = lock(seen).lives.keys().copied().collect();
    let alive = |pid: &u32| began(*pid).is_some() && serves(*pid, folder);
    for pid in known.into_iter().filter(alive) {
        if let Some(life) = lock(seen).lives.get_mut(&pid) {
            life.last_seen = now;
        }
    }
    let entries = fs::read_dir("/proc").expect("/proc is readable").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| serves(*pid, folder)) {
        // The server makes a child for each request, which may be seen a moment longer than the server itself.
        if is_first_of_its_container(pid)
            && let Some(began) = began(pid)
        {
            let last_seen = now.max(began);
            lock(seen).lives.entry(pid).or_insert(Life { began, last_seen });
        }
    }
}

/// Whether it is the server of a copy: the shell that becomes it is the same process.
fn serves(pid: u32, folder: &str) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    program.ends_with(b"httpd") && words.any(|word| word == folder.as_bytes())
}

/// Number 1 in the innermost namespace of processes that it is in.
fn is_first_of_its_container(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|numbers| numbers.split_ascii_whitespace().last()) == Some("1")
}

/// When a process began that has not ended; one that waits to be reaped has.
fn began(pid: u32) -> Option<Duration> {
    /// Counted from the state, which is the first field behind the name.
    const START: usize = 22 - 3;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    let ticks: u32 = fields.get(START)?.parse().ok()?;
    Some(TICK * ticks)
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .expect("the clock is there")
        .into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
