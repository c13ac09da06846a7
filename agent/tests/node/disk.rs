//! A node whose disk is full: what runs goes on, what can't be made fails by the node's fault, what is not wanted
//! is removed, and all is well again when there is space.

use super::leader::{Leader, desired};
use super::machine::Machine;
use super::{LONG_LEASE, machine, one};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proto::wire::{self, Phase, Reason};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Of the disk: an image, and what an agent keeps.
const SIZE: &str = "size=64m";

/// A disk of its own; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("made");
        mount(Some("disk"), at, Some("tmpfs"), MsFlags::empty(), Some(SIZE)).expect("these tests need root");
        Self(at.to_owned())
    }

    /// To the last byte.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("made");
        let block = vec![0; 64 << 10];
        for length in [block.len(), 1] {
            loop {
                match file.write_all(&block[..length]) {
                    Ok(()) => {}
                    Err(full) if full.kind() == ErrorKind::StorageFull => break,
                    Err(fault) => panic!("{fault}"),
                }
            }
        }
    }

    fn make_space(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(fault) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{}: {fault}", self.0.display());
        }
    }
}

#[test]
fn full_folder_of_sandboxes_fails_what_is_new_by_the_nodes_fault_and_ends_nothing() {
    machine::isolated(|| async {
        let mut leader = Leader::start(LONG_LEASE).await;
        let machine = Machine::new(&leader.url).await;
        let disk = Disk::mount(&machine.state().join("sandboxes"));
        let agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[]).await;
        let empty = machine.traces().await;
        for uid in [1, 2] {
            session.add(sandbox(uid)).await;
            session.reported(uid, Phase::Running).await;
        }
        let runs = machine.processes(1);
        disk.fill();
        session.add(sandbox(3)).await;
        let report = session.reported(3, Phase::Failed).await;
        assert_eq!(report.reason(), Reason::AgentError, "{report:?}");
        assert!(report.message.contains("No space left on device"), "{report:?}");
        disk.fill();
        // An agent that starts now finds what runs.
        agent.kill();
        drop(session);
        let _agent = machine.start();
        let mut session = leader.session().await;
        assert_eq!(session.known(1).phase(), Phase::Running);
        for uid in [2, 3] {
            session.remove(uid).await;
            session.reported(uid, Phase::Deleting).await;
        }
        disk.make_space();
        session.add(sandbox(4)).await;
        session.reported(4, Phase::Running).await;
        assert_eq!(machine.processes(1), runs);
        for uid in [1, 4] {
            session.remove(uid).await;
            session.reported(uid, Phase::Deleting).await;
        }
        machine.await_traces(&empty).await;
    });
}

#[test]
fn full_disk_still_takes_the_word_to_remove_and_converges_once_there_is_space() {
    machine::isolated(|| async {
        let mut leader = Leader::start(LONG_LEASE).await;
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::mount(folder.path());
        let machine = Machine::within(folder.path(), &leader.url).await;
        let _agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[sandbox(1), sandbox(2)]).await;
        session.reported(1, Phase::Running).await;
        session.reported(2, Phase::Running).await;
        let runs = machine.processes(1);
        disk.fill();
        session.remove(2).await;
        session.reported(2, Phase::Deleting).await;
        // Nothing is left, not even what is kept for this.
        std::fs::remove_file(machine.state().join("reserve")).ok();
        disk.fill();
        session.add(sandbox(3)).await;
        // What can't be written down is refused, with the conversation; and nothing else changes.
        assert!(
            session
                .reported_unless_it_leaves(3, Phase::Running)
                .await
                .is_none()
        );
        let mut session = leader.session().await;
        assert_eq!(session.known(1).phase(), Phase::Running);
        disk.make_space();
        session.desire(&[sandbox(1), sandbox(3)]).await;
        session.reported(3, Phase::Running).await;
        assert_eq!(machine.processes(1), runs);
    });
}

fn sandbox(uid: u64) -> wire::DesiredSandbox {
    desired(uid, &format!("s{uid}"), &one("sleep 600"))
}
