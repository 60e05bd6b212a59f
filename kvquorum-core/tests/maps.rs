//! Typed maps.
#![cfg(feature = "json")]

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use kvquorum_core::{
    Codec, CodecError, Coordinator, Key, Map, MapError, Outcome, Transport, WriteError,
};
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
    assert!(matches!(error, MapError::EncodeValue(_)), "{error}");
    assert_eq!(links[0].calls(), calls, "nothing was sent");

    links.iter().for_each(|link| link.set(Line::Refused));
    let error = users.get("alice").await.unwrap_err();
    assert!(matches!(error, MapError::Read(_)), "{error}");
    let error = users.delete("alice").await.unwrap_err();
    let not_applied = matches!(error, MapError::Write(WriteError::NotApplied(_)));
    assert!(not_applied, "{error}");
}

/// An error says what is wrong with the value, and each cause once.
#[tokio::test(start_paused = true)]
async fn errors_tell_why_a_value_is_refused() {
    let map = coordinator(&links()).map::<str, Option<f64>>("m");
    let error = map.put("k", &Some(f64::NAN)).await.unwrap_err();
    let refused = "the value has no exact encoding, and nothing was sent";
    let changed = "its encoding decodes to something else";
    assert_eq!(causes(&error), [refused, changed]);

    let map = coordinator(&links()).map::<str, f64>("m");
    let error = map.put("k", &f64::NAN).await.unwrap_err();
    let null = "invalid type: null, expected f64 at line 1 column 4";
    let undecodable = "its encoding cannot be decoded";
    assert_eq!(causes(&error), [refused, undecodable, null]);
}

fn causes(error: &dyn Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts
}

/// A service with one error type needs no conversion of its own, and a field
/// names five of the seven parameters. Bug: either stops to compile.
#[tokio::test(start_paused = true)]
async fn reads_and_writes_have_a_common_error() {
    struct Service {
        users: Map<String, User, 3, 2, 2>,
    }
    impl Service {
        async fn birthday(&self, name: &str) -> Result<u8, MapError> {
            let Some(mut user) = self.users.get(name).await? else {
                return Ok(0);
            };
            user.age += 1;
            self.users.put(name, &user).await?;
            let raw = self.users.coordinator();
            let key = self.users.encode_key(name)?;
            if let Some(stored) = raw.get(&key).await? {
                raw.put(&key, stored).await?;
            }
            Ok(user.age)
        }
    }
    let replicas = links::<3>().map(|link| link as Arc<dyn Transport>);
    let builder = Coordinator::<3, 2, 2, _>::builder(replicas).wall_clock(Wall::at(NOON));
    let users = builder.build().map("users");
    let service = Service { users };
    let name = "Alice".to_owned();
    let alice = User { name, age: 33 };
    service.users.put("alice", &alice).await.unwrap();
    assert_eq!(service.birthday("alice").await.unwrap(), 34);
    assert_eq!(service.birthday("alice").await.unwrap(), 35);
}

/// Bug: a tombstone is decoded, or a version is not the value's.
#[tokio::test(start_paused = true)]
async fn a_read_comes_with_its_receipt() {
    let links = links();
    let ages = coordinator(&links).map::<str, u8>("ages");
    let (age, receipt) = ages.get_with_receipt("alice").await.unwrap();
    assert_eq!((age, receipt.entry()), (None, None));

    let written = ages.put("alice", &34).await.unwrap().settled().await;
    let (age, receipt) = ages.get_with_receipt("alice").await.unwrap();
    assert_eq!(age, Some(34));
    assert_eq!(receipt.entry().unwrap().version, written.version());
    let holding = |outcome: &&Outcome<_>| outcome.answer() == Some(&Some(written.version()));
    assert!(receipt.replicas().iter().filter(holding).count() >= 2);

    let deleted = ages.delete("alice").await.unwrap();
    let (age, receipt) = ages.get_with_receipt("alice").await.unwrap();
    assert_eq!(age, None);
    assert_eq!(receipt.entry().unwrap().version, deleted.version());

    for link in &links {
        plant(link, "ages/\"eve\"", support::entry(1, "no JSON"));
    }
    let error = ages.get_with_receipt("eve").await.unwrap_err();
    assert!(matches!(error, MapError::Decode(_)), "{error}");
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
