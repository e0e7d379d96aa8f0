//! Fuzz target of the VMM's messages. The VMM may have been taken over by its guest.

use rigbox_testkit::Pieces;

use super::super::cause_of_end;
use super::*;

/// Rounds of queries: more than an input has lines for.
const MAX_ROUNDS: usize = 64;

/// Asks everything that the monitor asks, until the connection ends. Returns the answers.
async fn ask(stream: Pieces) -> Vec<String> {
    let mut answers = Vec::new();
    let mut qmp = match Qmp::open(stream).await {
        Ok(qmp) => qmp,
        Err(error) => return vec![checked(&error)],
    };
    for _ in 0..MAX_ROUNDS {
        let ended = qmp.has_guest_ended().await.map_err(|error| checked(&error));
        let event = qmp.next_event().await.map_err(|error| checked(&error));
        let tail = qmp.console_tail().await.map_err(|error| checked(&error));
        if let Ok(tail) = &tail {
            assert!(tail.len() as u64 <= u64::from(CONSOLE_TAIL_BYTES) + MAX_LINE_BYTES);
            let (_, detail) = cause_of_end(event.as_ref().ok().copied(), None, tail);
            assert!(!detail.contains('\n'));
        }
        let is_closed = tail.as_ref().is_err_and(|error| *error == QmpError::Closed.to_string());
        answers.push(format!("{ended:?} {event:?} {tail:?}"));
        if is_closed {
            break;
        }
    }
    answers
}

/// Returns the text of an error, which goes to the log.
fn checked(error: &QmpError) -> String {
    assert!(!matches!(error, QmpError::LongLine | QmpError::Timeout), "{error}");
    let text = error.to_string();
    assert!(text.len() <= 5000 && !text.contains(char::is_control), "{text:?}");
    text
}

#[test]
fn qmp() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bolero::check!(name = "qmp").for_each(|bytes: &[u8]| {
        let whole = runtime.block_on(ask(Pieces::whole(bytes)));
        let split = runtime.block_on(ask(Pieces::split(bytes)));
        assert_eq!(whole, split, "the end of a read makes no difference");
    });
}
