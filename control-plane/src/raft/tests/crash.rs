//! kill -9 while a store is written: what was acknowledged is there afterwards. The writer is this test program,
//! started again.

use super::super::state_store::StateStore;
use super::*;
use crate::raft::types::Vote;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use tempfile::tempdir;

/// Where the started program writes; its being set makes it the writer.
const WRITE_TO: &str = "SBX_TEST_WRITE_TO";
const WRITER: &str = "raft::tests::crash::writer";
/// Appends that wait for their sync at the same time.
const IN_FLIGHT: u64 = 16;
/// Acknowledged entries after which the writer is killed, in each round.
const ENOUGH: usize = 200;

/// Appends without end, tells each acknowledged index on stdout, and applies what is acknowledged.
#[tokio::test]
async fn writer() {
    let Some(dir) = std::env::var_os(WRITE_TO).map(PathBuf::from) else {
        return;
    };
    let mut log = LogStore::open(&dir).expect("opened");
    let mut state = StateStore::open(&dir).expect("opened");
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
        for (entry, durable) in waiting {
            durable.await.expect("an answer").expect("durable");
            let index = entry.log_id.index;
            apply(&mut state, vec![entry]).await;
            log.save_committed(Some(log_id(1, index))).await.expect("saved");
            writeln!(io::stderr(), "acknowledged {index}").expect("a reader");
        }
        next += IN_FLIGHT;
    }
}

/// Killed when the test ends, however it does.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets it write for a while, kills it, and returns the last index that it acknowledged.
fn write_and_kill(dir: &Path) -> u64 {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args([WRITER, "--exact", "--nocapture"])
        .env(WRITE_TO, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut writer = Writer(child);
    let lines = BufReader::new(writer.0.stderr.take().expect("its output")).lines();
    let mut lines = lines.map_while(Result::ok);
    let index = |line: String| line.strip_prefix("acknowledged ")?.parse::<u64>().ok();
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

        let mut state = StateStore::open(dir.path()).expect("opened");
        let applied = state.applied_state().await.expect("a position").0;
        let applied = applied.map_or(0, |id| id.index);
        assert!(
            applied >= acknowledged,
            "round {round}: {applied} of {acknowledged}"
        );
        let expected = state_after(&there[..applied as usize]);
        assert_eq!(*state.replicated().read(), expected, "round {round}");
    }
}
