//! Wrong quorums do not compile, and the compiler says why.
//!
//! The numbers are checked when a coordinator is instantiated, so the snippets
//! are built, not just type-checked, as a package of a stranger's would be.

use std::path::Path;
use std::process::{Command, Output};
use std::{env, fs};

const PRELUDE: &str = r#"
use kvquorum_core::{Call, Codec, CodecError, Coordinator, Request, Transport, TransportError};

struct Nowhere;

impl Transport for Nowhere {
    fn call(&self, _: &Request) -> Call {
        Call::Ready(Err(TransportError::NotSent("nowhere".into())))
    }

    fn name(&self) -> &str {
        "nowhere"
    }
}

#[allow(dead_code)]
struct NoCodec;

impl Codec for NoCodec {
    fn encode<T: ?Sized>(&self, _: &T) -> Result<Vec<u8>, CodecError> {
        Err(CodecError::new("there is none"))
    }

    fn decode<T>(&self, _: &[u8]) -> Result<T, CodecError> {
        Err(CodecError::new("there is none"))
    }
}
"#;

/// The body of each snippet's `main`, and what the compiler must say; `None`
/// where it must be content.
const SNIPPETS: [(&str, &str, Option<&str>); 15] = [
    (
        "all",
        "Coordinator::<3, 3, 3, _>::new([Nowhere, Nowhere, Nowhere]);",
        None,
    ),
    ("one", "Coordinator::<1, 1, 1, _>::new([Nowhere]);", None),
    (
        "w_over_n",
        "Coordinator::<3, 4, 2, _>::new([Nowhere, Nowhere, Nowhere]);",
        Some("W, the write quorum, must be at most N"),
    ),
    (
        "w_zero",
        "Coordinator::<3, 0, 2, _>::new([Nowhere, Nowhere, Nowhere]);",
        Some("W, the write quorum, must be at least 1"),
    ),
    (
        "r_over_n",
        "Coordinator::<3, 2, 4, _>::new([Nowhere, Nowhere, Nowhere]);",
        Some("R, the read quorum, must be at most N"),
    ),
    (
        "r_zero",
        "Coordinator::<3, 2, 0, _>::new([Nowhere, Nowhere, Nowhere]);",
        Some("R, the read quorum, must be at least 1"),
    ),
    (
        "n_zero",
        "Coordinator::<0, 0, 0, Nowhere>::new([]);",
        Some("N, the number of replicas, must be at least 1"),
    ),
    (
        "n_too_many",
        "Coordinator::<65, 2, 2, _>::new([const { Nowhere }; 65]);",
        Some("N, the number of replicas, must be at most 64"),
    ),
    (
        "builder",
        "Coordinator::<3, 4, 2, _>::builder([Nowhere, Nowhere, Nowhere]);",
        Some("W, the write quorum, must be at most N"),
    ),
    (
        "blocking",
        "Coordinator::<3, 2, 2, _>::builder([Nowhere, Nowhere, Nowhere]).repair_blocking();",
        None,
    ),
    (
        "blocking_without_overlap",
        "Coordinator::<3, 2, 1, _>::builder([Nowhere, Nowhere, Nowhere]).repair_blocking();",
        Some("blocking repair needs overlapping quorums, R + W > N"),
    ),
    (
        "registers",
        "Coordinator::<3, 2, 2, _>::new([Nowhere, Nowhere, Nowhere])\
         .registers_with::<str, u8, _>(\"r\", NoCodec);",
        None,
    ),
    (
        "registers_without_overlap",
        "Coordinator::<3, 2, 1, _>::new([Nowhere, Nowhere, Nowhere])\
         .registers_with::<str, u8, _>(\"r\", NoCodec);",
        Some("registers need overlapping quorums, R + W > N"),
    ),
    (
        "registers_whose_writes_do_not_meet",
        "Coordinator::<4, 2, 3, _>::new([Nowhere, Nowhere, Nowhere, Nowhere])\
         .registers_with::<str, u8, _>(\"r\", NoCodec);",
        Some("registers need write quorums that overlap, 2 W > N"),
    ),
    (
        "update_without_overlap",
        "Coordinator::<3, 2, 1, _>::new([Nowhere, Nowhere, Nowhere])\
         .update(\"k\", |_| kvquorum_core::Edit::Keep);",
        Some("registers need overlapping quorums, R + W > N"),
    ),
];

fn build(package: &Path, name: &str) -> Output {
    Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "--example", name])
        .current_dir(package)
        .env("CARGO_TARGET_DIR", package.join("target"))
        // Nothing of the surrounding build is this package's.
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap()
}

#[test]
fn wrong_quorums_do_not_compile_and_the_message_says_why() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quorums");
    fs::create_dir_all(package.join("examples")).unwrap();
    fs::create_dir_all(package.join("src")).unwrap();
    fs::write(package.join("src/lib.rs"), "").unwrap();
    let manifest = format!(
        "[package]\nname = \"quorums\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\n\
         kvquorum-core = {{ path = {core:?}, default-features = false }}\n"
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    // The same versions as the workspace, which are on this machine already.
    fs::copy(core.join("../Cargo.lock"), package.join("Cargo.lock")).unwrap();
    for (name, body, _) in SNIPPETS {
        let snippet = format!("{PRELUDE}\nfn main() {{\n    let _ = {body}\n}}\n");
        fs::write(package.join(format!("examples/{name}.rs")), snippet).unwrap();
    }
    for (name, body, message) in SNIPPETS {
        let output = build(&package, name);
        let said = String::from_utf8_lossy(&output.stderr);
        match message {
            None => assert!(output.status.success(), "{body} does not compile: {said}"),
            Some(message) => {
                assert!(!output.status.success(), "{body} compiles");
                assert!(said.contains(message), "{body}: no {message:?} in {said}");
                // Bug: it names lines of this crate only.
                let place = format!("examples/{name}.rs:");
                assert!(said.contains(&place), "{body}: no {place:?} in {said}");
            }
        }
    }
}
