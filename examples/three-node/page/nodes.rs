//! Three nodes, and what is done to them.

use serde::Deserialize;

use crate::cluster::Cluster;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToNode {
    Kill,
    Start,
    Wipe,
    Pause,
    Resume,
}

pub(super) struct Nodes {
    pub(super) cluster: Cluster,
    pub(super) paused: [bool; 3],
    /// Whose disks were lost: these may not take themselves for new ones.
    lost: [bool; 3],
}

impl Nodes {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            paused: [false; 3],
            lost: [false; 3],
        }
    }

    pub(super) async fn change(&mut self, number: usize, what: ToNode) -> Result<(), String> {
        let all = self.cluster.nodes.get_mut(number);
        let flags = (self.paused.get_mut(number), self.lost.get_mut(number));
        let (Some(node), (Some(paused), Some(lost))) = (all, flags) else {
            return Err("there is no such node".to_owned());
        };
        match (what, node.is_running()) {
            (ToNode::Kill | ToNode::Pause | ToNode::Resume, false) => {
                return Err("the node does not run".to_owned());
            }
            (ToNode::Start, true) => return Err("the node runs".to_owned()),
            _ => {}
        }
        match what {
            ToNode::Pause | ToNode::Resume => {
                let stops = what == ToNode::Pause;
                node.pause(stops).map_err(|error| error.to_string())?;
                *paused = stops;
                return Ok(());
            }
            ToNode::Kill | ToNode::Wipe | ToNode::Start => {
                node.kill().await.map_err(|error| error.to_string())?;
                *paused = false;
            }
        }
        if what == ToNode::Kill {
            return Ok(());
        }
        if what == ToNode::Wipe {
            node.lose_data().map_err(|error| error.to_string())?;
            *lost = true;
        }
        let started = match *lost {
            true => node.start_without_data().await,
            false => node.start().await,
        };
        started.map_err(|error| error.to_string())
    }

    pub(super) async fn begin_anew(&mut self) -> Result<(), String> {
        self.cluster.kill_all().await;
        self.paused = [false; 3];
        self.lost = [false; 3];
        for node in &self.cluster.nodes {
            node.lose_data().map_err(|error| error.to_string())?;
        }
        for number in 0..3 {
            self.change(number, ToNode::Start).await?;
        }
        Ok(())
    }
}
