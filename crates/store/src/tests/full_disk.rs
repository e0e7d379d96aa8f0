//! A disk that is full: the change is refused, and the next one is written as soon as there is space.

use super::*;

#[tokio::test]
async fn writes_succeed_after_one_for_which_there_was_no_space() {
    let f = fixture().await;
    let write = async || {
        let mut transaction = f.store.begin_write().await?;
        let grow = "INSERT INTO tombstones (workspace_id, node_id, deleted_at) VALUES (hex(zeroblob(100000)), '', 0)";
        sqlx::query(grow).execute(&mut *transaction).await?;
        transaction.commit().await.map_err(Error::from)
    };
    // As if the file system had no space for another page.
    sqlx::query("PRAGMA max_page_count = 1").execute(&f.store.writer).await.unwrap();
    let refused = write().await.unwrap_err();
    assert!(refused.to_string().contains("full"), "{refused}");
    // The limit was that connection's.
    write().await.unwrap();
}
