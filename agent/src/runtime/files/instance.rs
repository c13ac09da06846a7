//! The files of the container that holds a gVisor instance: a root with one program in it, which is written here, so
//! that nothing is asked of anyone's image.
//!
//! The program waits for ever. It is an ELF header, a program header and a handful of instructions.

use super::prepare::{PRIVATE, make_folder, unmade};
use super::{FilesError, INSTANCE, SandboxFiles};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The program, as the container sees it.
pub const IDLE: &str = "/idle";
const EXECUTABLE: u32 = 0o555;

/// All of it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFiles {
    pub rootfs: PathBuf,
    /// Empty, for `config.json`.
    pub bundle: PathBuf,
}

/// Makes the files; gone with what else was made for the sandbox.
///
/// # Errors
/// [`FilesError::Make`], also on a processor that the program is not written for.
pub fn prepare_instance(files: &SandboxFiles) -> Result<InstanceFiles, FilesError> {
    let dir = files.run.join(INSTANCE);
    let (rootfs, bundle) = (dir.join("rootfs"), dir.join("bundle"));
    for folder in [&dir, &rootfs, &bundle] {
        make_folder(folder, PRIVATE, 0)?;
    }
    let path = rootfs.join(IDLE.trim_start_matches('/'));
    program()
        .and_then(|program| fs::write(&path, program))
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(EXECUTABLE)))
        .map_err(unmade(&path))?;
    Ok(InstanceFiles { rootfs, bundle })
}

/// A processor's number in an ELF header, and instructions that wait for ever.
struct Machine {
    number: u16,
    code: &'static [u8],
}

const MACHINE: Option<Machine> = if cfg!(target_arch = "x86_64") {
    // pause(2), again and again.
    Some(Machine {
        number: 62,
        code: &[
            0xb8, 34, 0, 0, 0, // mov eax, 34
            0x0f, 0x05, // syscall
            0xeb, 0xf7, // jmp to the first one
        ],
    })
} else if cfg!(target_arch = "aarch64") {
    // ppoll(2) of nothing, without an end.
    Some(Machine {
        number: 183,
        code: &[
            0x00, 0x00, 0x80, 0xd2, // mov x0, 0
            0x01, 0x00, 0x80, 0xd2, // mov x1, 0
            0x02, 0x00, 0x80, 0xd2, // mov x2, 0
            0x03, 0x00, 0x80, 0xd2, // mov x3, 0
            0x28, 0x09, 0x80, 0xd2, // mov x8, 73
            0x01, 0x00, 0x00, 0xd4, // svc 0
            0xfa, 0xff, 0xff, 0x17, // b to the first one
        ],
    })
} else {
    None
};

/// Where the program is in its memory.
const BASE: u64 = 0x40_0000;
const ELF_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const PAGE: u64 = 0x1000;

/// System V ABI, chapter 4 and 5: an executable of 64 bits with one loaded segment, the whole file.
fn program() -> io::Result<Vec<u8>> {
    let Some(machine) = MACHINE else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "there is no such program for this processor",
        ));
    };
    let begin = u64::from(ELF_HEADER + PROGRAM_HEADER);
    let length = begin + machine.code.len() as u64;
    // 64 bits, little-endian, version 1.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    put(&2_u16.to_le_bytes()); // executable
    put(&machine.number.to_le_bytes());
    put(&1_u32.to_le_bytes()); // version
    put(&(BASE + begin).to_le_bytes()); // where it begins to run
    put(&u64::from(ELF_HEADER).to_le_bytes()); // where the program header is
    put(&0_u64.to_le_bytes()); // no sections
    put(&0_u32.to_le_bytes()); // flags
    for number in [ELF_HEADER, PROGRAM_HEADER, 1, 0, 0, 0] {
        put(&number.to_le_bytes());
    }
    put(&1_u32.to_le_bytes()); // loaded
    put(&5_u32.to_le_bytes()); // readable, executable
    for number in [0, BASE, BASE, length, length, PAGE] {
        put(&number.to_le_bytes());
    }
    put(machine.code);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn program_runs_until_it_is_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = SandboxFiles {
            dir: folder.path().to_owned(),
            run: folder.path().to_owned(),
            volumes: Default::default(),
            hosts: PathBuf::new(),
            host_name: PathBuf::new(),
            resolv_conf: PathBuf::new(),
            user_namespace: None,
        };
        let files = prepare_instance(&files).expect("made");
        let path = files.rootfs.join("idle");
        // A write to it by another test's child would be in the way of running it.
        let mut child = Command::new(&path).stdin(Stdio::null()).spawn().expect("it runs");
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it is there");
        assert!(stat.contains("(idle)"), "{stat}");
        assert_eq!(child.try_wait().expect("asked"), None);
        child.kill().expect("killed");
        let ended = child.wait().expect("ended");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
    }
}
