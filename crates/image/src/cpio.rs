//! Writes a `newc` cpio archive, the format of an initramfs: files and folders only, all owned by root.

/// Every entry begins at a multiple of this, and so does every file's content.
const ALIGN: usize = 4;

/// The last part of an initramfs: `init` as `/init`, to be put behind an image's `modules.cpio`.
pub fn init_archive(init: &[u8]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    cpio.add_program("init", init);
    cpio.finish()
}

/// An archive that grows in memory.
#[derive(Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// Adds a folder; the kernel makes no missing parents, so add these first.
    pub fn add_folder(&mut self, path: &str) {
        self.entry(path, 0o040_755, 2, &[]);
    }

    /// Adds a regular file that root may read.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, 0o100_644, 1, content);
    }

    /// Adds a program that everybody may run.
    pub fn add_program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, 0o100_755, 1, content);
    }

    /// Ends the archive. Another archive may follow it: the kernel reads concatenated ones.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 1, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, content: &[u8]) {
        self.entries += 1;
        // Modules are a few hundred kilobytes; the format's 4 GiB limit is out of their reach.
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // ino, mode, uid, gid, nlink, mtime, size, device (2), special device (2), name size, checksum. No
        // times: the same modules give the same archive.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: path, mode and content of each entry.
    fn read(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let (mut at, mut entries) = (0, Vec::new());
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let text = |n: usize| std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            let field = |n: usize| u32::from_str_radix(text(n), 16).unwrap();
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[at + 110..at + 109 + name_size].to_vec()).unwrap();
            if name == "TRAILER!!!" {
                return entries;
            }
            let content = (at + 110 + name_size).next_multiple_of(4);
            entries.push((name, mode, bytes[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
    }

    #[test]
    fn init_is_a_program_at_the_root() {
        assert_eq!(read(&init_archive(b"ELF")), [("init".to_owned(), 0o100755, b"ELF".to_vec())]);
    }

    #[test]
    fn what_is_put_in_comes_out() {
        let mut cpio = Cpio::default();
        cpio.add_folder("modules");
        cpio.file("modules/00-a.ko", b"12345");
        cpio.file("modules/01-bc.ko", b"");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 4, 0, "a second archive may follow");
        assert_eq!(
            read(&bytes),
            [
                ("modules".to_owned(), 0o040755, vec![]),
                ("modules/00-a.ko".to_owned(), 0o100644, b"12345".to_vec()),
                ("modules/01-bc.ko".to_owned(), 0o100644, vec![]),
            ]
        );
    }
}
