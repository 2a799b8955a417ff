//! A Redis that the tests of one shape use together, because up to nine processes for each would cost more than they show.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use tokio::sync::{Mutex, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::support::shape::{Security, Shape, Topology};

type Kept = HashMap<(Topology, Security), Weak<Common>>;

/// What runs as long as any test uses it.
static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

struct Common {
    shape: Shape,
    /// Held together by those who disturb nobody, alone by who does.
    turns: Arc<RwLock<()>>,
}

/// One test's use of it.
pub(super) struct Shared {
    // Given back before the servers are.
    turn: Mutex<Turn>,
    common: Arc<Common>,
}

enum Turn {
    Beside(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    Between,
    Alone(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>),
}

impl Shared {
    pub(super) async fn get(topology: Topology, security: Security) -> Self {
        let common = {
            let mut kept = KEPT.lock().await;
            let place = kept.entry((topology, security)).or_default();
            if let Some(common) = place.upgrade() {
                common
            } else {
                let shape = Shape::start(topology, security).await;
                shape.be_patient();
                let common = Arc::new(Common {
                    shape,
                    turns: Arc::default(),
                });
                *place = Arc::downgrade(&common);
                common
            }
        };
        let beside = Arc::clone(&common.turns).read_owned().await;
        Self {
            turn: Mutex::new(Turn::Beside(beside)),
            common,
        }
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.common.shape
    }

    /// Leaves the servers no room until this ends, once nobody else uses them.
    pub(super) async fn fill(&self) {
        let mut turn = self.turn.lock().await;
        *turn = Turn::Between;
        *turn = Turn::Alone(Arc::clone(&self.common.turns).write_owned().await);
        self.limit_memory("1");
    }

    fn limit_memory(&self, bytes: &str) {
        for node in self.shape().nodes() {
            node.cli_ok(&["CONFIG", "SET", "maxmemory", bytes]);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if matches!(self.turn.get_mut(), Turn::Alone(_)) {
            self.limit_memory("0");
        }
    }
}
