//! A replica that was given back what it held before a delete was collected. Each other one
//! has kept its own.

use kvquorum_core::{
    Ack, Bytes, Edit, Entry, Era, Key, KeyRange, PassSettings, Record, RejoinError, RequestKind,
    Response, Status, Version, WriterId,
};

use super::cluster::{Cluster, Map, Next, now, succeeded};

/// Keys that were deleted, and that were not, and who was given back what of which round.
struct Restored {
    cluster: Cluster,
    of: usize,
}

const KEYS: [&str; 3] = ["a", "b", "c"];

/// A backup of one replica from before keys were deleted; then they were, and the delete was
/// collected at some of the others; then the backup is restored.
async fn restored(of: usize, collected: &[usize]) -> Restored {
    let cluster = Cluster::new();
    let map = cluster.map();
    for key in KEYS {
        map.put(key, "old").await.unwrap();
        map.put(format!("{key}-kept"), "kept").await.unwrap();
    }
    let backup = cluster.places[of].backup();
    for key in KEYS {
        map.delete(key).await.unwrap();
    }
    cluster.collect_at(collected).await;
    cluster.places[of].restore(backup);
    Restored { cluster, of }
}

/// Which replica, and which collected.
const CASES: [(usize, &[usize]); 6] = [
    (0, &[1, 2]),
    (1, &[0, 2]),
    (2, &[0, 1]),
    (2, &[0, 1, 2]),
    (0, &[0]),
    (1, &[2]),
];

impl Restored {
    /// Whom the restored one is read with: each of the others in turn.
    fn with_each_other(&self) -> impl Iterator<Item = usize> {
        let of = self.of;
        (0..3).filter(move |place| *place != of)
    }

    /// Only the restored one and one other are there.
    fn is_up_with(&self, other: usize) {
        for (index, place) in self.cluster.places.iter().enumerate() {
            place.set_up(index == other || index == self.of);
        }
    }

    fn all_up(&self) {
        self.cluster
            .places
            .iter()
            .for_each(|place| place.set_up(true));
    }
}

async fn listed(map: &Map) -> Vec<String> {
    let mut scan = map.scan(KeyRange::from(..));
    let mut keys = Vec::new();
    while let Some(entry) = scan.next().await {
        keys.push(entry.unwrap().0.to_string());
    }
    keys
}

/// G-VOID. Bugs: a get, a get of a register, or a scan shows what was deleted, whoever
/// answers with the one that was restored; or does not show what was not deleted.
#[tokio::test(start_paused = true)]
async fn g_void_no_read_brings_back_what_was_deleted() {
    for (of, collected) in CASES {
        let restored = restored(of, collected).await;
        for other in restored.with_each_other() {
            restored.is_up_with(other);
            let map = restored.cluster.map();
            for key in KEYS {
                assert_eq!(map.get(key).await.unwrap(), None, "{of} and {other}");
                let kept = map.get(format!("{key}-kept")).await.unwrap();
                assert_eq!(kept, Some("kept".into()));
            }
            let kept: Vec<_> = KEYS.map(|key| format!("{key}-kept")).into();
            assert_eq!(listed(&map).await, kept, "{of} and {other}");
            let registers = map.registers::<str, u64>("none");
            assert_eq!(registers.get("k").await.unwrap(), None);
        }
    }
}

/// G-VOID. Bugs: an update sees what was deleted; so does a put that is conditional.
#[tokio::test(start_paused = true)]
async fn g_void_no_update_sees_what_was_deleted() {
    for (of, collected) in CASES {
        let restored = restored(of, collected).await;
        for (other, key) in restored.with_each_other().zip(KEYS) {
            restored.is_up_with(other);
            let map = restored.cluster.map();
            let append = |held: Option<&Bytes>| {
                assert_eq!(held, None, "{of} and {other}");
                Edit::Put("new".into())
            };
            let updated = map.update(key, append).await.unwrap();
            assert_eq!(updated.before(), None);
            assert_eq!(map.get(key).await.unwrap(), Some("new".into()));
        }
    }
}

/// G-VOID, P-CONVERGE. Bugs: a pass takes what was deleted to the others, or leaves it where
/// it is; or it is brought back by what the pass does; the next round does not collect what
/// it settled.
#[tokio::test(start_paused = true)]
async fn g_void_a_pass_settles_what_was_deleted() {
    for (of, collected) in CASES {
        for hash_key in 0..3 {
            let restored = restored(of, collected).await;
            let Restored { cluster, .. } = &restored;
            restored.all_up();
            let map = cluster.map();
            let settings = PassSettings::default().hash_key(hash_key);
            let report = map.pass(.., settings).run().await;
            assert!(report.is_complete(), "{report:?}");
            for place in &cluster.places {
                for key in KEYS {
                    let held = place.entry(key);
                    assert!(
                        held.is_none_or(|it| it.value.is_none()),
                        "{of}, {collected:?}"
                    );
                    let kept = place.entry(&format!("{key}-kept")).unwrap();
                    assert_eq!(kept.value, Some("kept".into()));
                }
            }
            let again = map.pass(.., settings).run().await;
            assert_eq!(again.progress.differing, 0);
            cluster.collect().await;
            for place in &cluster.places {
                assert_eq!(place.backup().len(), KEYS.len() + 1);
            }
        }
    }
}

/// G-VOID, P-CONVERGE. Bug: what is void at the one that was restored, and is in the way of a
/// repair there, is taken for what it should hold; each pass says that it has repaired it.
#[tokio::test(start_paused = true)]
async fn g_void_a_pass_gets_past_what_was_taken_below_the_seal() {
    let cluster = Cluster::new();
    let map = cluster.map();
    map.put("a", "kept").await.unwrap();
    let everywhere = map.pass(.., PassSettings::default()).run().await;
    assert!(everywhere.is_complete());
    let backup = cluster.places[2].backup();
    cluster.collect().await;
    cluster.places[2].restore(backup);
    let mut version = cluster.places[2].entry("a").unwrap().version;
    version.timestamp = version.timestamp.next().unwrap();
    let entry = Entry::tombstone(version);
    let key = "a".into();
    let taken = cluster.places[2]
        .ask(RequestKind::Write { key, entry })
        .await;
    assert_eq!(taken, Response::Ack(Ack::Applied));
    let report = map.pass(.., PassSettings::default()).run().await;
    assert!(report.is_complete(), "{report:?}");
    let [first, second, third] = cluster.records("a");
    let value = first.as_ref().and_then(Record::entry).unwrap().value;
    assert_eq!(value, Some("kept".into()));
    let entry = |record: Option<Record>| record.and_then(Record::into_entry);
    let (first, second, third) = (entry(first), entry(second), entry(third));
    assert!(first == second && second == third, "{third:?}");
    let again = map.pass(.., PassSettings::default()).run().await;
    assert_eq!(again.progress.differing, 0);
}

/// A pass that can use no updates settles nothing, and says so: it brings no delete back.
#[tokio::test(start_paused = true)]
async fn g_void_a_pass_without_registers_brings_nothing_back() {
    let restored = restored(2, &[0, 1]).await;
    let places = restored.cluster.places.clone();
    let map = kvquorum_core::Coordinator::<3, 1, 2, _>::builder(places)
        .wall_clock(restored.cluster.wall.clone())
        .build();
    let report = map.pass(.., PassSettings::default()).run().await;
    assert!(!report.is_complete());
    for place in &restored.cluster.places[..2] {
        for key in KEYS {
            assert!(place.entry(key).is_none());
        }
    }
}

/// G-VOID. Bugs: a rejoin copies what was deleted out of a backup; it does not take the
/// marks of those that it copies from, so that another backup counts beside it.
#[tokio::test(start_paused = true)]
async fn g_void_a_rejoin_copies_nothing_that_was_deleted() {
    for (of, lost) in [(0, 2), (1, 0), (2, 1)] {
        let others: Vec<usize> = (0..3).filter(|place| *place != of).collect();
        let restored = restored(of, &others).await;
        let Restored { cluster, .. } = &restored;
        restored.all_up();
        let mark = cluster.places[lost].status().await.marks;
        cluster.places[lost].lose();
        let map = cluster.map();
        map.rejoin(lost).run().await.unwrap();
        for key in KEYS {
            assert_eq!(cluster.places[lost].record(key), None);
            let kept = cluster.places[lost].entry(&format!("{key}-kept"));
            assert_eq!(kept.unwrap().value, Some("kept".into()));
        }
        let marks = cluster.places[lost].status().await.marks;
        assert_eq!(
            (marks.sealed, marks.collected),
            (mark.sealed, mark.collected)
        );
        restored.is_up_with(lost);
        for key in KEYS {
            assert_eq!(map.get(key).await.unwrap(), None);
        }
        assert_eq!(listed(&map).await.len(), KEYS.len());
    }
}

/// G-VOID. Bugs: a replica that rejoins with what a backup held brings back what was deleted
/// since; it drops what was not, or what is newer than the mark.
#[tokio::test(start_paused = true)]
async fn g_void_a_rejoin_with_a_backup_brings_nothing_back() {
    for (of, collected) in CASES {
        let restored = restored(of, collected).await;
        let Restored { cluster, .. } = &restored;
        restored.all_up();
        let place = &cluster.places[of];
        let mut backup = place.backup();
        backup.remove(&Key::from(""));
        let mark = cluster.places[collected[0]].status().await.marks.collected;
        let version = Version {
            timestamp: mark,
            writer: WriterId::new(1),
        };
        backup.insert("new".into(), Entry::new(version, "new").into());
        place.restore(backup);
        let map = cluster.map();
        map.rejoin(of).run().await.unwrap();
        for key in KEYS {
            let held = place.entry(key);
            assert!(held.is_none_or(|it| it.value.is_none()), "{of}");
            let kept = place.entry(&format!("{key}-kept")).unwrap();
            assert_eq!(kept.value, Some("kept".into()));
        }
        assert_eq!(place.entry("new").unwrap().value, Some("new".into()));
        for other in restored.with_each_other() {
            restored.is_up_with(other);
            for key in KEYS {
                assert_eq!(map.get(key).await.unwrap(), None, "{of} and {other}");
            }
            assert_eq!(listed(&map).await.len(), KEYS.len() + 1);
        }
    }
}

/// G-VOID. Bug: a rejoin that is begun again drops nothing the second time, though a peer
/// has collected meanwhile.
#[tokio::test(start_paused = true)]
async fn g_void_a_rejoin_that_is_begun_again_drops_anew() {
    let restored = restored(2, &[]).await;
    let Restored { cluster, .. } = &restored;
    let [peer, _, place] = &cluster.places;
    let mut backup = place.backup();
    backup.remove(&Key::from(""));
    place.restore(backup);
    place.hook(|kind| match kind {
        RequestKind::Copy { .. } => Next::IsLost,
        _ => Next::GoesOn,
    });
    let map = cluster.map();
    assert!(map.rejoin(2).run().await.is_err());
    assert!(place.status().await.marks.era > Era::FIRST);
    for key in KEYS {
        assert!(place.entry(key).unwrap().value.is_some());
    }
    // What the round had sent it comes late.
    let Status { marks, boot, .. } = peer.status().await;
    let to = marks.sealed;
    assert!(to > marks.collected);
    peer.ask(RequestKind::Collect { to, boot }).await;
    place.no_hook();
    map.rejoin(2).run().await.unwrap();
    assert_eq!(place.status().await.marks.collected, to);
    for key in KEYS {
        assert_eq!(place.record(key), None);
        let kept = place.entry(&format!("{key}-kept")).unwrap();
        assert_eq!(kept.value, Some("kept".into()));
    }
}

/// G-VOID. Bug: a rejoin goes on without the peer whose mark it has taken, and drops what
/// that peer alone could have told to be there: with the mark, it makes it void everywhere.
#[tokio::test(start_paused = true)]
async fn g_void_a_rejoin_does_not_go_on_without_who_has_collected_most() {
    use kvquorum_core::Coordinator;

    use super::cluster::Place;

    let wall = super::support::Wall::at(super::support::NOON);
    let places: [std::sync::Arc<Place>; 5] = std::array::from_fn(|index| Place::new(index, &wall));
    let map = || {
        Coordinator::<5, 3, 3, _>::builder(places.clone())
            .wall_clock(wall.clone())
            .build()
    };
    map().put("k", "v").await.unwrap();
    let _ = map().pass(.., PassSettings::default()).run().await;
    for place in &places[1..] {
        place.hook(|kind| match kind {
            RequestKind::Collect { .. } => Next::IsLost,
            _ => Next::GoesOn,
        });
    }
    wall.set(super::support::NOON + 1_000);
    succeeded(map().collect(now()).await);
    places.iter().for_each(|place| place.no_hook());
    places[4].lose();
    // It has told its mark, and is gone.
    places[0].hook(|kind| match kind {
        RequestKind::Records { .. } => Next::IsLost,
        _ => Next::GoesOn,
    });
    let error = map().rejoin(4).run().await.unwrap_err();
    assert!(matches!(error, RejoinError::Collected), "{error:?}");
    places[0].no_hook();
    map().rejoin(4).run().await.unwrap();
    assert!(places[4].entry("k").is_some());
    places[0].set_up(false);
    places[1].set_up(false);
    assert_eq!(map().get("k").await.unwrap(), Some("v".into()));
}
