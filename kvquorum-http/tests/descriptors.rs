//! A server whose process may open few files.

// In a test a panic is how a broken promise shows.

mod common;

use std::io::{BufRead, BufReader, Read, Seek};
use std::process::Stdio;
use std::time::Duration;

use common::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Catches idle connections that keep all descriptors until they time out.
#[test]
fn idle_connections_make_room_where_descriptors_run_out() {
    let this = "idle_connections_make_room_where_descriptors_run_out";
    let Some(mut again) = again_with_few_files(64, this) else {
        return runtime().block_on(async {
            let (server, _store) = serve().await;
            println!("\n{}", server.local_addr());
            let ended = || std::io::stdin().read_to_end(&mut Vec::new());
            tokio::task::spawn_blocking(ended).await.unwrap().unwrap();
        });
    };
    let again = again.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = again.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut lines = stdout.by_ref().lines();
    let addr = lines.find_map(|line| line.unwrap().parse().ok()).unwrap();
    runtime().block_on(async {
        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.push(Raw::connect(addr).await);
        }
        answers(addr).await;
        // And those that have had an answer are as idle.
        for client in idle.iter_mut().skip(80) {
            let _ = client.stream.write_all(get_path("/none").as_bytes()).await;
        }
        for _ in 0..10 {
            answers(addr).await;
        }
    });
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn running_out_of_file_descriptors_passes() {
    let this = "running_out_of_file_descriptors_passes";
    let Some(mut again) = again_with_few_files(40, this) else {
        return runtime().block_on(out_of_files());
    };
    assert!(again.status().unwrap().success());
}

async fn out_of_files() {
    let (server, _store) = serve().await;
    let addr = server.local_addr();
    // Opened while it can be. Where the system has no such file, the processor
    // is not watched.
    let mut stat = std::fs::File::open("/proc/self/stat").ok();
    // On this thread the server accepts nothing before the test awaits. By
    // then no file is left to accept a connection with.
    let mut clients = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(addr) {
        stream.set_nonblocking(true).unwrap();
        clients.push(Raw::new(TcpStream::from_std(stream).unwrap()));
    }
    let mut last = clients.pop().unwrap();
    last.send(get_path("/read/k")).await;
    let early = tokio::time::timeout(SHORT, last.answer()).await;
    assert!(early.is_err(), "there was a file for every connection");

    // It waits meanwhile, and does not burn the processor.
    let before = stat.as_mut().map(processor_time);
    tokio::time::sleep(5 * SHORT).await;
    let used = stat.as_mut().map(processor_time);
    if let (Some(before), Some(used)) = (before, used) {
        assert!(used - before < SHORT / 2, "{:?}", used - before);
    }

    clients.clear();
    assert_eq!(last.answer().await.unwrap().status, 200);
}

/// What this process has used so far: user and system time, in hundredths of a
/// second, are the fields 14 and 15 of Linux's `/proc/self/stat`.
fn processor_time(stat: &mut std::fs::File) -> Duration {
    let mut text = String::new();
    stat.rewind().unwrap();
    stat.read_to_string(&mut text).unwrap();
    let (_, after_name) = text.rsplit_once(')').unwrap();
    let fields = after_name.split_whitespace().skip(11).take(2);
    let hundredths: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * hundredths)
}
