//! Against a real server on loopback that answers each connection as it is told.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What the server does with one connection.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Status(&'static str),
    /// Sends this, whatever it was asked.
    Raw(&'static [u8]),
    Close,
    Silence,
}

/// Answers connections in turn, the last answer for all that follow; counts them.
async fn serve(answers: &'static [Answer]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let i = counted.fetch_add(1, Ordering::Relaxed);
            let answer = answers.get(i).or(answers.last()).copied().expect("an answer");
            tokio::spawn(async move {
                let mut request = [0; 1_024];
                let bytes = match answer {
                    Answer::Close => return,
                    Answer::Silence => return std::future::pending().await,
                    Answer::Raw(bytes) => bytes.to_vec(),
                    Answer::Status(status) => {
                        let length = stream.read(&mut request).await.unwrap_or_default();
                        let asked = String::from_utf8_lossy(&request[..length]).into_owned();
                        assert!(
                            asked.starts_with("GET /ready?x=1 HTTP/1.1\r\nhost: 127.0.0.1:"),
                            "{asked}"
                        );
                        format!(
                            "HTTP/1.1 {status} X\r\nLocation: /elsewhere\r\nContent-Length: 4\r\n\r\nbody"
                        )
                        .into_bytes()
                    }
                };
                let _ = stream.write_all(&bytes).await;
            });
        }
    });
    (address, count)
}

const SCHEDULE: Schedule = Schedule {
    delay: Duration::ZERO,
    period: Duration::from_millis(5),
    timeout: Duration::from_secs(5),
    successes: 1,
    failures: 1,
};

fn http() -> ProbeCheck {
    ProbeCheck::Http {
        path: "/ready?x=1".to_owned(),
    }
}

/// Asks a server with these answers; `want` is how often, and what the failure says.
async fn check(
    check: ProbeCheck,
    schedule: Schedule,
    answers: &'static [Answer],
    want: (usize, Result<(), &str>),
) {
    let (address, count) = serve(answers).await;
    let outcome = ask(&check, address, schedule).await;
    match (outcome, want.1) {
        (Ok(()), Ok(())) => {}
        (Err(failure), Err(said)) => {
            let failure = failure.to_string();
            assert!(
                failure.contains(said),
                "{failure:?} lacks {said:?} for {answers:?}"
            );
        }
        (outcome, want) => panic!("{outcome:?} instead of {want:?} for {answers:?}"),
    }
    // A connection that nobody waits for the answer of may not be counted yet.
    while count.load(Ordering::Relaxed) < want.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(count.load(Ordering::Relaxed), want.0, "{answers:?}");
}

#[tokio::test]
async fn every_status_from_200_to_399_passes_and_no_redirect_is_followed() {
    for (answers, want) in [
        (&[Answer::Status("200")][..], Ok(())),
        (&[Answer::Status("204")], Ok(())),
        (&[Answer::Status("302")], Ok(())),
        (&[Answer::Status("399")], Ok(())),
        (&[Answer::Status("400")], Err("it answers with status 400")),
        (&[Answer::Status("503")], Err("it answers with status 503")),
    ] {
        check(http(), SCHEDULE, answers, (1, want)).await;
    }
}

#[tokio::test]
async fn answer_that_is_no_http_fails() {
    let what = "(http GET /ready?x=1 on port";
    for answers in [
        &[Answer::Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")][..],
        &[Answer::Raw(b"HTTP/1.1 200 OK\r\nX: ")],
        &[Answer::Close],
    ] {
        check(http(), SCHEDULE, answers, (1, Err("it does not speak HTTP"))).await;
        check(http(), SCHEDULE, answers, (1, Err(what))).await;
    }
}

#[tokio::test]
async fn accepted_connection_passes_tcp() {
    check(ProbeCheck::Tcp, SCHEDULE, &[Answer::Silence], (1, Ok(()))).await;
    check(ProbeCheck::Tcp, SCHEDULE, &[Answer::Close], (1, Ok(()))).await;
}

#[tokio::test]
async fn server_that_does_not_answer_in_time_fails() {
    let schedule = Schedule {
        timeout: Duration::from_millis(20),
        failures: 2,
        ..SCHEDULE
    };
    let said = "failed 2 times in a row, at last because it does not answer within 0.02 s";
    check(http(), schedule, &[Answer::Silence], (2, Err(said))).await;
}

#[tokio::test]
async fn thresholds_count_in_a_row() {
    const OK: Answer = Answer::Status("200");
    const BAD: Answer = Answer::Status("500");
    let schedule = Schedule {
        successes: 2,
        failures: 3,
        ..SCHEDULE
    };
    for (answers, want) in [
        (&[OK, OK][..], (2, Ok(()))),
        (&[OK, BAD, OK, OK], (4, Ok(()))),
        (&[BAD, BAD, OK, BAD, BAD, OK, OK], (7, Ok(()))),
        (&[BAD, BAD, BAD], (3, Err("failed 3 times"))),
        (&[OK, BAD, BAD, OK, BAD, BAD, BAD], (7, Err("failed 3 times"))),
    ] {
        check(http(), schedule, answers, want).await;
    }
}

#[tokio::test]
async fn port_where_nobody_listens_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let failure = ask(&ProbeCheck::Tcp, address, SCHEDULE)
        .await
        .expect_err("refused");
    let said = failure.to_string();
    assert!(
        said.starts_with(&format!(
            "the readiness probe (tcp on port {}) failed 1 times",
            address.port()
        )),
        "{said}"
    );
    assert!(
        said.contains("it cannot be connected to: Connection refused"),
        "{said}"
    );
}

#[tokio::test]
async fn path_that_is_none_fails_and_does_not_reach_the_server() {
    let space = ProbeCheck::Http {
        path: "/a b\r\nX: y".to_owned(),
    };
    check(
        space,
        SCHEDULE,
        &[Answer::Close],
        (1, Err("no request can be made of the path")),
    )
    .await;
}

#[tokio::test]
async fn delay_comes_before_the_first_attempt_and_the_period_between_all() {
    let probe = Probe {
        check: ProbeCheck::Tcp,
        // Discard: nobody listens there.
        port: 9,
        initial_delay_seconds: 1,
        period_seconds: 1,
        timeout_seconds: 5,
        success_threshold: 1,
        failure_threshold: 2,
    };
    let start = std::time::Instant::now();
    super::probe(&probe, Ipv4Addr::LOCALHOST)
        .await
        .expect_err("refused");
    let elapsed = start.elapsed();
    assert!(
        elapsed >= Duration::from_secs(2) && elapsed < Duration::from_secs(5),
        "{elapsed:?}"
    );
}
