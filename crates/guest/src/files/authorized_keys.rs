//! Registered keys in a user's `authorized_keys`: a part between two marks is replaced, and every other line is the user's own.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{Failure, write};

const BEGIN: &str = "# Keys registered with Rigbox. Rigbox replaces the lines up to the next mark.";
const END: &str = "# End of the keys registered with Rigbox.";
/// Maximum size of the file: what is longer is left alone.
const MAX_BYTES: u64 = 1024 * 1024;
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Replaces the managed lines. Without any, a file that does not exist is not made.
pub(super) fn sync(path: &Path, keys: &mut impl Read) -> Result<(), Failure> {
    let failure = |error: io::Error| Failure::of(path, &error);
    let mut managed = String::new();
    keys.take(MAX_BYTES).read_to_string(&mut managed).map_err(failure)?;
    let before = match File::open(path) {
        Ok(file) => read(path, file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failure(error)),
    };
    let after = replaced(&before, &managed);
    if after == before {
        return Ok(());
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        write::make_directory(folder, FOLDER_MODE, false)?;
    }
    write::write(path, FILE_MODE, false, &mut after.as_bytes())
}

fn read(path: &Path, file: File) -> Result<String, Failure> {
    let mut text = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    if read.map_err(|error| Failure::of(path, &error))? as u64 > MAX_BYTES {
        return Err(Failure::bad_request(format!("{} is longer than 1 MiB.", path.display())));
    }
    Ok(text)
}

/// Returns the text with other managed lines.
fn replaced(text: &str, managed: &str) -> String {
    let mut own = String::new();
    let mut is_managed = false;
    for line in text.lines() {
        match line {
            BEGIN => is_managed = true,
            END => is_managed = false,
            _ if is_managed => {}
            _ => {
                own.push_str(line);
                own.push('\n');
            }
        }
    }
    if managed.is_empty() {
        return own;
    }
    let managed = managed.trim_end();
    format!("{own}{BEGIN}\n{managed}\n{END}\n")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn registered_keys_are_replaced_and_own_lines_stay() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".ssh/authorized_keys");
        let sync = |keys: &str| sync(&path, &mut keys.as_bytes()).unwrap();
        sync("");
        assert!(!path.exists());
        sync("ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("own first\n{text}own last")).unwrap();
        sync("ssh-ed25519 CCCC three\n");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("own first\nown last\n{BEGIN}\nssh-ed25519 CCCC three\n{END}\n"));
        sync("");
        assert_eq!(fs::read_to_string(&path).unwrap(), "own first\nown last\n");
    }
}
