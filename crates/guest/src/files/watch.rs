//! Changes in a directory, or of a file (inotify(7)).

use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use rigbox_proto::guest::FileEvent;
use rigbox_proto::guest::file_event::Kind;

use super::{Failure, write_message};

/// Writes an event per change, until killed or until what is watched is gone. The first event says that the watch is in place.
pub(super) fn watch(path: &Path) -> Result<(), Failure> {
    let failure = |error: std::io::Error| Failure::of(path, &error);
    let system = |errno: nix::Error| failure(errno.into());
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(system)?;
    let kinds = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    inotify.add_watch(path, kinds).map_err(system)?;
    write_message(&FileEvent { kind: Kind::Watching.into(), name: String::new() }).map_err(failure)?;
    loop {
        for event in inotify.read_events().map_err(system)? {
            let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_UNMOUNT;
            if event.mask.intersects(gone) {
                return Ok(());
            }
            if let Some(kind) = kind_of(&event) {
                let name = event.name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                write_message(&FileEvent { kind: kind.into(), name }).map_err(failure)?;
            }
        }
    }
}

fn kind_of(event: &InotifyEvent) -> Option<Kind> {
    let has = |flags| event.mask.intersects(flags);
    if has(AddWatchFlags::IN_Q_OVERFLOW) {
        Some(Kind::Lost)
    } else if has(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
        Some(Kind::Created)
    } else if has(AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB) {
        Some(Kind::Changed)
    } else if has(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_DELETE_SELF) {
        Some(Kind::Removed)
    } else {
        None
    }
}
