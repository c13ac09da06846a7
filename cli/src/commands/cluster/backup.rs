//! `sbxctl cluster backup`: the whole state into a file, which `sbxorch restore` makes a new cluster of.

use crate::args::ClusterBackupArgs;
use crate::failure::Failure;
use crate::invocation::Invocation;
use proto::backup::{self, BackupError, Course};
use proto::wire::backup_part::Part;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// It holds hashes of tokens, and all that sandboxes were given as their environment.
const PRIVATE: u32 = 0o600;

pub(super) async fn run(args: &ClusterBackupArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("cluster backup")?;
    let mut parts = invocation.client()?.backup(args.stale).await?;
    let path = std::path::absolute(&args.file).unwrap_or_else(|_| args.file.clone());
    let mut unfinished = Unfinished::create(&path)?;
    let mut course = Course::default();
    let failed = |source: io::Error| Failure::WriteFile {
        path: path.clone(),
        source,
    };
    while let Some(message) = parts.next().await? {
        let Some(part) = &message.part else { continue };
        course.take(part).map_err(damaged)?;
        unfinished
            .file
            .write_all(&backup::frame(&message))
            .map_err(failed)?;
        if let Part::Start(start) = part {
            let files = start
                .manifest
                .as_ref()
                .map_or(&[][..], |manifest| &manifest.files);
            let bytes: u64 = files.iter().map(|file| file.len).sum();
            invocation.note(format_args!(
                "replica {} sends {} files of {bytes} bytes",
                start.taken_by,
                files.len()
            ));
        }
    }
    if !course.has_ended() {
        return Err(damaged(BackupError::Cut(course.bytes)));
    }
    unfinished.finish().map_err(failed)?;
    invocation.say(format_args!(
        "{} written, {} bytes of state",
        path.display(),
        course.bytes
    ))
}

fn damaged(error: BackupError) -> Failure {
    Failure::NeverComes(format!("what the replica has sent is no whole backup: {error}"))
}

/// Becomes the file, or goes.
struct Unfinished {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    is_whole: bool,
}

impl Unfinished {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let temporary = PathBuf::from(name);
        let failed = |source| Failure::WriteFile {
            path: temporary.clone(),
            source,
        };
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            Ok(()) | Err(_) => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(PRIVATE)
            .open(&temporary)
            .map_err(failed)?;
        let mut unfinished = Self {
            path: path.to_owned(),
            temporary: temporary.clone(),
            file: BufWriter::new(file),
            is_whole: false,
        };
        unfinished.file.write_all(&backup::MARK).map_err(failed)?;
        Ok(unfinished)
    }

    /// On stable storage, under its name.
    fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        self.is_whole = true;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        File::open(folder)?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_whole {
            // That it stays is not worth hiding the cause.
            std::fs::remove_file(&self.temporary).ok();
        }
    }
}
