//! One protobuf message in one file: replaced as a whole or not at all, and never believed when damaged.
//! Owns the form of such files; knows nothing of what they mean. Called by `ledger`, `lease` and `record`.
//!
//! ```text
//! 4 bytes  magic, which says what the file is
//! 4 bytes  CRC-32 of the message, little endian
//! rest     the message
//! ```

use prost::Message;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const HEADER: usize = 8;
/// What sandboxes run and with which secrets in their environment is nobody's business.
const PRIVATE: u32 = 0o600;

/// Why a file can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    #[error("cannot {act} {}: {source}", path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is damaged: {why}", path.display())]
    Damaged { path: PathBuf, why: &'static str },
}

/// How much a write outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process.
    Process,
    /// A power cut.
    Power,
}

/// Replaces the file at `path`.
///
/// # Errors
/// [`SealedError::Io`]; the former content is there still, unless the last step failed, the sync of the folder.
pub fn write(
    path: &Path,
    magic: [u8; 4],
    message: &impl Message,
    durability: Durability,
) -> Result<(), SealedError> {
    let fail = |act, path: &Path| {
        let path = path.to_owned();
        move |source| SealedError::Io { act, path, source }
    };
    let body = message.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    let aside = path.with_extension("new");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(PRIVATE);
    let mut file = options.open(&aside).map_err(fail("make", &aside))?;
    file.write_all(&bytes).map_err(fail("write", &aside))?;
    if durability == Durability::Power {
        file.sync_data().map_err(fail("sync", &aside))?;
    }
    fs::rename(&aside, path).map_err(fail("replace", path))?;
    if durability == Durability::Power {
        let folder = path.parent().unwrap_or(Path::new("/"));
        File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(fail("sync", folder))?;
    }
    Ok(())
}

/// The message at `path`; `None` where there is no such file.
///
/// # Errors
/// [`SealedError::Damaged`] where the file is not what was written.
pub fn read<M: Message + Default>(path: &Path, magic: [u8; 4]) -> Result<Option<M>, SealedError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(SealedError::Io {
                act: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    let damaged = |why| SealedError::Damaged {
        path: path.to_owned(),
        why,
    };
    let (header, body) = bytes
        .split_at_checked(HEADER)
        .ok_or_else(|| damaged("it is cut off"))?;
    let (kind, sum) = header.split_at(4);
    if kind != magic {
        return Err(damaged("it is a file of another kind"));
    }
    if sum != crc32fast::hash(body).to_le_bytes() {
        return Err(damaged("its checksum is wrong"));
    }
    M::decode(body)
        .map(Some)
        .map_err(|_| damaged("its content is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::{self, Version};

    const MAGIC: [u8; 4] = *b"TEST";
    const MESSAGE: Version = Version { term: 7, index: 9 };

    #[track_caller]
    fn check_damaged(damage: impl FnOnce(&mut Vec<u8>), part: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        write(&path, MAGIC, &MESSAGE, Durability::Power).expect("written");
        let mut bytes = fs::read(&path).expect("read");
        damage(&mut bytes);
        fs::write(&path, bytes).expect("written");
        let error = read::<Version>(&path, MAGIC)
            .expect_err("it is damaged")
            .to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn written_message_is_read_back_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        assert_eq!(read::<Version>(&path, MAGIC).expect("no file"), None);
        for durability in [Durability::Process, Durability::Power] {
            write(&path, MAGIC, &MESSAGE, durability).expect("written");
            assert_eq!(read(&path, MAGIC).expect("read"), Some(MESSAGE));
        }
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }

    /// Bytes of every form that was ever written stay readable: `hex` is never changed, only added to.
    #[track_caller]
    fn check_golden<M: Message + Default + PartialEq + std::fmt::Debug>(
        message: &M,
        magic: [u8; 4],
        hex: &str,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        write(&path, magic, message, Durability::Process).expect("written");
        assert_eq!(hex::encode(fs::read(&path).expect("read")), hex);
        fs::write(&path, hex::decode(hex).expect("hex")).expect("written");
        assert_eq!(read::<M>(&path, magic).expect("read").as_ref(), Some(message));
    }

    #[test]
    fn stored_forms_are_read_for_ever() {
        let report = wire::SandboxReport {
            sandbox_id: "s".to_owned(),
            uid: 7,
            phase: wire::Phase::Running.into(),
            ip: "10.89.0.2".to_owned(),
            timings_ms: [("pull".to_owned(), 3)].into(),
            ..Default::default()
        };
        let record = wire::SandboxRecord {
            stage: wire::sandbox_record::Stage::Running.into(),
            report: Some(report),
            first_user_id: 0,
        };
        check_golden(
            &record,
            *b"SBXR",
            "5342585289e02da70803121c0a017310071803320931302e38392e302e3242080a0470756c6c1003",
        );
        let mapped = wire::SandboxRecord {
            first_user_id: 1 << 28,
            ..record
        };
        check_golden(
            &mapped,
            *b"SBXR",
            "53425852682a4d300803121c0a017310071803320931302e38392e302e3242080a0470756c6c1003188080808001",
        );
        let desired = wire::DesiredSandbox {
            sandbox_id: "s".to_owned(),
            uid: 7,
            ..Default::default()
        };
        let ledger = wire::Ledger {
            accepted: Some(MESSAGE),
            boot_id: "b".to_owned(),
            sandboxes: vec![wire::LedgerSandbox {
                desired: Some(desired),
                expires_at_boot_ms: 9,
            }],
        };
        check_golden(
            &ledger,
            *b"SBXL",
            "5342584c50d089520a04080710091201621a090a050a017310071009",
        );
        let lease = wire::LeaseRecord {
            boot_id: "b".to_owned(),
            until_boot_ms: 9,
        };
        check_golden(&lease, *b"SBXT", "53425854623d634c0a01621009");
    }

    #[test]
    fn damaged_file_is_told_from_a_good_one() {
        check_damaged(|b| b.truncate(5), "cut off");
        check_damaged(|b| b.truncate(10), "checksum");
        check_damaged(|b| b[9] ^= 1, "checksum");
        check_damaged(|b| b[0] = b'X', "another kind");
        check_damaged(Vec::clear, "cut off");
    }
}
