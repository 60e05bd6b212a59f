//! The plain face, by a client that knows nothing but HTTP: what anybody can do
//! with curl, written byte for byte.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod support;

use support::{http, read, three_nodes, write};

#[test]
fn a_client_of_its_own_drives_three_nodes() {
    let mut nodes = three_nodes();
    let ports = nodes.each_ref().map(|node| node.port);
    for port in ports {
        assert_eq!(read(port, "tea"), "null");
    }

    for port in ports {
        write(port, "tea", "\"green\"", 1000);
    }
    for port in ports {
        assert_eq!(
            read(port, "tea"),
            "{\"value\":\"green\",\"timestamp\":1000}"
        );
    }

    // In whatever order writes arrive, the newest timestamp wins.
    let [first, second, third] = ports;
    write(first, "tea", "\"black\"", 3000);
    write(first, "tea", "\"white\"", 2000);
    write(second, "tea", "\"white\"", 2000);
    write(second, "tea", "\"black\"", 3000);
    write(third, "tea", "\"black\"", 3000);
    for port in ports {
        assert_eq!(
            read(port, "tea"),
            "{\"value\":\"black\",\"timestamp\":3000}"
        );
    }

    nodes[2].kill();
    assert!(http(third, "GET", "/read/tea", "").is_err());
    for port in [first, second] {
        assert_eq!(
            read(port, "tea"),
            "{\"value\":\"black\",\"timestamp\":3000}"
        );
        write(port, "tea", "{\"cups\": [1, 2]}", 4000);
        assert_eq!(
            read(port, "tea"),
            "{\"value\":{\"cups\": [1, 2]},\"timestamp\":4000}"
        );
    }
}
