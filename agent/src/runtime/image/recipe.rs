//! How a layer's archive is made again, byte for byte, from the unpacked layer: an image that was pulled can be exported
//! with the name by which its configuration knows each layer, though no archive is kept.
//!
//! A recipe is all of the archive but the content of its files, which is a few per cent of it before compression. A
//! file of gzip: messages of [`LayerPiece`], each behind its length. Written by [`super::unpack`], read by
//! [`super::export`].

use crate::runtime::rooted::{Root, is};
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};
use prost::Message;
use proto::wire::layer_piece::Piece;
use proto::wire::{LayerFile, LayerPiece};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Raw bytes of one piece.
const PIECE: usize = 64 << 10;
/// Of an encoded piece; a path is at most 1 MiB long, see [`super::members`].
const MAX_PIECE: u32 = 2 << 20;

/// Why an archive can't be made again.
#[derive(Debug, thiserror::Error)]
pub enum RecipeFault {
    #[error("cannot read how it was made: {0}")]
    Read(#[source] io::Error),
    #[error("how it was made is damaged")]
    Damaged,
    #[error("cannot read `{path}` of it: {source}")]
    Content { path: PathBuf, source: io::Error },
    #[error("cannot write the archive: {0}")]
    Write(#[source] io::Error),
}

/// Takes a recipe down.
pub(super) struct RecipeWriter<W: Write> {
    out: GzEncoder<W>,
    raw: Vec<u8>,
    /// The file whose content is read now, and how much was.
    file: Option<(PathBuf, u64)>,
}

impl RecipeWriter<BufWriter<File>> {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::new(BufWriter::new(File::create(path)?)))
    }

    /// # Errors
    /// Where it can't be written or synced.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        let buffered = self.out.finish()?;
        buffered.into_inner().map_err(io::Error::from)?.sync_all()
    }
}

impl<W: Write> RecipeWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out: GzEncoder::new(out, flate2::Compression::fast()),
            raw: Vec::new(),
            file: None,
        }
    }

    /// What is read from here on is the content of that file of the layer.
    pub(super) fn enter(&mut self, path: &Path) {
        self.file = Some((path.to_owned(), 0));
    }

    /// What is read from here on is of the archive alone.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        match self.file.take() {
            Some((path, size)) if size > 0 => {
                self.flush_raw()?;
                let path = path.as_os_str().as_bytes().to_vec();
                self.piece(Piece::File(LayerFile { path, size }))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn saw(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some((_, size)) = &mut self.file {
            *size += bytes.len() as u64;
            return Ok(());
        }
        for part in bytes.chunks(PIECE) {
            if self.raw.len() + part.len() > PIECE {
                self.flush_raw()?;
            }
            self.raw.extend_from_slice(part);
        }
        Ok(())
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let raw = std::mem::take(&mut self.raw);
        self.piece(Piece::Raw(raw))
    }

    fn piece(&mut self, piece: Piece) -> io::Result<()> {
        let bytes = LayerPiece { piece: Some(piece) }.encode_to_vec();
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&bytes)
    }
}

/// An archive whose recipe is taken down as it is read.
pub(super) struct Recording<'a, R, W: Write> {
    pub(super) archive: R,
    pub(super) recipe: &'a RefCell<RecipeWriter<W>>,
}

impl<R: Read, W: Write> Read for Recording<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(buffer)?;
        self.recipe.borrow_mut().saw(&buffer[..read])?;
        Ok(read)
    }
}

/// How long the archive will be.
///
/// # Errors
/// [`RecipeFault`].
pub(super) fn length(recipe: &Path) -> Result<u64, RecipeFault> {
    let mut length = 0u64;
    for_each_piece(recipe, |piece| {
        let size = match piece {
            Piece::Raw(bytes) => bytes.len() as u64,
            Piece::File(file) => file.size,
        };
        length = length.checked_add(size).ok_or(RecipeFault::Damaged)?;
        Ok(())
    })?;
    Ok(length)
}

/// Makes the archive again. Whether it is the same, its digest tells the caller.
///
/// # Errors
/// [`RecipeFault`]; a part of the archive may be written by then.
pub(super) fn rebuild(recipe: &Path, layer: &Path, out: &mut impl Write) -> Result<(), RecipeFault> {
    let content = |path: &Path| {
        let path = path.to_owned();
        move |source| RecipeFault::Content { path, source }
    };
    let root = Root::open(layer).map_err(|e| content(layer)(e.into()))?;
    for_each_piece(recipe, |piece| match piece {
        Piece::Raw(bytes) => out.write_all(&bytes).map_err(RecipeFault::Write),
        Piece::File(LayerFile { path, size }) => {
            let path = Path::new(OsStr::from_bytes(&path));
            // Never waits, should a fifo have taken its place.
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let fd = root.open_at(path, flags).map_err(|e| content(path)(e.into()))?;
            let stat = fstat(&fd).map_err(|e| content(path)(e.into()))?;
            if !is(&stat, SFlag::S_IFREG) || u64::try_from(stat.st_size) != Ok(size) {
                // A later member of the archive has replaced it: its content is gone.
                return Err(content(path)(io::ErrorKind::NotFound.into()));
            }
            let copied = io::copy(&mut File::from(fd).take(size), out).map_err(content(path))?;
            (copied == size).then_some(()).ok_or(RecipeFault::Damaged)
        }
    })
}

fn for_each_piece(
    recipe: &Path,
    mut each: impl FnMut(Piece) -> Result<(), RecipeFault>,
) -> Result<(), RecipeFault> {
    let file = File::open(recipe).map_err(RecipeFault::Read)?;
    let mut reader = BufReader::new(GzDecoder::new(BufReader::new(file)));
    loop {
        let mut length = [0; 4];
        match reader.read(&mut length[..1]).map_err(RecipeFault::Read)? {
            0 => return Ok(()),
            _ => reader.read_exact(&mut length[1..]).map_err(RecipeFault::Read)?,
        }
        let length = u32::from_le_bytes(length);
        if length > MAX_PIECE {
            return Err(RecipeFault::Damaged);
        }
        let mut bytes = vec![0; length as usize];
        reader.read_exact(&mut bytes).map_err(RecipeFault::Read)?;
        let piece = LayerPiece::decode(bytes.as_slice()).map_err(|_| RecipeFault::Damaged)?;
        each(piece.piece.ok_or(RecipeFault::Damaged)?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first release has written it: 5 raw bytes, the 4 of `dir/file`, 1 raw byte.
    const GOLDEN: &[&[u8]] = &[
        b"\x07\0\0\0\x0a\x05first",
        b"\x0e\0\0\0\x12\x0c\x0a\x08dir/file\x10\x04",
        b"\x03\0\0\0\x0a\x01.",
    ];

    fn written() -> Vec<u8> {
        let mut recipe = RecipeWriter::new(Vec::new());
        recipe.saw(b"fi").expect("noted");
        recipe.saw(b"rst").expect("noted");
        recipe.enter(Path::new("dir/file"));
        recipe.saw(b"body").expect("noted");
        recipe.leave().expect("noted");
        recipe.enter(Path::new("empty"));
        recipe.leave().expect("noted");
        recipe.saw(b".").expect("noted");
        recipe.flush_raw().expect("noted");
        recipe.out.finish().expect("written")
    }

    #[test]
    fn recipe_is_written_as_ever() {
        let mut plain = Vec::new();
        GzDecoder::new(written().as_slice())
            .read_to_end(&mut plain)
            .expect("gzip");
        assert_eq!(plain, GOLDEN.concat());
    }

    #[track_caller]
    fn check(recipe: &[u8], content: Option<&str>, want: Result<&str, &str>) {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, layer) = (dir.path().join("recipe"), dir.path().join("layer"));
        std::fs::write(&path, recipe).expect("written");
        std::fs::create_dir_all(layer.join("dir")).expect("made");
        if let Some(content) = content {
            std::fs::write(layer.join("dir/file"), content).expect("written");
        }
        let mut out = Vec::new();
        match (rebuild(&path, &layer, &mut out), want) {
            (Ok(()), Ok(want)) => {
                assert_eq!(out, want.as_bytes());
                assert_eq!(length(&path).expect("read"), want.len() as u64);
            }
            (Err(fault), Err(why)) => assert!(fault.to_string().contains(why), "{fault}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn archive_is_made_again_or_it_is_said_why_not() {
        let recipe = written();
        check(&recipe, Some("body"), Ok("firstbody."));
        check(&recipe, Some("longer"), Err("cannot read `dir/file`"));
        check(&recipe, None, Err("cannot read `dir/file`"));
        check(&recipe[..recipe.len() - 10], Some("body"), Err("cannot read how"));
        check(b"no gzip", Some("body"), Err("cannot read how"));
        let mut long = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        long.write_all(&[0xff; 8]).expect("written");
        check(&long.finish().expect("written"), None, Err("is damaged"));
    }
}
