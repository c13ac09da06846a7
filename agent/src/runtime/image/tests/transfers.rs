//! Transfers that break, lie, or take long.

use super::breaking::{Act, Breaking};
use super::*;
use tokio::time::timeout;

/// Far more than any of these takes.
const SOON: Duration = Duration::from_secs(60);

/// The image comes, and the largest layer was asked for from these bytes on.
async fn check_comes(acts: &[Act], starts: &[usize]) {
    let server = Breaking::start(two_layers("1").build().expect("built"), acts).await;
    let node = Node::new(plain(server.port));
    let image = timeout(SOON, node.store.ensure(&server.name()))
        .await
        .expect("in time");
    check_is_two_layers(&image.unwrap_or_else(|e| panic!("{acts:?}: {e}")), "1");
    assert_eq!(server.starts(), starts, "{acts:?}");
    assert_eq!(node.count("incoming"), 0);
}

async fn check_refused(acts: &[Act], why: &str) {
    let server = Breaking::start(two_layers("1").build().expect("built"), acts).await;
    let node = Node::new(plain(server.port));
    let refused = timeout(SOON, node.store.ensure(&server.name()))
        .await
        .expect("in time");
    let said = refused.expect_err("refused").to_string();
    assert!(said.contains(why), "{acts:?}: {said}");
    assert_eq!(node.count("references"), 0);
    // Another layer may still be unpacked by then: a thread that does can't be stopped.
    while node.count("incoming") > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn broken_transfer_goes_on_where_it_broke() {
    check_comes(&[Act::Cut(1000)], &[0, 1000]).await;
    check_comes(
        &[Act::Cut(1000), Act::Busy, Act::Cut(500)],
        &[0, 1000, 1000, 1500],
    )
    .await;
    check_comes(&[Act::Cut(0), Act::Busy], &[0, 0, 0]).await;
}

#[tokio::test]
async fn transfer_that_breaks_often_arrives_as_long_as_it_gets_on() {
    check_comes(&[Act::Cut(10); 6], &[0, 10, 20, 30, 40, 50, 60]).await;
    check_refused(&[Act::Cut(0); 4], "cannot be reached").await;
}

#[tokio::test]
async fn server_without_ranges_sends_all_again() {
    check_comes(&[Act::Cut(1000), Act::Whole], &[0, 1000]).await;
    check_comes(&[Act::Cut(1000), Act::NoRange], &[0, 1000, 0]).await;
    check_comes(&[Act::Cut(1000), Act::OtherRange], &[0, 1000, 0]).await;
    check_comes(&[Act::Cut(1000), Act::OtherBytes], &[0, 1000, 0]).await;
}

#[tokio::test]
async fn content_with_another_digest_is_refused_and_not_asked_for_again() {
    let why = "it is damaged or was tampered with";
    check_refused(&[Act::OtherBytes], why).await;
    check_refused(&[Act::TooMuch], why).await;
    check_refused(&[Act::Cut(1000), Act::OtherBytes, Act::OtherBytes], why).await;
}

#[tokio::test]
async fn many_who_ask_at_once_get_one_pull_and_see_it_get_on() {
    let acts = [Act::Cut(100_000), Act::Cut(100_000)];
    let server = Breaking::start(two_layers("1").build().expect("built"), &acts).await;
    let node = Node::new(plain(server.port));
    let wish = || node.store.fetch(&server.name(), Ask::IfMissing).expect("a name");
    let pulls: Vec<Pull> = (0..20).map(|_| wish()).collect();
    let mut progress = pulls[7].progress();
    let watched = tokio::spawn(async move {
        let mut seen = Vec::new();
        while progress.changed().await.is_ok() {
            seen.push(*progress.borrow_and_update());
        }
        seen
    });
    let images = futures::future::join_all(pulls).await;
    for image in images {
        check_is_two_layers(&image.expect("pulled"), "1");
    }
    assert_eq!(server.manifests(), 1);
    let seen = watched.await.expect("watched");
    let part = |p: &Progress| p.layers == 2 && p.bytes_done > 0 && p.bytes_done < p.bytes;
    assert!(seen.iter().any(part), "{seen:?}");
    assert!(seen.is_sorted_by_key(|p| p.bytes_done), "{seen:?}");
}
