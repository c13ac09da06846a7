//! Spans on real sockets: to a collector, to nobody, and to somebody who never answers.

use e2e::collector::Collector;
use spans::export::CLOSE_TIMEOUT;
use spans::{Context, Exporter, Span};
use std::net::TcpListener;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// For what takes no time but that of a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// More than the queue holds.
const MANY: usize = 20_000;

fn exporter(port: u16) -> Exporter {
    let endpoint = format!("http://127.0.0.1:{port}").parse().expect("an endpoint");
    Exporter::start(&endpoint, "sbxtest", "7".to_owned()).expect("an exporter")
}

fn span() -> Span {
    let root = Context::root("4bf92f3577b34da6a3ce929d0e0e4736", "web").expect("a trace id");
    let times = (
        UNIX_EPOCH + Duration::from_secs(3),
        UNIX_EPOCH + Duration::from_secs(5),
    );
    Span::below(root, "work", times).with("key", "value")
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_a_collector_before_the_process_ends() {
    let mut collector = Collector::start();
    let exporter = exporter(collector.port());
    assert!(exporter.is_on());
    exporter.record([span(), span()]);
    exporter.close().await;
    let received = collector.wait_for(SOON, |received| received.len() == 2);
    for one in received {
        assert_eq!((one.service.as_str(), one.instance.as_str()), ("sbxtest", "7"));
        assert_eq!(one.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(one.span.name, "work");
        assert_eq!(one.attribute("key"), "value");
        let seconds = |nanos| nanos / 1_000_000_000;
        assert_eq!(seconds(one.span.start_time_unix_nano), 3);
        assert_eq!(seconds(one.span.end_time_unix_nano), 5);
    }
    assert_ne!(received[0].span.span_id, received[1].span.span_id);
    assert_eq!(received[0].span.parent_span_id, received[1].span.parent_span_id);
}

/// Spans are lost, and nobody waits for them.
#[track_caller]
fn check_costs_nothing(exporter: &Exporter) {
    let begun = Instant::now();
    exporter.record(std::iter::repeat_with(span).take(MANY));
    let took = begun.elapsed();
    assert!(took < SOON, "{MANY} spans took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_that_refuses_costs_nothing() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let exporter = exporter(port);
    check_costs_nothing(&exporter);
    let begun = Instant::now();
    exporter.close().await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_that_never_answers_holds_up_the_end_for_a_bounded_time() {
    // Connections are taken by the kernel, and by nobody else.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let exporter = exporter(silent.local_addr().expect("an address").port());
    check_costs_nothing(&exporter);
    let begun = Instant::now();
    exporter.close().await;
    let took = begun.elapsed();
    assert!(took < CLOSE_TIMEOUT + SOON, "{took:?}");
}

#[tokio::test]
async fn exporter_that_is_off_does_nothing() {
    let off = Exporter::default();
    assert!(!off.is_on());
    off.record([span()]);
    off.close().await;
}
