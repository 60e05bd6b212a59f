//! What is done for replicas beside the operations on keys: rejoins, passes, hints.

use kvquorum_core::{
    HintSettings, HintStats, Pass, PassCursor, PassReport, PassSettings, Transport,
};

use super::{Operation, Real};

/// How a coordinator brings replicas what they lack.
pub trait Tending: Send + Sync {
    /// Has a replica rejoin, from fewer peers than are needed where the loss of what only
    /// others had is accepted.
    fn rejoin(&self, place: usize, accepts_loss: bool) -> Operation<'_, Result<(), String>>;
    /// A pass over all keys, or over those that were left when another was cut.
    fn pass(&self, left: Option<PassCursor>, settings: PassSettings) -> Box<dyn Passing>;
    /// One round of collection.
    fn collect(&self, settings: PassSettings) -> Operation<'_, PassReport>;
    /// Delivers hints, for ever.
    fn deliver(&self, settings: HintSettings) -> Operation<'static, ()>;
    fn hints(&self) -> Vec<HintStats>;
}

/// A pass under way.
pub trait Passing: Send {
    fn step(&mut self) -> Operation<'_, bool>;
    fn cursor(&self) -> Option<PassCursor>;
    fn report(self: Box<Self>) -> PassReport;
}

impl<const N: usize, const W: usize, const R: usize> Tending for Real<N, W, R> {
    fn rejoin(&self, place: usize, accepts_loss: bool) -> Operation<'_, Result<(), String>> {
        let rejoin = if accepts_loss {
            self.map.accept_loss(place)
        } else {
            self.map.rejoin(place)
        };
        Box::pin(async move {
            let done = rejoin.run().await;
            done.map(|_| ()).map_err(|error| error.to_string())
        })
    }

    fn pass(&self, left: Option<PassCursor>, settings: PassSettings) -> Box<dyn Passing> {
        Box::new(match left {
            Some(left) => self.map.resume_pass(left, settings),
            None => self.map.pass(.., settings),
        })
    }

    fn collect(&self, settings: PassSettings) -> Operation<'_, PassReport> {
        Box::pin(self.map.collect(settings))
    }

    fn deliver(&self, settings: HintSettings) -> Operation<'static, ()> {
        let handoff = self.map.handoff(settings);
        Box::pin(async move { match handoff.run().await {} })
    }

    fn hints(&self) -> Vec<HintStats> {
        self.map.hints().to_vec()
    }
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Passing for Pass<N, W, R, T> {
    fn step(&mut self) -> Operation<'_, bool> {
        Box::pin(Pass::step(self))
    }

    fn cursor(&self) -> Option<PassCursor> {
        Pass::cursor(self)
    }

    fn report(self: Box<Self>) -> PassReport {
        Pass::report(*self)
    }
}
