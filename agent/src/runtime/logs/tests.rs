//! What is written is what is read: through real files, across rotations, and on a disk that is full.

use super::*;
use crate::runtime::mount;
use crate::runtime::mount::tests::{Mounts, plain};
use futures::StreamExt;
use proto::budget::TmpfsLimit;
use proto::units::Bytes;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// An event that must come comes within this.
const SOON: Duration = Duration::from_secs(10);

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The records of a file, without their times.
fn records(dir: &Path, age: usize) -> Vec<String> {
    let text = fs::read_to_string(files::path(dir, age)).expect("there");
    assert!(text.is_empty() || text.ends_with('\n'));
    let record = |line: &str| line.split_once(' ').expect("a time").1.to_owned();
    text.lines().map(record).collect()
}

fn source(name: &str, dir: &Path) -> Source {
    Source {
        container: name.parse().expect("a name"),
        dir: dir.to_owned(),
    }
}

async fn read_all(sources: Vec<Source>, query: Query) -> Vec<Line> {
    let batches: Vec<_> = read(sources, query, CancellationToken::new()).collect().await;
    batches
        .into_iter()
        .flat_map(|batch| batch.expect("read"))
        .collect()
}

fn texts(lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .map(|line| String::from_utf8_lossy(&line.text).into_owned())
        .collect()
}

/// Writes `chunks` to a new folder and says which records there are then.
#[track_caller]
fn check_records(chunks: &[&[u8]], want: &[&str]) {
    let dir = folder();
    let mut writer = Writer::open(dir.path()).expect("opened");
    for chunk in chunks {
        writer.write(Stream::Stdout, chunk, at(1)).expect("written");
    }
    writer.finish(Stream::Stdout).expect("written");
    assert_eq!(records(dir.path(), 0), want, "{chunks:?}");
}

#[test]
fn lines_are_records_however_they_arrive() {
    check_records(&[b"one\ntwo\n"], &["stdout F one", "stdout F two"]);
    check_records(&[b"o", b"ne", b"\nt", b"wo\n"], &["stdout F one", "stdout F two"]);
    check_records(&[b"\n\n", b"\n"], &["stdout F ", "stdout F ", "stdout F "]);
    check_records(&[b"no end"], &["stdout F no end"]);
    check_records(&[], &[]);
}

#[test]
fn long_lines_are_kept_in_pieces() {
    for (length, chunk, pieces) in [
        (MAX_PIECE, MAX_PIECE, &[MAX_PIECE][..]),
        (MAX_PIECE + 1, MAX_PIECE + 1, &[MAX_PIECE, 1]),
        (MAX_PIECE, 1_000, &[MAX_PIECE]),
        (2 * MAX_PIECE, 1 << 20, &[MAX_PIECE, MAX_PIECE]),
        (2 * MAX_PIECE + 5, 4_096, &[MAX_PIECE, MAX_PIECE, 5]),
    ] {
        let line = [&vec![b'x'; length][..], b"\n"].concat();
        let chunks: Vec<&[u8]> = line.chunks(chunk).collect();
        let record = |(i, length): (usize, &usize)| {
            let tag = if i + 1 < pieces.len() { "P" } else { "F" };
            format!("stdout {tag} {}", "x".repeat(*length))
        };
        let want: Vec<String> = pieces.iter().enumerate().map(record).collect();
        check_records(&chunks, &want.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn full_file_is_followed_by_the_next_and_the_oldest_goes() {
    let dir = folder();
    let mut writer = Writer::with_limit(dir.path(), 1_000).expect("opened");
    for i in 0..100 {
        writer
            .write(Stream::Stdout, format!("line {i:02}\n").as_bytes(), at(1))
            .expect("written");
    }
    let all: Vec<Vec<String>> = (0..FILES).rev().map(|age| records(dir.path(), age)).collect();
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), FILES);
    assert_eq!([all[0].len(), all[1].len()], [21, 21]);
    let all = all.concat();
    let first = 100 - all.len();
    let want: Vec<String> = (first..100).map(|i| format!("stdout F line {i:02}")).collect();
    assert_eq!(all, want);
}

#[test]
fn many_lines_at_once_fill_files_no_further_than_one_line_at_a_time() {
    let dir = folder();
    let mut writer = Writer::with_limit(dir.path(), 1_000).expect("opened");
    let text: String = (0..50).map(|i| format!("line {i:02}\n")).collect();
    writer
        .write(Stream::Stdout, text.as_bytes(), at(1))
        .expect("written");
    let lengths: Vec<usize> = (0..FILES).map(|age| records(dir.path(), age).len()).collect();
    assert_eq!(lengths, [8, 21, 21]);
}

#[test]
fn writer_goes_on_behind_the_last_whole_record() {
    let whole = "2026-01-02T03:04:05.000000000Z stdout F one\n";
    for (torn, want) in [
        ("", &["stdout F one", "stdout F new"][..]),
        ("2026-01-02T03:0", &["stdout F one", "stdout F new"]),
        (
            "2026-01-02T03:04:05.000000000Z stderr F tw",
            &["stdout F one", "stderr F tw", "stdout F new"],
        ),
    ] {
        let dir = folder();
        fs::write(files::path(dir.path(), 0), format!("{whole}{torn}")).expect("written");
        let mut writer = Writer::open(dir.path()).expect("opened");
        writer.write(Stream::Stdout, b"new\n", at(1)).expect("written");
        assert_eq!(records(dir.path(), 0), want, "{torn:?}");
    }
}

#[test]
fn full_disk_costs_lines_which_are_counted_and_told_of() {
    let mounts = Mounts::new();
    mount::tmpfs(mounts.path(), plain(TmpfsLimit::of(Bytes::mib(1)), 0o700)).expect("mounted");
    let (ballast, dir) = (mounts.path().join("ballast"), mounts.path().join("logs"));
    let mut writer = Writer::open(&dir).expect("opened");
    writer.write(Stream::Stdout, b"before\n", at(1)).expect("written");
    mount::tests::fill(&ballast);
    let line = [&[b'x'; 3_000][..], b"\n"].concat();
    let mut refused = 0;
    while refused < 3 {
        if let Err(fault) = writer.write(Stream::Stdout, &line, at(2)) {
            assert!(matches!(fault, LogsError::Write { .. }), "{fault}");
            refused += 1;
        }
    }
    assert_eq!(writer.lost(), 3);
    fs::remove_file(&ballast).expect("removed");
    writer.write(Stream::Stdout, b"after\n", at(3)).expect("written");
    assert_eq!(writer.lost(), 3);
    let records = records(&dir, 0);
    assert_eq!(records.first().map(String::as_str), Some("stdout F before"));
    let last = &records[records.len() - 2..];
    let told = "stderr F [sandboxd] lines lost because the disk was full: 3";
    assert_eq!(last, [told, "stdout F after"]);
}

#[tokio::test]
async fn all_lines_are_read_across_rotations_in_their_order() {
    let dir = folder();
    let mut writer = Writer::with_limit(dir.path(), 2_000).expect("opened");
    for i in 0..100 {
        let stream = if i % 3 == 0 {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        writer
            .write(stream, format!("{i}\n").as_bytes(), at(i))
            .expect("written");
    }
    let lines = read_all(vec![source("c", dir.path())], Query::default()).await;
    let want: Vec<String> = (100 - lines.len()..100).map(|i| i.to_string()).collect();
    assert!(lines.len() > 80, "{}", lines.len());
    assert_eq!(texts(&lines), want);
    let last = lines.last().expect("a line");
    assert_eq!(
        (last.time, last.stream),
        (Duration::from_secs(99), Stream::Stderr)
    );
}

/// Ten lines, written at the seconds 0 to 9.
async fn check_query(query: Query, want: &[&str]) {
    let dir = folder();
    let mut writer = Writer::with_limit(dir.path(), 200).expect("opened");
    for i in 0..10 {
        writer
            .write(Stream::Stdout, format!("{i}\n").as_bytes(), at(i))
            .expect("written");
    }
    let lines = read_all(vec![source("c", dir.path())], query).await;
    assert_eq!(texts(&lines), want, "{query:?}");
}

#[tokio::test]
async fn tail_and_since_choose_the_last_lines() {
    let query = |tail, since| Query {
        tail,
        since: Duration::from_secs(since),
        follow: false,
    };
    check_query(query(Some(3), 0), &["7", "8", "9"]).await;
    check_query(query(Some(0), 0), &[]).await;
    check_query(query(Some(7), 5), &["5", "6", "7", "8", "9"]).await;
    check_query(query(Some(2), 5), &["8", "9"]).await;
    check_query(query(None, 8), &["8", "9"]).await;
    check_query(query(None, 10), &[]).await;
}

#[tokio::test]
async fn pieces_are_one_line_again_up_to_a_length() {
    let dir = folder();
    let mut writer = Writer::open(dir.path()).expect("opened");
    let long = vec![b'a'; 100_000];
    let longest = vec![b'b'; 300_000];
    writer.write(Stream::Stdout, &long, at(1)).expect("written");
    writer
        .write(Stream::Stderr, b"between\n", at(2))
        .expect("written");
    writer.write(Stream::Stdout, b"\n", at(3)).expect("written");
    writer.write(Stream::Stdout, &longest, at(4)).expect("written");
    writer.finish(Stream::Stdout).expect("written");
    let lines = read_all(vec![source("c", dir.path())], Query::default()).await;
    let shapes: Vec<_> = lines
        .iter()
        .map(|line| (line.time.as_secs(), line.text.len()))
        .collect();
    assert_eq!(shapes, [(2, 7), (1, 100_000), (4, 262_144), (4, 37_856)]);
    assert!(lines[1].text == long);
    let tail = Query {
        tail: Some(3),
        ..Query::default()
    };
    assert_eq!(read_all(vec![source("c", dir.path())], tail).await, lines[1..]);
}

#[tokio::test]
async fn containers_are_merged_by_time() {
    let (one, other, none) = (folder(), folder(), folder());
    for (dir, start) in [(&one, 0), (&other, 1)] {
        let mut writer = Writer::with_limit(dir.path(), 3_000).expect("opened");
        for i in (start..200).step_by(2) {
            writer
                .write(Stream::Stdout, format!("{i}\n").as_bytes(), at(i))
                .expect("written");
        }
    }
    let sources = vec![
        source("one", one.path()),
        source("other", other.path()),
        source("none", none.path()),
        source("missing", &none.path().join("missing")),
    ];
    let lines = read_all(sources, Query::default()).await;
    assert_eq!(texts(&lines), (0..200).map(|i| i.to_string()).collect::<Vec<_>>());
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line.container.as_str(), ["one", "other"][i % 2]);
    }
}

/// Takes lines until there are `count` of them.
async fn take(
    stream: &mut (impl futures::Stream<Item = Result<Vec<Line>, LogsError>> + Unpin),
    count: usize,
) -> Vec<Line> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let batch = tokio::time::timeout(SOON, stream.next()).await.expect("in time");
        lines.extend(batch.expect("not ended").expect("read"));
    }
    lines
}

#[tokio::test]
async fn followed_logs_survive_rotations_and_end_when_all_is_read() {
    let dir = folder();
    let mut writer = Writer::with_limit(dir.path(), 1_500).expect("opened");
    writer
        .write(Stream::Stdout, b"old 1\nold 2\n", at(0))
        .expect("written");
    let query = Query {
        tail: Some(1),
        follow: true,
        ..Query::default()
    };
    let ended = CancellationToken::new();
    let mut stream = read(vec![source("c", dir.path())], query, ended.clone());
    assert_eq!(texts(&take(&mut stream, 1).await), ["old 2"]);
    let mut expected = 0..1_000;
    for burst in (0..1_000).collect::<Vec<u64>>().chunks(20) {
        for i in burst {
            writer
                .write(Stream::Stdout, format!("{i}\n").as_bytes(), at(*i))
                .expect("written");
        }
        for text in texts(&take(&mut stream, burst.len()).await) {
            assert_eq!(
                text,
                expected.next().expect("no more than was written").to_string()
            );
        }
    }
    writer.write(Stream::Stdout, b"last", at(1_001)).expect("written");
    writer.finish(Stream::Stdout).expect("written");
    ended.cancel();
    assert_eq!(texts(&take(&mut stream, 1).await), ["last"]);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn line_that_has_no_end_yet_is_not_given_out_before_it_has() {
    let dir = folder();
    let mut writer = Writer::open(dir.path()).expect("opened");
    let query = Query {
        follow: true,
        ..Query::default()
    };
    let ended = CancellationToken::new();
    let mut stream = read(vec![source("c", dir.path())], query, ended.clone());
    writer
        .write(Stream::Stdout, &[b'x'; MAX_PIECE + 1], at(1))
        .expect("written");
    writer.write(Stream::Stderr, b"other\n", at(2)).expect("written");
    assert_eq!(texts(&take(&mut stream, 1).await), ["other"]);
    ended.cancel();
    // Its writer was killed: what it has written is a line.
    assert_eq!(take(&mut stream, 1).await[0].text.len(), MAX_PIECE);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn folder_that_is_not_there_cannot_be_followed() {
    let dir = folder();
    let query = Query {
        follow: true,
        ..Query::default()
    };
    let missing = source("c", &dir.path().join("missing"));
    let mut stream = read(vec![missing], query, CancellationToken::new());
    let fault = stream.next().await.expect("an error").expect_err("refused");
    assert!(
        fault.to_string().contains("missing: ENOENT") || fault.to_string().contains("No such file"),
        "{fault}"
    );
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn follower_that_is_overtaken_is_told_of_the_gap_and_goes_on() {
    let dir = folder();
    let mut writer = Writer::with_limit(dir.path(), 1_000).expect("opened");
    let mut write = |from: u64, to: u64| {
        for i in from..to {
            let line = format!("line {i:03}\n");
            writer
                .write(Stream::Stdout, line.as_bytes(), at(i))
                .expect("written");
        }
    };
    write(0, 5);
    let query = Query {
        follow: true,
        ..Query::default()
    };
    let mut reader =
        reader::Reader::open("c".parse().expect("a name"), dir.path().to_owned(), &query).expect("opened");
    let mut lines = std::collections::VecDeque::new();
    while reader.read(&mut lines).expect("read") {}
    assert_eq!(lines.len(), 5);
    write(5, 200);
    while reader.read(&mut lines).expect("read") {}
    let texts = texts(lines.make_contiguous());
    let gap = texts
        .iter()
        .position(|text| text.starts_with("[sandboxd] lines may be missing"));
    let gap = gap.expect("told");
    let number = |text: &String| text["line ".len()..].parse::<u64>().expect("a line");
    let (before, after): (Vec<u64>, Vec<u64>) = (
        texts[..gap].iter().map(number).collect(),
        texts[gap + 1..].iter().map(number).collect(),
    );
    // The file that was open is read to its end, and from the oldest that is there all to the newest.
    assert_eq!(before, (0..before.len() as u64).collect::<Vec<_>>());
    assert!(before.len() > 5, "{before:?}");
    assert_eq!(after, (200 - after.len() as u64..200).collect::<Vec<_>>());
    assert!(after[0] > before.len() as u64, "{after:?}");
}

/// A container that wrote as fast as it was read kept `logs --tail 5` from ever ending.
#[test]
fn reading_without_following_ends_where_the_log_ended_when_it_began() {
    let dir = folder();
    let mut writer = Writer::with_limit(dir.path(), 1_000).expect("opened");
    let mut write = |from: u64, to: u64| {
        for i in from..to {
            writer
                .write(Stream::Stdout, format!("{i}\n").as_bytes(), at(i))
                .expect("written");
        }
    };
    write(0, 30);
    let query = Query {
        tail: Some(3),
        ..Query::default()
    };
    let mut reader =
        reader::Reader::open("c".parse().expect("a name"), dir.path().to_owned(), &query).expect("opened");
    // Into the same file, and then into the next ones.
    write(30, 60);
    let mut lines = std::collections::VecDeque::new();
    while reader.read(&mut lines).expect("read") {}
    assert_eq!(texts(lines.make_contiguous()), ["27", "28", "29"]);
}
