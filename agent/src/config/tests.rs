use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

fn flags(args: &str) -> Settings {
    Line::parse_from(["sbxlet"].into_iter().chain(args.split_whitespace())).settings
}

const GOOD: &str = "--node-id n1 --server http://10.0.0.1:7070 --insecure";

#[test]
fn flags_of_a_local_cluster_are_accepted() {
    let config = flags(
        "--node-id agent-1 --advertise-ip 10.88.7.21 --state-dir /d/agent-1/state \
         --cgroup-parent /sandboxd-dev-7/agent-1 --server http://10.88.7.11:7070 --server 10.88.7.12:7070 \
         --mirror docker.io=http://10.88.7.1:5000 --label a=b --label region=eu --insecure",
    )
    .check()
    .expect("they are good");
    assert_eq!(
        config.servers,
        ["http://10.88.7.11:7070", "http://10.88.7.12:7070"]
    );
    assert_eq!(config.cgroup_parent, Path::new("/sandboxd-dev-7/agent-1"));
    assert_eq!(config.labels.get("region").map(String::as_str), Some("eu"));
    assert_eq!(
        (config.registries.mirrors.len(), config.max_alloc_percent),
        (1, 90)
    );
    assert_eq!(config.default_runtime, Runtime::Native);
    let subnet = Subnet {
        address: Ipv4Addr::new(10, 89, 0, 0),
        prefix: 16,
    };
    assert_eq!(config.sandbox_cidr, subnet);
    let ids = config.user_ids;
    assert_eq!((ids.first, ids.ranges()), (0x1000_0000, 0x6000));
    assert_eq!(ids.range(0x6000), None);
    let last = ids.range(0x5fff).expect("the last one");
    assert_eq!((last.root(), ids.number_of(last)), (0x6fff_0000, Some(0x5fff)));
}

#[test]
fn user_ids_are_a_block_that_is_nobody_elses() {
    #[track_caller]
    fn check(ids: &str, why: &str) {
        check_problems(&format!("{GOOD} --user-ids {ids}"), &[why]);
    }
    for none in [
        "",
        "1",
        "a:b",
        "70000",
        "70000:0",
        "4294967295:4294967295",
        "-1:65536",
    ] {
        let settings = Settings {
            user_ids: Some(none.to_owned()),
            ..flags(GOOD)
        };
        let said = settings.check().expect_err("refused").to_string();
        assert!(said.contains("is no block of ids"), "{said}");
    }
    check("65535:65536", "reaches beyond 65536 to 2147483647");
    check("2147418113:65536", "reaches beyond");
    check("2147418112:65535", "is not enough");
    let config = flags(&format!(
        "{GOOD} --user-ids 2147418112:65536 --user-namespaces required"
    ));
    let config = config.check().expect("they are good");
    assert_eq!(config.user_ids.ranges(), 1);
    assert_eq!(config.user_namespaces, UserNamespaces::Required);
}

#[test]
fn printed_settings_are_a_file_that_reads_the_same() {
    let settings = flags(&format!(
        "{GOOD} --cpu 2 --memory 1Gi --dns 10.0.0.53 --protect 10.1.0.0/16"
    ))
    .or_defaults();
    let text = settings.to_toml().expect("printed");
    assert_eq!(toml::from_str::<Settings>(&text).expect("read"), settings);
}

#[test]
fn file_gives_what_flags_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sbxlet.toml");
    std::fs::write(&path, "node_id = 'file'\nmax_alloc_percent = 50\n").expect("written");
    let file = Settings::read(&path).expect("read");
    let config = flags(GOOD).or(file).check().expect("it is good");
    assert_eq!((config.node_id.as_str(), config.max_alloc_percent), ("n1", 50));
    std::fs::write(&path, "nodeid = 'file'\n").expect("written");
    let error = Settings::read(&path).expect_err("a misspelt key").to_string();
    assert!(
        error.contains("sbxlet.toml") && error.contains("nodeid"),
        "{error}"
    );
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
    check_problems("--node-id n1", &["server: name at least one"]);
    check_problems(
        "--node-id n1 --server http://a:1",
        &["is plain text, which takes --insecure"],
    );
    check_problems(
        "--node-id n1 --server a:1 --tls-dir tls",
        &["tls_dir: `tls` must be"],
    );
    check_problems(
        &format!("{GOOD} --otlp-endpoint collector:4317"),
        &["otlp_endpoint: `collector:4317` is no address of a collector"],
    );
    for (token, why) in [("changeme", "is no token for joining"), ("", "is empty")] {
        let settings = Settings {
            join_token: Some(token.to_owned()),
            ..flags("--node-id n1 --server a:1")
        };
        let said = settings.check().expect_err("refused").to_string();
        assert!(said.contains("join_token") && said.contains(why), "{said}");
    }
    let several = format!(
        "{GOOD} --label x --default-runtime docker --max-alloc-percent 0 --cpu 0 --memory 1x --sandbox-cidr 8.8.0.0/16 --user-ids 100000:65535 \
         --protect 10.0.0.1/8 --mirror docker.io --advertise-ip 0.0.0.0 --cgroup-parent sandboxd --state-dir /a/../b"
    );
    check_problems(
        &several,
        &[
            "advertise_ip: `0.0.0.0`",
            "state_dir: `/a/../b` must be an absolute path",
            "cgroup_parent: `sandboxd` must be an absolute path",
            "mirror: `docker.io`",
            "label: `x` is no label",
            "default_runtime: `docker` is no runtime",
            "max_alloc_percent: `0` is no share",
            "cpu: `0` must be greater than 0",
            "memory: `1x`",
            "sandbox_cidr: `8.8.0.0/16` must be a private IPv4 block",
            "user_ids: `100000:65535` is not enough for one sandbox",
            "protect: `10.0.0.1/8`",
        ],
    );
    check_problems(
        "--node-id .n --server https://a:1 --server a --insecure",
        &["node_id: `.n`", "speaks TLS", "`a` is no address"],
    );
}

#[test]
fn settings_of_images_are_checked_together() {
    let config = flags(&format!(
        "{GOOD} --registry 10.0.0.1:5000=plain --docker-config /etc/sbx/config.json --pre-pull alpine:3.20 \
         --image-unused-for 36h --image-disk-percent 70"
    ));
    let config = config.check().expect("they are good");
    assert_eq!(config.registries.transports.len(), 1);
    assert_eq!(
        config.registries.docker_config.as_deref(),
        Some(Path::new("/etc/sbx/config.json"))
    );
    assert_eq!(
        (config.images.full_percent, config.images.freed_percent),
        (70, 65)
    );
    assert_eq!(config.images.unused_for.map(|t| t.as_secs()), Some(36 * 3600));
    let wrong = flags(&format!(
        "{GOOD} --registry x --pre-pull UPPER --image-unused-for long --image-disk-percent 0"
    ));
    let said = wrong.check().expect_err("they are wrong").to_string();
    for key in ["registry", "pre_pull", "image_unused_for", "image_disk_percent"] {
        assert!(said.contains(&format!("  {key}: ")), "{said}");
    }
}

#[test]
fn servers_speak_tls_unless_plain_text_is_asked_for() {
    let config = flags("--node-id n1 --server a:1 --server https://b:2")
        .check()
        .expect("good");
    assert_eq!(config.servers, ["https://a:1", "https://b:2"]);
    let tls = config.tls.expect("it has an identity");
    assert_eq!(
        (tls.dir.as_path(), tls.join),
        (Path::new("/var/lib/sbxlet/tls"), None)
    );
    assert_eq!(flags(GOOD).check().expect("good").tls, None);
}
