//! Files of memory images on the volume, and where their memory comes from and goes to.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rigbox_core::ids::WorkspaceId;
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};

use super::MemoryKey;
use super::sealed::{SealedReader, SealedWriter, Sparse, Stream};
use crate::durable::sync_dir;
use crate::error::Error;

/// Added to the name of an image that is not complete yet.
const PARTIAL_EXTENSION: &str = "new";
/// Files of Firecracker's memory image, in the order of their parts.
const FIRECRACKER_FILES: [&str; 2] = ["state", "memory"];

/// Memory images of this node.
#[derive(Debug)]
pub(crate) struct Images {
    dir: PathBuf,
}

/// Where the memory of a VM comes from while it is saved.
pub(crate) enum Source {
    /// Pipe that QEMU writes to.
    Pipe(MemoryPipe),
    /// Folder that Firecracker of this uid has written to.
    Folder { folder: OwnedFd, uid: u32 },
}

/// Pipe whose memory a thread encrypts.
pub(crate) struct MemoryPipe(JoinHandle<io::Result<File>>);

/// Image that was taken from the disk.
pub(crate) struct Opened(File);

impl Images {
    pub(crate) fn open(volume: &Path) -> Result<Self, Error> {
        let dir = volume.join("memory");
        fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
        Ok(Self { dir })
    }

    fn path(&self, workspace: &WorkspaceId) -> PathBuf {
        self.dir.join(format!("{workspace}.memory"))
    }

    fn partial(&self, workspace: &WorkspaceId) -> PathBuf {
        self.path(workspace).with_added_extension(PARTIAL_EXTENSION)
    }

    /// Begins an image, of which nothing counts until it is complete.
    fn create(&self, workspace: &WorkspaceId) -> Result<File, Error> {
        self.remove(workspace)?;
        let path = self.partial(workspace);
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, mode);
        Ok(File::from(file.map_err(|errno| Error::at("create", &path)(errno.into()))?))
    }

    /// Begins an image of at most `limit` bytes from what is written to the pipe that is returned.
    pub(crate) fn create_from_pipe(
        &self,
        workspace: &WorkspaceId,
        key: &MemoryKey,
        limit: u64,
    ) -> Result<(OwnedFd, MemoryPipe), Error> {
        let file = self.create(workspace)?;
        let (reader, writer) = io::pipe().map_err(Error::system("create a pipe"))?;
        let key = key.clone();
        let thread = std::thread::Builder::new().name("memory".into()).spawn(move || {
            let mut sealed = SealedWriter::new(file, &key)?;
            sealed.write_part(reader, limit)?;
            sealed.finish()
        });
        Ok((writer.into(), MemoryPipe(thread.map_err(Error::system("start a thread"))?)))
    }

    /// Completes an image of at most `limit` bytes. It is durable on return.
    pub(crate) fn complete(
        &self,
        workspace: &WorkspaceId,
        key: &MemoryKey,
        source: Source,
        limit: u64,
    ) -> Result<(), Error> {
        let (path, partial) = (self.path(workspace), self.partial(workspace));
        let file = match source {
            Source::Pipe(MemoryPipe(thread)) => {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
            }
            Source::Folder { folder, uid } => seal_files(self.create(workspace)?, &folder, uid, key, limit),
        };
        let written = file
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&partial, &path))
            .and_then(|()| sync_dir(&self.dir));
        written.map_err(Error::at("write memory image", &path))
    }

    /// Opens an image and removes it, so that it is used once.
    pub(crate) fn take(&self, workspace: &WorkspaceId) -> Result<Opened, Error> {
        let path = self.path(workspace);
        let file = File::open(&path).map_err(Error::at("open memory image", &path))?;
        self.remove(workspace)?;
        Ok(Opened(file))
    }

    /// Removes the image of a workspace, if there is one.
    pub(crate) fn remove(&self, workspace: &WorkspaceId) -> Result<(), Error> {
        let mut removed = false;
        for path in [self.path(workspace), self.partial(workspace)] {
            match fs::remove_file(&path) {
                Ok(()) => removed = true,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::at("remove", &path)(error)),
            }
        }
        if removed { sync_dir(&self.dir).map_err(Error::at("write", &self.dir)) } else { Ok(()) }
    }
}

impl Opened {
    /// Returns a pipe from which QEMU reads the memory. An image that is not whole ends too early, which QEMU notices.
    ///
    /// # Errors
    /// It begins with something else, or has another key: QEMU would wait for more.
    pub(crate) fn into_pipe(mut self, key: MemoryKey) -> Result<OwnedFd, Error> {
        let first = SealedReader::new(&self.0, &key).and_then(|mut sealed| sealed.check_next());
        first.and_then(|()| self.0.rewind()).map_err(Error::system("read a memory image"))?;
        let (reader, writer) = io::pipe().map_err(Error::system("create a pipe"))?;
        let thread = std::thread::Builder::new().name("memory".into()).spawn(move || {
            let mut sink = Stream(writer);
            let read = SealedReader::new(self.0, &key).and_then(|mut sealed| {
                sealed.read_part(&mut sink)?;
                sealed.finish()
            });
            if let Err(error) = read {
                tracing::warn!(%error, "failed to read a memory image");
            }
        });
        thread.map_err(Error::system("start a thread"))?;
        Ok(reader.into())
    }

    /// Writes the memory to the folder of a Firecracker of this uid.
    pub(crate) fn into_folder(self, key: &MemoryKey, folder: &OwnedFd, uid: u32) -> io::Result<()> {
        let mut sealed = SealedReader::new(self.0, key)?;
        for name in FIRECRACKER_FILES {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat2(folder, name, flags, Mode::RUSR | Mode::WUSR, BENEATH)?;
            rustix::fs::fchown(&file, Some(rustix::fs::Uid::from_raw(uid)), None)?;
            let mut sparse = Sparse::new(file.into());
            sealed.read_part(&mut sparse)?;
            sparse.finish()?;
        }
        sealed.finish()
    }
}

/// Removes what [`Opened::into_folder`] has written. The VMM has it open.
pub(crate) fn empty_folder(folder: impl AsFd) -> io::Result<()> {
    for name in FIRECRACKER_FILES {
        match rustix::fs::unlinkat(&folder, name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Way to a file in a folder of a VMM, which may have put anything there.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// Encrypts the files of Firecracker's image.
fn seal_files(file: File, folder: &OwnedFd, uid: u32, key: &MemoryKey, limit: u64) -> io::Result<File> {
    let mut sealed = SealedWriter::new(file, key)?;
    for name in FIRECRACKER_FILES {
        // Not blocking: it may be a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = openat2(folder, name, flags, Mode::empty(), BENEATH)?;
        let stat = fstat(&from)?;
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        if !is_file || stat.st_uid != uid {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("`{name}` is no file of the VMM")));
        }
        sealed.write_part(File::from(from), limit)?;
    }
    sealed.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    const LIMIT: u64 = 1 << 20;
    const UID: u32 = 65_534;

    struct Fixture {
        volume: tempfile::TempDir,
        images: Images,
        id: WorkspaceId,
        key: MemoryKey,
    }

    impl Fixture {
        fn new() -> Self {
            let volume = tempfile::tempdir().unwrap();
            let images = Images::open(volume.path()).unwrap();
            let key = MemoryKey::from_bytes(&[1; 32]).unwrap();
            Self { images, volume, id: WorkspaceId::from_random([1; 5]), key }
        }

        /// Makes a folder with the files of a Firecracker.
        fn folder(&self, name: &str) -> (PathBuf, OwnedFd) {
            let path = self.volume.path().join(name);
            fs::create_dir(&path).unwrap();
            for file in FIRECRACKER_FILES {
                fs::write(path.join(file), file.repeat(1000)).unwrap();
                chown(path.join(file), Some(UID), None).unwrap();
            }
            let folder = File::open(&path).unwrap().into();
            (path, folder)
        }

        fn complete(&self, folder: OwnedFd) -> Result<(), Error> {
            self.images.complete(&self.id, &self.key, Source::Folder { folder, uid: UID }, LIMIT)
        }

        fn files(&self) -> usize {
            fs::read_dir(self.volume.path().join("memory")).unwrap().count()
        }
    }

    #[test]
    fn files_of_a_vmm_come_back_and_their_image_is_used_once() {
        let fixture = Fixture::new();
        let (_, folder) = fixture.folder("from");
        fixture.complete(folder).unwrap();
        let target = fixture.volume.path().join("to");
        fs::create_dir(&target).unwrap();
        let folder: OwnedFd = File::open(&target).unwrap().into();
        let opened = fixture.images.take(&fixture.id).unwrap();
        assert_eq!(fixture.files(), 0, "it could be used again");
        opened.into_folder(&fixture.key, &folder, UID).unwrap();
        for file in FIRECRACKER_FILES {
            assert_eq!(fs::read_to_string(target.join(file)).unwrap(), file.repeat(1000));
        }
        for _ in 0..2 {
            empty_folder(&folder).unwrap();
        }
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        assert!(fixture.images.take(&fixture.id).is_err());
    }

    #[test]
    fn nothing_but_files_of_the_vmm_is_read() {
        let fixture = Fixture::new();
        let secret = fixture.volume.path().join("secret");
        fs::write(&secret, "of another").unwrap();
        let tricks: [fn(&Path, &Path); 4] = [
            |file, secret| symlink(secret, file).unwrap(),
            |file, secret| fs::hard_link(secret, file).unwrap(),
            |file, _| nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            |file, _| {
                fs::write(file, vec![1; LIMIT as usize + 1]).unwrap();
                chown(file, Some(UID), None).unwrap();
            },
        ];
        for (number, trick) in tricks.into_iter().enumerate() {
            let (path, folder) = fixture.folder(&number.to_string());
            let file = path.join("memory");
            fs::remove_file(&file).unwrap();
            trick(&file, &secret);
            fixture.complete(folder).unwrap_err();
            assert!(!fixture.images.path(&fixture.id).exists(), "{number}");
        }
        fixture.images.remove(&fixture.id).unwrap();
        assert_eq!(fixture.files(), 0);
    }

    #[test]
    fn memory_from_a_pipe_comes_back_through_a_pipe() {
        use std::io::{Read as _, Write as _};
        let fixture = Fixture::new();
        let (pipe, thread) = fixture.images.create_from_pipe(&fixture.id, &fixture.key, LIMIT).unwrap();
        File::from(pipe).write_all(&[5; 300_000]).unwrap();
        fixture.images.complete(&fixture.id, &fixture.key, Source::Pipe(thread), LIMIT).unwrap();
        let opened = fixture.images.take(&fixture.id).unwrap();
        let mut read = Vec::new();
        File::from(opened.into_pipe(fixture.key.clone()).unwrap()).read_to_end(&mut read).unwrap();
        assert_eq!(read, [5; 300_000]);

        let (pipe, thread) = fixture.images.create_from_pipe(&fixture.id, &fixture.key, LIMIT).unwrap();
        drop(pipe);
        fixture.images.complete(&fixture.id, &fixture.key, Source::Pipe(thread), LIMIT).unwrap();
        let other = MemoryKey::from_bytes(&[2; 32]).unwrap();
        fixture.images.take(&fixture.id).unwrap().into_pipe(other).unwrap_err();
    }
}
