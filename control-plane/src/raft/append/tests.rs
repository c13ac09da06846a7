//! How requests are cut into messages, and how many are under way.

use super::*;
use crate::raft::types::{Entry, LeaderId, LogId, Payload, Proposal, Vote};

const LEADER: LeaderId = LeaderId { term: 3, node_id: 1 };

fn log_id(index: u64) -> LogId {
    LogId::new(LEADER, index)
}

/// Entries of about these sizes, after index 9.
fn request(sizes: &[usize]) -> AppendEntriesRequest<TypeConfig> {
    let entry = |(index, &size): (u64, &usize)| {
        let command = wire::Command {
            request_id: "x".repeat(size),
            op: None,
        };
        let batch = wire::Batch {
            now_ms: 1,
            commands: vec![command],
        };
        Entry {
            log_id: log_id(index),
            payload: Payload::Normal(Proposal(batch)),
        }
    };
    AppendEntriesRequest {
        vote: Vote {
            leader_id: LEADER,
            committed: true,
        },
        prev_log_id: Some(log_id(9)),
        entries: (10..).zip(sizes).map(entry).collect(),
        leader_commit: Some(log_id(8)),
    }
}

/// Entries of such sizes become messages of so many entries.
#[track_caller]
fn check(sizes: &[usize], expected: &[usize]) {
    let mut window = Window::new();
    window.split(request(sizes));
    let parts = &window.waiting;
    let counts: Vec<usize> = parts.iter().map(|part| part.message.entries.len()).collect();
    assert_eq!(counts, expected);
    // Each begins where the one before ended, and all carry the leader's vote and commit.
    let mut prev = 9;
    for part in parts {
        assert_eq!(part.message.prev_log_id.map(|id| id.index), Some(prev));
        assert_eq!(part.message.vote.map(|vote| vote.term), Some(LEADER.term));
        assert_eq!(part.message.leader_commit.map(|id| id.index), Some(8));
        let last = part.message.entries.last().and_then(|entry| entry.log_id);
        prev = last.map_or(prev, |id| id.index);
    }
    assert_eq!(prev, 9 + sizes.len() as u64);
}

#[test]
fn requests_are_cut_by_bytes() {
    let half = PART_BYTES / 2;
    check(&[], &[0]);
    check(&[1, 1, 1], &[3]);
    check(&[half, half], &[1, 1]);
    check(&[half, half - 200, half], &[2, 1]);
    check(&[3 * PART_BYTES], &[1]);
    check(&[1, 3 * PART_BYTES, 1], &[1, 1, 1]);
}

#[test]
fn window_bounds_messages_and_bytes_and_opens_with_each_answer() {
    let mut window = Window::new();
    let mut outgoing = window.open();
    assert_eq!(window.stalls_at(), None);
    for _ in 0..MAX_UNDER_WAY + 5 {
        window.split(request(&[]));
    }
    window.send();
    assert_eq!((window.under_way.len(), window.waiting.len()), (MAX_UNDER_WAY, 5));
    assert!(window.stalls_at().is_some());
    window.answered();
    window.send();
    assert_eq!((window.under_way.len(), window.waiting.len()), (MAX_UNDER_WAY, 4));
    assert!(outgoing.try_recv().is_ok());

    let mut window = Window::new();
    let _outgoing = window.open();
    window.split(request(&[PART_BYTES; 20]));
    window.send();
    assert_eq!(window.under_way.len(), MAX_UNDER_WAY_BYTES / PART_BYTES);
}
