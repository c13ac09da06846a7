//! More than the cluster takes: refusals that say when to come back, as much done as before, and nobody waiting for
//! another one's flood.

use crate::cluster::{Cluster, Service, within};
use crate::secure::token;
use crate::user::*;
use control_plane::admission::Limits;
use control_plane::clock;
use identity::token::Secret;
use proto::wire::Grant;
use proto::wire::control_client::ControlClient;
use proto::wire::error_detail::Detail;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tonic::Code;

const LONG: Duration = Duration::from_secs(3600);

/// One connection of whoever has this token.
fn client(cluster: &Cluster, token: &Secret) -> ControlClient<Service> {
    ControlClient::new(cluster.service(0, Some(token)))
}

/// Asks for a new sandbox; `Err`: when to come back, in milliseconds.
async fn create(control: &ControlClient<Service>, id: &str) -> Result<(), u64> {
    let mut control = control.clone();
    let asked = within("an apply", control.apply(apply_request(sandbox(id, "")))).await;
    let Err(status) = asked else { return Ok(()) };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    match detail(&status) {
        Some(Detail::RetryAfter(retry)) => Err(retry.after_ms),
        other => panic!("{status:?} does not say when: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_new_sandboxes_than_the_rate_are_refused_until_it_allows_them() {
    let limits = Limits {
        create_rate: 4,
        create_burst: 3,
    };
    let cluster = Cluster::limited(1, limits).await;
    let token = token(&cluster, Grant::Operator, "", LONG).await;
    let mut control = client(&cluster, &token);
    for id in ["a", "b", "c"] {
        create(&control, id).await.expect("it is the burst");
    }
    // Some may wait for their turn, which comes within a second; the others would wait for longer.
    let more = (0..8).map(|n| {
        let control = &control;
        async move { create(control, &format!("more-{n}")).await }
    });
    let asked = futures::future::join_all(more).await;
    let refused: Vec<u64> = asked.iter().filter_map(|asked| asked.err()).collect();
    assert!((3..=7).contains(&refused.len()), "{asked:?}");
    assert!(
        refused.iter().all(|after| (1_000..=4_000).contains(after)),
        "{asked:?}"
    );
    // What is there already is changed, and other things are written, as ever.
    for _ in 0..5 {
        for manifest in [sandbox("a", ""), external("x", "n", "x.test")] {
            within("an apply", control.apply(apply_request(manifest)))
                .await
                .expect("it makes no sandbox");
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Compares those who flood with one who does not, so that a busy machine, which delays both, changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn flood_of_some_does_not_keep_others_out_and_costs_no_throughput() {
    let limits = Limits {
        create_rate: 40,
        create_burst: 20,
    };
    let cluster = Cluster::limited(1, limits).await;
    let polite = client(&cluster, &token(&cluster, Grant::Operator, "", LONG).await);
    let mut floods = Vec::new();
    for _ in 0..3 {
        floods.push(client(
            &cluster,
            &token(&cluster, Grant::Operator, "", LONG).await,
        ));
    }
    let (stop, accepted, refused) = (AtomicBool::new(false), Mutex::new(Vec::new()), AtomicU32::new(0));
    let begun = clock::instant();
    // Each 30 at a time, and again at once, however often it is refused.
    let flooding = floods.iter().enumerate().flat_map(|(f, control)| {
        let (stop, accepted, refused) = (&stop, &accepted, &refused);
        (0..30).map(move |n| async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let asked = clock::instant();
                if create(control, &format!("f{f}-{n}-{number}")).await.is_ok() {
                    accepted
                        .lock()
                        .expect("whole")
                        .push((begun.elapsed(), asked.elapsed()));
                } else {
                    refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        })
    });
    let asking = async {
        // The burst is over by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut times = Vec::new();
        for n in 0..15 {
            let asked = clock::instant();
            create(&polite, &format!("polite-{n}"))
                .await
                .expect("its turn comes");
            times.push(asked.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        median(times)
    };
    let (polite, _) = tokio::join!(asking, futures::future::join_all(flooding));
    let seconds = begun.elapsed().as_secs_f64();
    let accepted = accepted.into_inner().expect("whole");
    let rate = accepted.len() as f64 / seconds;
    let waited = accepted
        .into_iter()
        .filter(|(at, _)| *at > Duration::from_secs(1));
    let flood = median(waited.map(|(_, took)| took).collect());
    let refused = refused.load(Ordering::Relaxed);
    eprintln!(
        "polite: {polite:?}, floods: {flood:?}, {rate:.0}/s accepted, {refused} refused in {seconds:.1} s"
    );
    assert!(refused > 0, "it was no flood");
    assert!(
        polite * 2 < flood,
        "{polite:?} of the polite one, {flood:?} of the others"
    );
    assert!(rate > 20.0, "accepted only {rate:.0}/s of 40/s");
}
