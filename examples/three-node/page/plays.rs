//! What is played in each scene.

use super::link::Faults;
use super::link::Side::{A, B};
use super::nodes::ToNode;
use super::quorums::{Operation, Verdict};
use super::scenes::{Played, Teller, check};

/// The third node, counted from 0.
const THIRD: usize = 2;

const DRINK: &str = "drink";

pub(super) async fn play(tell: &Teller, name: &str) -> Played {
    match name {
        "experiment" => experiment(tell).await,
        "failed-write" => failed_write(tell).await,
        "repair" => repair(tell).await,
        "pass" => pass(tell).await,
        "rejoin" => rejoin(tell).await,
        "clocks" => clocks(tell).await,
        "no-overlap" => no_overlap(tell).await,
        "race" => race(tell).await,
        other => Err(format!("there is no scene {other}")),
    }
}

async fn experiment(tell: &Teller) -> Played {
    tell.say("A writes tea with W = 3: the put returns when all three nodes have acked.")
        .await;
    tell.put(A, [3, 3, 2], DRINK, "tea")
        .await
        .is(Verdict::Done)?;
    tell.say("A reads with R = 2: two answers are enough.")
        .await;
    tell.get(A, [3, 3, 2], DRINK).await.reads(Some("tea"))?;
    tell.say("Node 3 is killed. What it has acked is on its disk.")
        .await;
    tell.0.to_node(THIRD, ToNode::Kill).await?;
    tell.say("A writes coffee with W = 3. That fails, as soon as three acks are out of reach.")
        .await;
    let coffee = tell.put(A, [3, 3, 2], DRINK, "coffee").await;
    coffee.is(Verdict::MaybeApplied)?;
    tell.holds(DRINK, ["\"coffee\"", "\"coffee\"", "no answer"])
        .await?;
    tell.say("It is on two nodes all the same. B writes juice with W = 2, which succeeds.")
        .await;
    tell.put(B, [3, 2, 2], DRINK, "juice")
        .await
        .is(Verdict::Done)?;
    tell.say("B reads with R = 2: nodes 1 and 2 are enough to read, too.")
        .await;
    tell.get(B, [3, 2, 2], DRINK).await.reads(Some("juice"))?;
    tell.say("Node 3 comes back. It still holds tea, and does not know what it missed.")
        .await;
    tell.0.to_node(THIRD, ToNode::Start).await?;
    tell.holds(DRINK, ["\"juice\"", "\"juice\"", "\"tea\""])
        .await?;
    tell.say("B reads once more. Whichever two answer first, it is juice; node 3 is repaired.")
        .await;
    tell.get(B, [3, 2, 2], DRINK).await.reads(Some("juice"))?;
    tell.holds(DRINK, ["\"juice\""; 3]).await?;
    Ok("Three nodes hold juice. R + W > N: a read meets every acknowledged write.")
}

async fn failed_write(tell: &Teller) -> Played {
    tell.say("A writes tea to all three nodes.").await;
    tell.put(A, [3, 3, 3], DRINK, "tea")
        .await
        .is(Verdict::Done)?;
    tell.say("Node 3 is killed, and A writes coffee with W = 3: only two nodes can ack.")
        .await;
    tell.0.to_node(THIRD, ToNode::Kill).await?;
    let coffee = tell.put(A, [3, 3, 3], DRINK, "coffee").await;
    coffee.is(Verdict::MaybeApplied)?;
    tell.holds(DRINK, ["\"coffee\"", "\"coffee\"", "no answer"])
        .await?;
    tell.say("The error says that it may have been applied, and so it is: A reads with R = 2.")
        .await;
    tell.get(A, [3, 2, 2], DRINK).await.reads(Some("coffee"))?;
    tell.say("Nodes 1 and 2 are killed as well, and A writes water.")
        .await;
    for node in [0, 1] {
        tell.0.to_node(node, ToNode::Kill).await?;
    }
    tell.put(A, [3, 3, 3], DRINK, "water")
        .await
        .is(Verdict::NotApplied)?;
    tell.say("This time nobody can have stored it, and the error says so. The nodes come back.")
        .await;
    for node in [0, 1, 2] {
        tell.0.to_node(node, ToNode::Start).await?;
    }
    tell.holds(DRINK, ["\"coffee\"", "\"coffee\"", "\"tea\""])
        .await?;
    Ok(
        "Coffee is on two nodes, and water on none: a failed write is not undone, and the error \
        says whether it may be seen.",
    )
}

async fn repair(tell: &Teller) -> Played {
    tell.say("The link to node 3 is cut. A writes tea with W = 2.")
        .await;
    tell.0.links.set_faults(THIRD, Faults::CUT);
    tell.put(A, [3, 2, 2], DRINK, "tea")
        .await
        .is(Verdict::Done)?;
    tell.holds(DRINK, ["\"tea\"", "\"tea\"", "nothing"]).await?;
    tell.say("The link is mended. Node 3 does not know that it missed something.")
        .await;
    tell.0.links.heal();
    tell.say(
        "A reads. Node 3 answers that it holds nothing, and is sent the entry with its version.",
    )
    .await;
    tell.get(A, [3, 2, 2], DRINK).await.reads(Some("tea"))?;
    tell.holds(DRINK, ["\"tea\""; 3]).await?;
    Ok("All three nodes hold tea: the read repaired node 3.")
}

async fn pass(tell: &Teller) -> Played {
    tell.say("Node 3 is killed, and misses three writes with W = 2.")
        .await;
    tell.0.to_node(THIRD, ToNode::Kill).await?;
    for (key, value) in [("soup", "hot"), ("salad", "cold"), ("cake", "sweet")] {
        tell.put(A, [3, 2, 2], key, value).await.is(Verdict::Done)?;
    }
    tell.say("It comes back without them, and nobody reads these keys.")
        .await;
    tell.0.to_node(THIRD, ToNode::Start).await?;
    tell.holds("cake", ["\"sweet\"", "\"sweet\"", "nothing"])
        .await?;
    tell.say("A pass compares what the nodes hold, by fingerprints of ranges, and brings each what it lacks.").await;
    let repaired = tell.0.pass().await.ok_or("the pass is not complete")?;
    check("repaired", repaired, [0, 0, 3])?;
    for (key, value) in [
        ("soup", "\"hot\""),
        ("salad", "\"cold\""),
        ("cake", "\"sweet\""),
    ] {
        tell.holds(key, [value; 3]).await?;
    }
    Ok("The pass brought node 3 three entries. All three nodes hold the same, without a read.")
}

async fn rejoin(tell: &Teller) -> Played {
    tell.say("A writes tea to all three nodes.").await;
    tell.put(A, [3, 3, 2], DRINK, "tea")
        .await
        .is(Verdict::Done)?;
    tell.say(
        "Node 3 loses its disk, and starts with an empty one. It is joining: it answers \
         nothing, as others count on what it has acked.",
    )
    .await;
    tell.0.to_node(THIRD, ToNode::Wipe).await?;
    tell.holds(DRINK, ["\"tea\"", "\"tea\"", "joining"]).await?;
    tell.say("A reads with R = 2. Node 3 refuses, and the other two are enough.")
        .await;
    tell.get(A, [3, 2, 2], DRINK).await.reads(Some("tea"))?;
    tell.say("Node 3 rejoins: in a new era it copies what the other two hold, and opens.")
        .await;
    let copied = tell.0.rejoin(THIRD).await?;
    check("keys copied", copied, 1)?;
    tell.holds(DRINK, ["\"tea\""; 3]).await?;
    Ok("Node 3 holds tea again, and is ready.")
}

async fn clocks(tell: &Teller) -> Played {
    tell.say("The clock of A is set ten seconds ahead, and A writes soup.")
        .await;
    tell.0.set_clock(A, 10_000);
    let soup = tell.put(A, [3, 2, 2], "lunch", "soup").await;
    soup.is(Verdict::Done)?;
    tell.holds("lunch", ["\"soup\""; 3]).await?;
    tell.say(
        "B, whose clock is right, writes salad. By its clock that is ten seconds earlier; \
         the acks tell it of soup, and it stamps again, past that.",
    )
    .await;
    let salad = tell.put(B, [3, 2, 2], "lunch", "salad").await;
    salad.is(Verdict::Done)?;
    check("stamped", salad.attempts, 2)?;
    check("salad is the greater", salad.version > soup.version, true)?;
    tell.say("A reads: the later write has won.").await;
    tell.get(A, [3, 2, 2], "lunch").await.reads(Some("salad"))?;
    tell.holds("lunch", ["\"salad\""; 3]).await?;
    Ok("All three nodes hold salad: an acknowledged write is not lost to a clock that is ahead.")
}

async fn no_overlap(tell: &Teller) -> Played {
    tell.say("Nodes 2 and 3 are cut off. A writes tea with W = 1: one ack is enough.")
        .await;
    for node in [1, THIRD] {
        tell.0.links.set_faults(node, Faults::CUT);
    }
    tell.put(A, [3, 1, 1], DRINK, "tea")
        .await
        .is(Verdict::Done)?;
    tell.holds(DRINK, ["\"tea\"", "nothing", "nothing"]).await?;
    tell.say("Now node 1 is cut off instead, and B reads with R = 1. It finds nothing.")
        .await;
    tell.0.links.heal();
    tell.0.links.set_faults(0, Faults::CUT);
    tell.get(B, [3, 1, 1], DRINK).await.reads(None)?;
    tell.say(
        "Tea was acknowledged, and is not seen: R + W = 2 is not more than N = 3. The same \
         with W = 2, node 3 cut off: A writes juice.",
    )
    .await;
    tell.0.links.heal();
    tell.0.links.set_faults(THIRD, Faults::CUT);
    tell.put(A, [3, 2, 2], DRINK, "juice")
        .await
        .is(Verdict::Done)?;
    tell.say(
        "Node 1 is cut off instead, and B reads with R = 2: from nodes 2 and 3, and node 2 has it.",
    )
    .await;
    tell.0.links.heal();
    tell.0.links.set_faults(0, Faults::CUT);
    tell.get(B, [3, 2, 2], DRINK).await.reads(Some("juice"))?;
    tell.0.links.heal();
    tell.holds(DRINK, ["\"juice\""; 3]).await?;
    Ok("With R + W = 2 the acknowledged write was not seen. With R + W = 4 it was.")
}

async fn race(tell: &Teller) -> Played {
    const CUPS: &str = "cups";
    let quorums = [3, 2, 2];
    tell.say("A and B both read the count of cups, and both write it back with one more.")
        .await;
    tell.put(A, quorums, CUPS, "0").await.is(Verdict::Done)?;
    let read = tokio::join!(tell.get(A, quorums, CUPS), tell.get(B, quorums, CUPS));
    read.0.reads(Some("0"))?;
    read.1.reads(Some("0"))?;
    let written = tokio::join!(
        tell.put(A, quorums, CUPS, "1"),
        tell.put(B, quorums, CUPS, "1")
    );
    written.0.is(Verdict::Done)?;
    written.1.is(Verdict::Done)?;
    tell.holds(CUPS, ["\"1\""; 3]).await?;
    tell.say(
        "Both were acknowledged, and one is lost: the count is 1. Now both update it as a \
         register, three times each.",
    )
    .await;
    let counts = || Operation::Increment {
        key: CUPS.to_owned(),
    };
    let (mut acked, mut in_doubt) = (0_u8, 0_u8);
    for _ in 0..3 {
        let (a, b) = tokio::join!(
            tell.operate(A, quorums, counts()),
            tell.operate(B, quorums, counts())
        );
        for one in [a, b] {
            match one.verdict {
                Verdict::Done => acked = acked.saturating_add(1),
                Verdict::MaybeApplied => in_doubt = in_doubt.saturating_add(1),
                Verdict::NotApplied => {}
                _ => return Err(one.says),
            }
        }
    }
    tell.say("An update that is overtaken reads again, and adds to what it finds then.")
        .await;
    let sum = tell.operate(A, quorums, counts()).await;
    sum.is(Verdict::Done)?;
    let least = acked.saturating_add(2);
    let sum: u8 = sum.value.and_then(|sum| sum.parse().ok()).unwrap_or(0);
    let all = least.saturating_add(in_doubt);
    check("the sum counts each", (least..=all).contains(&sum), true)?;
    let held = format!("\"{sum}\"");
    tell.holds(CUPS, [&held; 3]).await?;
    Ok("Every update that was acknowledged counts once.")
}
