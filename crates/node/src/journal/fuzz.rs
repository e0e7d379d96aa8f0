//! Fuzz target of a record: a damaged file is refused, and any other is kept as it is.

use super::*;

#[test]
fn journal() {
    bolero::check!(name = "journal").for_each(|bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let Ok((id, record)) = Record::parse(text) else { return };
        assert_eq!(id.as_str(), record.workspace);
        assert!(!record.workspace.contains(['/', '.']), "it names a file");
        let kept = serde_json::to_string_pretty(&record).unwrap();
        assert_eq!(Record::parse(&kept).unwrap(), (id, record));
    });
}
