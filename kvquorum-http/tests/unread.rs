//! Clients that do not read their answers, and what they keep others from.

// In a test a panic is how a broken promise shows.

mod common;

use common::*;
use kvquorum_core::Entry;
use kvquorum_http::Server;
use tokio::io::AsyncReadExt;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Catches memory for bodies that is held, for as long as answering may take, by
/// whoever sends large batches and does not read; and that it is taken back from
/// one that holds none.
#[tokio::test]
async fn a_batch_that_waits_to_be_read_gives_up_the_memory_of_its_body() {
    let store = TestStore::new();
    let service = settings(&store)
        .max_total_body_len(256 * KIB)
        .body_timeout(NEVER)
        .build();
    let server = Server::builder()
        .write_timeout(NEVER)
        .bind("127.0.0.1:0", service)
        .await
        .unwrap();
    store.insert("k", Entry::new(version(1), vec![b'x'; MIB]));
    let mut deaf = Vec::new();
    for rest in [0, 200 * KIB] {
        let mut client = Raw::connect(server.local_addr()).await;
        // The last one does not begin before the others have been read.
        let mut batch = vec![b"\x00\x01k".to_vec(); 32];
        batch.push(vec![0xff; rest]);
        let answer = client.ask(post("/v2/call", requests(batch))).await;
        assert!(answer.is_chunked);
        // So that it is plain which is the oldest.
        tokio::time::sleep(SHORT / 4).await;
        deaf.push(client);
    }
    let value = "x".repeat(100 * KIB);
    let body = format!("{{\"key\":\"other\",\"value\":\"{value}\",\"timestamp\":1}}");
    let mut other = Raw::connect(server.local_addr()).await;
    assert_eq!(other.ask(post("/write", body)).await.status, 200);

    let mut has_end = Vec::new();
    for client in &mut deaf {
        let mut rest = Vec::new();
        let ended = async {
            // A reset is an end, too.
            while client.stream.read_buf(&mut rest).await.unwrap_or(0) > 0 {
                if rest.ends_with(b"\r\n0\r\n\r\n") {
                    return true;
                }
            }
            false
        };
        has_end.push(in_time(ended).await);
    }
    assert_eq!(has_end, [true, false]);
}
