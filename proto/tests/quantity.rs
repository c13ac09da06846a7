//! Sizes and amounts of cpu, read and shown.

use proto::units::{Bytes, MilliCpu, Timestamp};

#[track_caller]
fn bytes(text: &str, want: Option<u64>) {
    assert_eq!(Bytes::parse(text).ok().map(|b| b.0), want, "{text}");
}

#[track_caller]
fn cpu(text: &str, want: Option<u64>) {
    assert_eq!(MilliCpu::parse(text).ok().map(|c| c.0), want, "{text}");
}

#[test]
fn sizes_are_read_exactly() {
    bytes("0", Some(0));
    bytes("1", Some(1));
    bytes("128Mi", Some(128 << 20));
    bytes("1Ki", Some(1024));
    bytes("1k", Some(1000));
    bytes("1M", Some(1_000_000));
    bytes("1G", Some(1_000_000_000));
    bytes("1Gi", Some(1 << 30));
    bytes("1T", Some(1_000_000_000_000));
    bytes("1Ti", Some(1 << 40));
    bytes("1.5Gi", Some(3 << 29));
    bytes("0.5Ki", Some(512));
    bytes("18446744073709551615", Some(u64::MAX));
}

#[test]
fn malformed_sizes_are_refused() {
    for text in [
        "",
        "Mi",
        "-1",
        "+1",
        "1 Mi",
        " 1",
        "1mi",
        "1MB",
        "1K",
        "1e3",
        "1.",
        ".5",
        "1..5Ki",
        "0.3Ki",
        "1,5Gi",
        "0x10",
        "18446744073709551616",
        "18446744073709551615Ki",
        "NaN",
    ] {
        bytes(text, None);
    }
}

#[test]
fn cpu_is_read_to_the_thousandth() {
    cpu("250m", Some(250));
    cpu("2", Some(2000));
    cpu("0.5", Some(500));
    cpu("0.001", Some(1));
    cpu("1.25", Some(1250));
    cpu("0", Some(0));
    for text in [
        "",
        "m",
        "0.0005",
        "0.5x",
        "-1",
        "1M",
        "1.5.5",
        "1e3",
        "18446744073709551615",
    ] {
        cpu(text, None);
    }
}

#[test]
fn shown_quantities_can_be_read_again() {
    for n in [
        1,
        999,
        1000,
        1024,
        1 << 20,
        3 << 29,
        1 << 30,
        1_000_000_000,
        1 << 40,
    ] {
        assert_eq!(Bytes::parse(&Bytes(n).to_string()), Ok(Bytes(n)));
        assert_eq!(MilliCpu::parse(&MilliCpu(n).to_string()), Ok(MilliCpu(n)));
    }
    assert_eq!(Bytes(128 << 20).to_string(), "128Mi");
    assert_eq!(MilliCpu(100).to_string(), "100m");
    assert_eq!(MilliCpu(2000).to_string(), "2");
}

#[test]
fn times_are_rfc_3339() {
    assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
    assert_eq!(
        Timestamp(1_700_000_000_123).to_string(),
        "2023-11-14T22:13:20.123Z"
    );
}
