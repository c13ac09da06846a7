use super::*;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

fn flags(args: &str) -> Settings {
    Cli::parse_from(std::iter::once("sbxorch").chain(args.split_whitespace())).settings
}

fn file(text: &str) -> Settings {
    toml::from_str(text).expect("the file is valid")
}

/// Flags and file together give `expected` for the key that `read` picks.
#[track_caller]
fn check<T: PartialEq + std::fmt::Debug>(
    args: &str,
    text: &str,
    read: fn(&Settings) -> Option<T>,
    expected: T,
) {
    let effective = flags(args).or(file(text)).or_defaults();
    assert_eq!(read(&effective), Some(expected), "flags `{args}`, file `{text}`");
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let listen = |s: &Settings| s.listen.map(|a| a.to_string());
    check(
        "--listen 127.0.0.2:1",
        "listen = '127.0.0.3:2'",
        listen,
        "127.0.0.2:1".to_owned(),
    );
    check("", "listen = '127.0.0.3:2'", listen, "127.0.0.3:2".to_owned());
    check("", "", listen, "127.0.0.1:7070".to_owned());
    let grace = |s: &Settings| s.node_grace;
    check(
        "--node-grace 3s",
        "node_grace = '4s'",
        grace,
        Span(Duration::from_secs(3)),
    );
    check("", "node_grace = '4s'", grace, Span(Duration::from_secs(4)));
    check("", "", grace, Span(Duration::from_secs(10)));
    check("--insecure", "insecure = false", |s| s.insecure, true);
    check("--insecure=false", "insecure = true", |s| s.insecure, false);
    check("", "insecure = true", |s| s.insecure, true);
    check(
        "--log-format json",
        "log_format = 'human'",
        |s| s.log_format,
        LogFormat::Json,
    );
    check(
        "--otlp-endpoint http://a:4317",
        "otlp_endpoint = 'http://b:4317'",
        |s| s.otlp_endpoint.clone(),
        "http://a:4317".to_owned(),
    );
    check(
        "--data-dir /a",
        "data_dir = '/b'",
        |s| s.data_dir.clone(),
        PathBuf::from("/a"),
    );
}

#[test]
fn what_is_advertised_follows_what_is_listened_on() {
    check(
        "--listen 10.0.0.1:80",
        "",
        |s| s.advertise.clone(),
        "https://10.0.0.1:80".to_owned(),
    );
    check(
        "--peer-listen 10.0.0.1:81 --insecure",
        "",
        |s| s.advertise_peer.clone(),
        "http://10.0.0.1:81".to_owned(),
    );
    check(
        "--listen 0.0.0.0:80",
        "advertise = 'http://me'",
        |s| s.advertise.clone(),
        "http://me".to_owned(),
    );
}

#[test]
fn printed_settings_read_back_as_the_same() {
    let cluster = "--initial-cluster 1=http://a:2=http://a:1,2=http://b:2=http://b:1,3=http://c:2=http://c:1";
    for args in [
        "",
        "--id 7 --insecure --node-lease 90s --log-format json",
        cluster,
    ] {
        let effective = flags(args).or_defaults();
        let text = effective.to_toml().expect("it can be shown");
        assert_eq!(file(&text), effective, "{text}");
    }
}

#[test]
fn an_unknown_key_in_the_file_is_an_error_that_names_it() {
    let error = toml::from_str::<Settings>("lisen = '127.0.0.1:1'").expect_err("it is misspelt");
    assert!(error.to_string().contains("lisen"), "{error}");
}

#[track_caller]
fn check_problems(args: &str, expected: &[&str]) {
    let Err(ConfigError::Invalid(problems)) = flags(args).check() else {
        panic!("`{args}` must be refused");
    };
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), expected.len(), "{texts:#?}");
    for (text, part) in texts.iter().zip(expected) {
        assert!(text.contains(part), "`{text}` does not say `{part}`");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    check_problems("", &["id: every replica"]);
    check_problems(
        "--id 1 --advertise http://x",
        &["must begin with https://; plain text takes --insecure"],
    );
    check_problems(
        "--id 1 --initial-cluster 1=http://127.0.0.1:7071=https://127.0.0.1:7070",
        &[
            "initial_cluster: `http://127.0.0.1:7071` must begin with https://",
            "says that replica 1",
        ],
    );
    check_problems(
        "--id 1 --insecure --otlp-endpoint collector:4317",
        &["otlp_endpoint: `collector:4317` is no address of a collector"],
    );
    check_problems("--id 0 --insecure", &["id: every replica"]);
    check_problems("--id 1 --insecure --listen 0.0.0.0:1", &["set --advertise"]);
    check_problems(
        "--id 1 --insecure --advertise https://x",
        &["must begin with http://"],
    );
    check_problems(
        "--id 1 --insecure --node-grace 61s",
        &["node_lease: must be longer than node_grace"],
    );
    check_problems(
        "--id 1 --insecure --heartbeat 10s",
        &["node_grace: must be longer than heartbeat"],
    );
    let own = "1=http://127.0.0.1:7071=http://127.0.0.1:7070";
    let two = format!("--id 1 --insecure --initial-cluster {own},2=http://b:2=http://b:1");
    check_problems(&two, &["2 replicas cannot form a cluster"]);
    check_problems(
        "--id 2 --insecure --initial-cluster 1=http://a:2=http://a:1",
        &["this replica, 2, is not in the list"],
    );
    check_problems(
        &format!("--id 1 --insecure --initial-cluster {own},{own},3=http://b:2=http://b:1"),
        &["replica 1 occurs twice"],
    );
    check_problems(
        "--id 1 --insecure --initial-cluster 1=http://a:2=http://127.0.0.1:7070",
        &["says that replica 1 is at http://a:2, but its advertise_peer is http://127.0.0.1:7071"],
    );
}

#[test]
fn tls_is_spoken_unless_plain_text_is_asked_for() {
    let tls = flags("--id 1 --tls-dir /t").check().expect("it is good").tls;
    let expected = TlsFiles {
        dir: "/t".into(),
        authority_key: "/t/ca.key".into(),
    };
    assert_eq!(tls, Some(expected));
    assert_eq!(flags("--id 1 --insecure").check().expect("it is good").tls, None);
}

#[test]
fn a_list_of_three_replicas_is_accepted() {
    let list =
        "1=http://127.0.0.1:7071=http://127.0.0.1:7070,2=http://b:2=http://b:1,3=http://c:2=http://c:1";
    let config = flags(&format!("--id 1 --insecure --initial-cluster {list}"))
        .check()
        .expect("it is good");
    let ids: Vec<u64> = config.initial_cluster.iter().map(|peer| peer.id).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn a_malformed_replica_is_an_error_that_shows_the_form() {
    for (text, part) in [
        ("1=http://a:1", "ID=PEER_URL=URL"),
        ("0=http://a:1=http://a:2", "not a replica's number"),
        ("x=http://a:1=http://a:2", "not a replica's number"),
        ("1=a:1=http://a:2", "must begin with https://"),
        ("1=http://a:1=http://a:2=3", "ID=PEER_URL=URL"),
    ] {
        let error = text.parse::<Peer>().expect_err(text).to_string();
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}
