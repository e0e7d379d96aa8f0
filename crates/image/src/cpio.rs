//! Writer for `newc` cpio archives, the format of an initramfs. Supports files and folders, all owned by root.

/// Alignment of every entry and of every file's content.
const ALIGNMENT: usize = 4;

/// Builds the last part of an initramfs: `init` as `/init`, to be appended to an image's `modules.cpio`.
pub fn init_archive(init: &[u8]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    cpio.add_program("init", init);
    cpio.finish()
}

/// Archive in memory.
#[derive(Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// Adds a folder. Parents have to be added first, because the kernel does not create them.
    pub fn add_folder(&mut self, path: &str) {
        self.add_entry(path, 0o040_755, 2, &[]);
    }

    /// Adds a regular file.
    pub(crate) fn add_file(&mut self, path: &str, content: &[u8]) {
        self.add_entry(path, 0o100_644, 1, content);
    }

    /// Adds an executable file.
    pub fn add_program(&mut self, path: &str, content: &[u8]) {
        self.add_entry(path, 0o100_755, 1, content);
    }

    /// Finishes the archive. Another archive may follow it, because the kernel accepts concatenated archives.
    pub fn finish(mut self) -> Vec<u8> {
        self.add_entry("TRAILER!!!", 0, 1, &[]);
        self.bytes
    }

    fn add_entry(&mut self, path: &str, mode: u32, links: u32, content: &[u8]) {
        self.entries += 1;
        // Files are at most some megabytes, far below the format's limit of 4 GiB.
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // ino, mode, uid, gid, nlink, mtime, size, device (2), special device (2), name size, checksum. The time
        // is 0, so that archives are reproducible.
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
        let padded = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses an archive into path, mode and content of each entry.
    fn parse(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
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
    fn init_is_executable_at_the_root() {
        assert_eq!(parse(&init_archive(b"ELF")), [("init".to_owned(), 0o100755, b"ELF".to_vec())]);
    }

    #[test]
    fn entries_survive_a_round_trip() {
        let mut cpio = Cpio::default();
        cpio.add_folder("modules");
        cpio.add_file("modules/00-a.ko", b"12345");
        cpio.add_file("modules/01-bc.ko", b"");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 4, 0, "a second archive may follow");
        assert_eq!(
            parse(&bytes),
            [
                ("modules".to_owned(), 0o040755, vec![]),
                ("modules/00-a.ko".to_owned(), 0o100644, b"12345".to_vec()),
                ("modules/01-bc.ko".to_owned(), 0o100644, vec![]),
            ]
        );
    }
}
