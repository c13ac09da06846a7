//! A leader that is lost while it is asked through another replica.

use crate::rest::Http;
use crate::several::{Replica, three};
use axum::http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::time::Duration;

/// An election and more on a busy machine; a lost leader was waited for 30 s, or was an error.
const PAUSE: Duration = Duration::from_secs(10);

fn signal(replica: &Replica, signal: Signal) {
    let pid = i32::try_from(replica.child.id()).expect("it is small");
    kill(Pid::from_raw(pid), signal).expect("it runs");
}

/// Takes the leader away, and writes through another replica.
async fn check(number: u8, how: Signal) {
    let dirs = [0, 1, 2].map(|_| tempfile::tempdir().expect("a folder"));
    let [leader, follower, _third] = three([dirs[0].path(), dirs[1].path(), dirs[2].path()], number).await;
    let http = Http::at(&follower.endpoint);
    let external = |id: &str| json!({"id": id, "spec": {"node_id": id, "external": "a.test"}});
    // Connected before, as clients are.
    let path = "/api/v1/externals";
    http.check(Method::POST, path, external("before"), 200).await;
    signal(&leader, how);
    let writing = http.check(Method::POST, path, external("after"), 200);
    tokio::time::timeout(PAUSE, writing).await.expect("a pause");
    http.check(Method::GET, "/api/v1/externals/after", json!(null), 200)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn write_through_a_follower_goes_on_when_the_leader_is_frozen() {
    check(40, Signal::SIGSTOP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn write_through_a_follower_goes_on_when_the_leader_is_killed() {
    check(43, Signal::SIGKILL).await;
}
