use super::*;

/// Catches keys that stay when nobody updates them any more, and keys that go while
/// somebody waits.
#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_forgotten() {
    let (turns, key) = (Turns::default(), Key::from("k"));
    let second = Duration::from_secs(1);
    let first = turns.wait(&key, second).await;
    assert!(first.held.is_some());
    let too_late = turns.wait(&key, second).await;
    assert!(too_late.held.is_none());
    drop(too_late);
    // One that leaves while it waits.
    let left = timeout(second / 2, turns.wait(&key, second)).await;
    assert!(left.is_err());
    assert_eq!(turns.keys().len(), 1);

    let waiting = turns.wait(&key, second);
    let ended = async {
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(turns.keys().len(), 1);
    };
    let (second, ()) = tokio::join!(waiting, ended);
    assert!(second.held.is_some());
    drop(second);
    assert!(turns.keys().is_empty());
}
