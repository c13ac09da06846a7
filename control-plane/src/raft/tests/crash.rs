//! kill -9 and a full disk while a store is written: what was acknowledged is there afterwards. The writer is this
//! test program, started again.

use super::super::state_store::StateStore;
use super::*;
use crate::raft::types::Vote;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use tempfile::tempdir;

/// Where the started program writes; its being set makes it the writer.
const WRITE_TO: &str = "SBX_TEST_WRITE_TO";
const WRITER: &str = "raft::tests::crash::writer";
/// The same for the one that fills its disk.
const FILL: &str = "SBX_TEST_FILL";
const FILLER: &str = "raft::tests::crash::filler";
/// The size at which a file of the filler can't grow any more stands in for a full disk; in units of 512 bytes,
/// as `sh` counts. Its log gets there long before a memtable is full.
const FILE_LIMIT: &str = "1024";
/// Appends that wait for their sync at the same time.
const IN_FLIGHT: u64 = 16;
/// Acknowledged entries after which the writer is killed, in each round.
const ENOUGH: usize = 200;

/// Appends without end, says what is acknowledged, and applies what a quorum of others might hold before.
#[tokio::test]
async fn writer() {
    let Some(dir) = std::env::var_os(WRITE_TO).map(PathBuf::from) else {
        return;
    };
    let mut log = LogStore::open(&dir).expect("opened");
    let mut state = StateStore::open(&dir, log.progress(), Level::NEWEST).expect("opened");
    let last = log.get_log_state().await.expect("a state").last_log_id;
    let mut next = last.map_or(1, |id| id.index + 1);
    log.save_vote(&Vote::new_committed(next, 1)).await.expect("saved");
    let mut reader = log.get_log_reader().await;
    let applied = state.applied_state().await.expect("a position").0;
    let from = applied.map_or(1, |id| id.index + 1);
    apply(
        &mut state,
        reader.try_get_log_entries(from..next).await.expect("readable"),
    )
    .await;
    loop {
        let mut waiting = Vec::new();
        for entry in changes(next, next + IN_FLIGHT - 1) {
            let (done, durable) = TypeConfig::oneshot();
            log.append([entry.clone()], IOFlushed::signal(done))
                .await
                .expect("appended");
            waiting.push((entry, durable));
        }
        let (first, later) = waiting.split_at(waiting.len() / 2);
        apply(&mut state, first.iter().map(|(entry, _)| entry.clone()).collect()).await;
        let later = later.iter().map(|(entry, _)| entry.clone()).collect();
        for (entry, durable) in waiting {
            durable.await.expect("an answer").expect("durable");
            let index = entry.log_id.index;
            log.save_committed(Some(log_id(1, index))).await.expect("saved");
            writeln!(io::stderr(), "acknowledged {index}").expect("a reader");
        }
        apply(&mut state, later).await;
        next += IN_FLIGHT;
    }
}

/// Appends until the disk fails, and says so; then whether it refuses what comes after.
#[tokio::test]
async fn filler() {
    let Some(dir) = std::env::var_os(FILL).map(PathBuf::from) else {
        return;
    };
    let mut log = LogStore::open(&dir).expect("opened");
    for index in 1.. {
        match append(&mut log, vec![sized(index, 4_000)]).await {
            Ok(()) => writeln!(io::stderr(), "acknowledged {index}").expect("a reader"),
            Err(e) => {
                writeln!(io::stderr(), "failed {e}").expect("a reader");
                break;
            }
        }
    }
    let vote = log.save_vote(&Vote::new(9, 9)).await.expect_err("refused");
    writeln!(io::stderr(), "refused {vote}").expect("a reader");
}

/// Starts one of the programs above.
fn start(mut command: Command, test: &str, variable: &str, dir: &Path) -> Writer {
    let child = command
        .args([test, "--exact", "--nocapture"])
        .env(variable, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    Writer(child.expect("started"))
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program")
}

/// The index of an acknowledged entry.
fn acknowledged(line: &str) -> Option<u64> {
    line.strip_prefix("acknowledged ")?.parse().ok()
}

/// Killed when the test ends, however it does.
struct Writer(Child);

impl Writer {
    /// What it says, up to its end.
    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        let output = self.0.stderr.take().expect("its output");
        BufReader::new(output).lines().map_while(Result::ok)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets it write for a while, kills it, and returns the last index that it acknowledged.
fn write_and_kill(dir: &Path) -> u64 {
    let mut writer = start(Command::new(this_program()), WRITER, WRITE_TO, dir);
    let mut lines = writer.lines();
    let index = |line: String| acknowledged(&line);
    let enough = lines
        .by_ref()
        .filter_map(index)
        .nth(ENOUGH)
        .expect("acknowledged entries");
    writer.0.kill().expect("killed");
    // What it still said before it died was acknowledged as well.
    lines.filter_map(index).last().unwrap_or(enough)
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempdir().expect("a folder");
    for round in 1..=3 {
        let acknowledged = write_and_kill(dir.path());
        let mut log = LogStore::open(dir.path()).expect("opened");
        let there = entries(&mut log).await.expect("readable");
        let last = there.len() as u64;
        assert!(last >= acknowledged, "round {round}: {last} of {acknowledged}");
        assert_eq!(there, changes(1, last), "round {round}");

        let mut reader = log.get_log_reader().await;
        let vote = reader.read_vote().await.expect("readable").expect("a vote");
        assert!(vote.leader_id.term <= last + 1, "round {round}: {vote}");

        let mut state = StateStore::open(dir.path(), log.progress(), Level::NEWEST).expect("opened");
        let applied = state.applied_state().await.expect("a position").0;
        let applied = applied.map_or(0, |id| id.index);
        // At most what was in flight is missing, and the log never ends before the state.
        let window = acknowledged.saturating_sub(2 * IN_FLIGHT)..=last;
        assert!(
            window.contains(&applied),
            "round {round}: {applied} not in {window:?}"
        );
        let expected = state_after(&there[..applied as usize]);
        assert_eq!(*state.replicated().read(), expected, "round {round}");
    }
}

#[tokio::test]
async fn a_disk_that_fails_stops_the_log_and_keeps_what_was_acknowledged() {
    let dir = tempdir().expect("a folder");
    let mut shell = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {FILE_LIMIT}; exec \"$0\" \"$@\"");
    shell.args(["-c", &script]).arg(this_program());
    let mut filler = start(shell, FILLER, FILL, dir.path());
    let lines: Vec<String> = filler.lines().collect();
    let last = lines.iter().filter_map(|line| acknowledged(line)).next_back();
    let last = last.expect("acknowledged entries");
    for said in ["failed ", "refused "] {
        let line = lines.iter().find_map(|line| line.strip_prefix(said));
        let line = line.unwrap_or_else(|| panic!("nothing {said}: {lines:#?}"));
        assert!(line.contains("the disk of this replica failed"), "{line}");
    }
    let mut log = LogStore::open(dir.path()).expect("opened");
    let indexes = indexes(&mut log).await;
    let there = indexes.len() as u64;
    assert!(there >= last, "{there} of {last}");
    assert_eq!(indexes, (1..=there).collect::<Vec<_>>());
}
