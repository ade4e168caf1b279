//! Nodes: what outlives a worker's connection. Does nothing by itself; `worker.rs` and `quarantine.rs` do.

use crate::quarantine::Record;
use crate::slab::{Slab, Slot};
use crate::state::KindIx;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::Millis;

/// Names a node. Its number is never reused, and orders it; its place is where it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct NodeId {
    pub number: u32,
    pub place: Slot,
}

/// What is remembered under the name in a worker's certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub number: u32,
    pub name: String,
    /// Its connection.
    pub worker: Option<Slot>,
    /// When it was last connected.
    pub seen: Millis,
    /// The operator lets it have no new work. Outlives connections and boots.
    pub cordoned: bool,
    /// How it did, by kind.
    pub records: Vec<(KindIx, Record)>,
    /// When it was last lost with its machine.
    pub machine_lost: Option<Millis>,
}

/// All nodes that are remembered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Nodes(Slab<Node>);

impl Nodes {
    pub fn insert(&mut self, node: Node) -> NodeId {
        let number = node.number;
        NodeId { number, place: self.0.insert(node) }
    }

    /// None for one that is forgotten.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.0.get(id.place).filter(|node| node.number == id.number)
    }

    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.0.get_mut(id.place).filter(|node| node.number == id.number)
    }

    /// Reads ahead what is known of a node.
    pub fn touch(&self, id: NodeId) {
        self.0.touch(id.place);
    }

    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.0.iter().map(|(place, node)| (NodeId { number: node.number, place }, node))
    }

    pub fn forget(&mut self, id: NodeId) {
        if self.get(id).is_some() {
            self.0.take(id.place);
        }
    }
}

/// Indexing is for nodes that the caller knows to be remembered.
impl std::ops::Index<NodeId> for Nodes {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        self.get(id).expect("the node is remembered")
    }
}
