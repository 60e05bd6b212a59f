//! Typed maps.
#![cfg(feature = "json")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use kvquorum_core::{Codec, CodecError, Coordinator, Key, MapError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use support::{Line, Link, NOON, Wall, links, plant};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    age: u8,
}

fn coordinator(links: &[Arc<Link>; 3]) -> Coordinator<3, 2, 2, Arc<Link>> {
    Coordinator::builder(links.clone())
        .wall_clock(Wall::at(NOON))
        .build()
}

#[tokio::test(start_paused = true)]
async fn what_is_put_is_got() {
    let links = links();
    let users = coordinator(&links).map::<String, User>("users");
    let alice = User {
        name: "Alice".into(),
        age: 34,
    };
    assert_eq!(users.get("alice").await.unwrap(), None);
    users.put("alice", &alice).await.unwrap();
    assert_eq!(users.get("alice").await.unwrap(), Some(alice));
    users.delete("alice").await.unwrap();
    assert_eq!(users.get("alice").await.unwrap(), None);
}

/// JSON as curl shows it. Bug: an encoding of an encoding.
#[tokio::test(start_paused = true)]
async fn json_is_stored_readably() {
    let links = links();
    let users = coordinator(&links).map::<str, User>("users");
    let alice = User {
        name: "Alice".into(),
        age: 34,
    };
    users.put("alice", &alice).await.unwrap();
    let stored = links[0].store().value("users/\"alice\"").unwrap();
    assert_eq!(stored, r#"{"name":"Alice","age":34}"#);
    assert_eq!(
        users.encode_key("alice").unwrap(),
        Key::from("users/\"alice\"")
    );
}

/// Several maps in one store. Bug: a name and a key that together read like
/// another name and another key.
#[tokio::test(start_paused = true)]
async fn keys_of_different_maps_never_collide() {
    let links = links();
    let coordinator = coordinator(&links);
    // Under an encoding that puts no quotes around a string.
    let plain = |name: &str, key: &str| {
        let map = coordinator.map_with::<str, String, _>(name, Plain);
        map.encode_key(key).unwrap()
    };
    assert_ne!(plain("a", "b/c"), plain("a/b", "c"));
    assert_ne!(plain("a", "/c"), plain("a/", "c"));
    assert_ne!(plain("a%2Fb", "c"), plain("a/b", "c"));

    let names = [
        "", "a", "a/", "a%2F", "a%252F", "a/\"b\"", "/", "//", "a/b", "\"", "é",
    ];
    let keys = ["", "b", "/b", "\"b\"", "b/", "%2F", "/"];
    let mut owners = BTreeMap::new();
    for name in names {
        let map = coordinator.map::<str, String>(name);
        for key in keys {
            let encoded = map.encode_key(key).unwrap();
            if let Some(other) = owners.insert(encoded, (name, key)) {
                panic!("{:?} collides with {other:?}", (name, key));
            }
            map.put(key, &format!("{name}|{key}")).await.unwrap();
        }
    }
    for name in names {
        let map = coordinator.map::<str, String>(name);
        for key in keys {
            let value = map.get(key).await.unwrap();
            assert_eq!(value, Some(format!("{name}|{key}")));
        }
    }
}

/// Bug: an error of one layer is told as that of another.
#[tokio::test(start_paused = true)]
async fn errors_tell_whose_they_are() {
    let links = links();
    let coordinator = coordinator(&links);
    let users = coordinator.map::<str, User>("users");
    for link in &links {
        plant(link, "users/\"eve\"", support::entry(1, "no JSON"));
    }
    let error = users.get("eve").await.unwrap_err();
    assert!(matches!(error, MapError::Decode(_)), "{error}");

    // A map with keys that are no strings has no form in JSON.
    let calls = links[0].calls();
    let odd = coordinator.map::<str, BTreeMap<(u8, u8), u8>>("odd");
    let error = odd
        .put("k", &BTreeMap::from([((1, 2), 3)]))
        .await
        .unwrap_err();
    assert!(matches!(error, MapError::Encode(_)), "{error}");
    assert_eq!(links[0].calls(), calls, "nothing was sent");

    links.iter().for_each(|link| link.set(Line::Refused));
    let error = users.get("alice").await.unwrap_err();
    assert!(matches!(error, MapError::Quorum(_)), "{error}");
}

/// A codec that an application brings: strings as they are.
#[derive(Clone)]
struct Plain;

impl Codec for Plain {
    fn encode<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<Vec<u8>, CodecError> {
        let json = serde_json::to_value(decoded).map_err(CodecError::new)?;
        let string = json.as_str().ok_or_else(|| CodecError::new("no string"))?;
        Ok(string.into())
    }

    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        let string = std::str::from_utf8(encoded).map_err(CodecError::new)?;
        serde_json::from_value(string.into()).map_err(CodecError::new)
    }
}

#[tokio::test(start_paused = true)]
async fn the_codec_is_replaceable() {
    let links = links();
    let map = coordinator(&links).map_with::<str, String, _>("m", Plain);
    map.put("key", &"value".to_owned()).await.unwrap();
    assert_eq!(links[0].store().value("m/key").unwrap(), "value");
    assert_eq!(map.get("key").await.unwrap().as_deref(), Some("value"));
}
