//! Bugs, to find out whether the oracle finds them.
//!
//! Each is a few lines in a wrapper around a store or a link, a lie about a
//! setting, or a change to the coordinator in `mutant`. None of them is in the
//! library.

mod collection;
mod conditional;
mod eras;
mod expiry;
mod link;
mod promise;
mod store;

use std::time::Duration;

use kvquorum_core::Limits;

pub use link::{Place, link};
pub use store::{Marks, PlantedStore};

use crate::oracle::Settings;

/// What a bug is planted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A store, the rules that it runs included.
    Store,
    /// A store that does not keep L-PROMISE. The oracle looks away then: it is for
    /// clients to notice.
    Promise,
    /// What a replica admits.
    Limits,
    /// A link.
    Link,
    /// How a coordinator is set.
    Settings,
    /// The clock of the coordinator in `mutant`.
    Clock,
    /// The code of the coordinator in `mutant`, but for registers and scans.
    Coordinator,
    /// How the coordinator in `mutant` updates registers, and gets them.
    Register,
    /// How the coordinator in `mutant` scans.
    Scan,
    /// A link, where replicas lose their data and rejoin; or what is kept of an era. Those
    /// that take a rarer order of events are core's, in `tests/rejoin_schedules`.
    Era,
    /// A link that passes go over, or how they are gone on with.
    Pass,
    /// A link that hints go over.
    Hint,
    /// A link, where deletes are collected. Those that take a rarer order of events are
    /// core's, in `tests/collection`.
    Collection,
    /// A store, where deletes are collected.
    Mark,
    /// A link, where values expire.
    Expiry,
}

macro_rules! bugs {
    ($($kind:ident { $($bug:ident: $name:literal,)* })*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $($($bug,)*)* }

        impl Bug {
            pub const ALL: &[Self] = &[$($(Self::$bug,)*)*];

            pub fn kind(self) -> Kind {
                match self { $($(Self::$bug => Kind::$kind,)*)* }
            }

            pub fn name(self) -> &'static str {
                match self { $($(Self::$bug => $name,)*)* }
            }

            pub fn id(self) -> &'static str {
                match self { $($(Self::$bug => stringify!($bug),)*)* }
            }
        }
    };
}

bugs! {
    Store {
        Overwrites: "a store overwrites without comparing",
        GreaterOrEqual: "a store compares with >=: an equal entry is superseded",
        TiesByArrival: "a store decides ties of versions by arrival, for the last",
        TiesForFirst: "a store decides ties of versions by arrival, for the first",
        IgnoresCounter: "a store compares milliseconds, and no counters",
        WriterFirst: "a store compares writers before timestamps",
        AcksBeforeStoring: "a replica acks, and stores a while later",
        AcksWithoutStoring: "a replica acks, and sometimes does not store",
        DropsTombstones: "a store removes the entry when a tombstone is written",
        IgnoresTombstones: "a store acks a tombstone, and keeps the value",
        HidesSuperseding: "a store keeps the greater entry, and says applied",
        StaleReads: "a store answers with what it held a moment ago",
        DecidesOutside: "a store decides outside of the atomic step",
        SwapIgnoresTag: "a conditional write ignores the tag",
        NoneAsFar: "an entry from the future is refused though what is held is as far ahead",
        TwoStepsAhead: "an entry from the future may be two steps past what is held",
    }
    Promise {
        PutsIgnorePromises: "a replica takes a put below its promise",
        RepairsIgnorePromises: "a replica takes a repair below its promise",
        AcceptComparesNothing: "a replica takes the second phase of an update whatever it holds",
        SupersededFirst: "what is superseded is acked as such, whatever is promised",
        PromiseCleared: "a put over a promise clears it",
        PromiseNotDurable: "a promise does not survive a crash",
    }
    Limits {
        DriftUnit: "the bound on drift is in the wrong unit",
        DriftUnchecked: "the bound on drift is not looked at",
    }
    Link {
        AbsentIsError: "a replica that answers \"no such key\" is not counted",
        HangIsAck: "a call that hangs is counted as an ack",
        RefusalIsAck: "a refusal is counted as an ack",
        SupersededHidden: "a superseded ack is counted, and hidden",
        LostIsNotSent: "a lost answer is taken for a request that was not sent",
        FailureIsRefusal: "a store's failure is taken for a refusal",
        AnswersSwapped: "an answer is given to another call",
        SentToQuorum: "a write is sent to W replicas only",
        RefusedComesAgain: "a link reports a refusal, and delivers the request once more",
        RepairRestamps: "a repair has a fresh version",
        RepairDeletes: "a repair deletes",
        RepairPretends: "a repair is not sent, and counted as acked",
        ScanRepairRestamps: "a repair of a scan has a fresh version",
        TombstonesFiltered: "a page of a replica leaves tombstones out",
    }
    Settings {
        WriteQuorum: "W is off by one",
        ReadQuorum: "R is off by one",
        NoBackground: "stragglers are given up when the operation is decided",
        NoBound: "background work has no bound",
        NoRepair: "replicas found behind are not repaired",
        ObservesNothing: "a clock ignores what it observes",
        NewClock: "a clock forgets what it gave out",
        NeverRestamped: "a superseded write is not stamped again",
    }
    Clock {
        FollowsWall: "a clock goes back with the wall clock",
        FollowsAll: "a clock follows whatever it observes",
        FollowsSeen: "a clock follows what it has to be past, and not the time after it",
        EqualIgnored: "a clock ignores an observed time that equals its own",
        CounterWraps: "a counter overflows within a millisecond",
        LentOwnWriter: "a version past the clock has the clock's own writer id",
        StepsBackSameWriter: "a refused clock steps back, and keeps its writer id",
        NeverStepsBack: "a refused clock stays where it is",
    }
    Coordinator {
        Majority: "the majority of equal answers wins",
        FirstAnswer: "the first answer wins",
        TombstoneIsAbsent: "a read passes over tombstones",
        ExpiredShown: "a get shows what has expired",
        HiddenEarly: "a get hides what has yet to expire",
        ExpiredPassedOver: "a read passes over what has expired, to what was there before",
        LeavesUnasked: "a read that has to wait leaves replicas unasked",
        BlockingReturnsEarly: "a read that repairs first returns early",
        LateNotRepaired: "replicas that answer after the decision are not repaired",
        PendingNotApplied: "a write that is under way is called not applied",
        EarlierForgotten: "earlier attempts are forgotten when a write is called not applied",
        DropCancels: "a dropped future cancels the calls",
        StragglersCancelled: "stragglers are cancelled",
        WaitsForAll: "a write waits for all replicas",
        FailsAtFirst: "a write fails at the first error",
        FailsAtOnce: "a write that may turn out not applied does not wait for it",
        RefusedNotRestamped: "a write that was refused as too far ahead is not stamped again",
        TakenStampedLower: "what a replica may have taken is stamped again, and lower",
        NoTimeLimit: "a call has no time limit",
        SupersededIgnored: "a superseded ack is taken for an ack",
        RestampedEqual: "a superseded write is sent again as it was",
        PanicsPass: "the panic of one replica's store reaches the caller",
        PanicsUncounted: "the panic of one replica's store is not counted",
    }
    Register {
        BlindRetry: "an update that failed half-way is made again, whatever became of it",
        LastBallotOnly: "an update remembers only its last ballot",
        NoWriteBack: "a get of a register returns what few replicas hold",
        ExpiredCompared: "an update compares with what has expired",
        UpdateForgetsTtl: "what an update puts in place of a value that expires is there for ever",
        KeepNotSettled: "an update that changes nothing does not settle what it found",
    }
    Scan {
        GreatestFrontier: "a page goes as far as the answer that goes farthest",
        StuckOnTombstones: "a page of tombstones alone is read again and again",
        SkipsAtBorders: "the key at the border of two pages is passed over",
        ExpiredScanned: "a scan finds what has expired",
        FewerAnswers: "a page is merged from one answer less than R",
    }
    Era {
        PutsAcrossEras: "acks of a put of several eras count together",
        ReadsAcrossEras: "answers to a get of several eras count together",
        RejoinInOldEra: "a rejoin copies in the era that was",
        CopyFromOnePeer: "a rejoin copies from one peer",
        JoinerAnswersReads: "a replica that is joining answers reads",
        JoinerAcksWrites: "a replica that is joining acks writes",
        EraNotDurable: "a replica's era does not survive a crash",
        JoiningNotDurable: "that a replica is joining does not survive a crash",
    }
    Pass {
        RefusedIsRepaired: "a pass takes a repair that was refused for done",
        TombstonesLeftOut: "a fingerprint leaves tombstones out",
        ValuesLeftOut: "a fingerprint leaves values out",
        LastWindowLeftOut: "a fingerprint leaves the last window out",
        PassRestamps: "a repair of a pass has a fresh version",
        ResumeSkips: "a pass that goes on skips a key",
    }
    Hint {
        HintClearedFirst: "a hint is forgotten before it is acked",
        HintCarriesValue: "a hint delivers what was missed, and not what is there now",
    }
    Collection {
        PutsIgnoreSeal: "a put from before the seal is taken",
        SealedAtW: "a round seals W replicas, and collects there",
        LevelledAtW: "a round brings W replicas what they lack",
        NoVoidInGets: "a get counts what is void",
        NoVoidInScans: "a scan counts what is void",
        NoVoidInRejoins: "a rejoin copies what is void",
        NoVoidInPrepares: "an update counts what is void",
        CountsCollected: "a pass compares tombstones that are collected",
        AcceptsIgnoreSeal: "the second phase of an update is taken from before the seal",
        OneMarkForBoth: "what a replica is sealed up to, it has collected",
        AnswersTellSealed: "answers carry what replicas are sealed up to for their mark",
        LevelledFirst: "a round brings replicas what they lack, and seals them then",
        CollectsLatestSeal: "a round collects up to what another has sealed since",
        CollectIgnoresBoot: "a replica collects that has started anew since it was sealed",
        LevelMissesAcks: "a round does not wait for the acks of its repairs",
        LevelSkipsRefused: "a round takes a repair that was refused for done",
        NothingSwept: "tombstones that are collected stay",
        RejoinForgetsSeal: "a rejoin does not take over what replicas are sealed up to",
        RejoinForgetsMark: "a rejoin does not take over what replicas have collected",
        RejoinKeepsDead: "a rejoin keeps what was deleted and collected since",
    }
    Mark {
        BallotsIgnoreSeal: "a ballot from before the seal is promised",
        RepairsIgnoreMark: "a repair from before the mark is taken",
        SweepIgnoresMark: "a sweep drops tombstones that are not collected",
        SealNotDurable: "what a replica is sealed up to does not survive a crash",
        MarkNotDurable: "what a replica has collected does not survive a crash",
        SeenAfterSeal: "a change that was decided before a seal is seen after it",
        SupersededBeforeSeal: "what is superseded is acked as such, however old",
        TombstoneTakesAnchor: "a tombstone that is dropped takes the promise with it",
        AnchorDroppedAtSeal: "a promise is dropped when it is sealed",
        AnchorStays: "promises that are collected stay",
        SealPastClock: "a seal past a replica's clock is taken",
    }
    Expiry {
        PutForgetsTtl: "a put forgets its time to live",
        RepairForgetsTtl: "a repair of a read forgets when a value expires",
        PassForgetsTtl: "a repair of a pass forgets when a value expires",
        HintForgetsTtl: "a hint forgets when a value expires",
        CopyForgetsTtl: "a rejoin forgets when a value expires",
        ExpiresByOneClock: "a value is deleted when one replica's clock is past its time",
        ExpiredStays: "what has expired is hidden, and never deleted",
        ExpiryComparesNothing: "what has expired is deleted, whatever was put in its place",
    }
}

impl Bug {
    pub fn is_store(self) -> bool {
        matches!(self.kind(), Kind::Store | Kind::Promise | Kind::Mark) || self.is_of_crashes()
    }

    pub fn is_promise(self) -> bool {
        self.kind() == Kind::Promise
    }

    /// Whether only registers show it.
    pub fn is_of_registers(self) -> bool {
        matches!(self.kind(), Kind::Promise | Kind::Register) || self.is_of_ballots()
    }

    /// Whether it is about ballots that are collected, or what is collected under them.
    fn is_of_ballots(self) -> bool {
        matches!(
            self,
            Self::NoVoidInPrepares
                | Self::AcceptsIgnoreSeal
                | Self::TombstoneTakesAnchor
                | Self::AnchorDroppedAtSeal
                | Self::AnchorStays
        )
    }

    /// Whether it is about what is done for replicas beside the operations on keys.
    pub fn is_of_tending(self) -> bool {
        let kind = self.kind();
        matches!(kind, Kind::Era | Kind::Pass | Kind::Hint | Kind::Expiry)
            || self.is_of_collection()
    }

    /// Whether it is about values that expire.
    pub fn is_of_expiry(self) -> bool {
        self.kind() == Kind::Expiry || self.is_of_hiding() || self == Self::UpdateForgetsTtl
    }

    /// Whether it is about who is shown what has expired.
    fn is_of_hiding(self) -> bool {
        matches!(
            self,
            Self::ExpiredShown
                | Self::HiddenEarly
                | Self::ExpiredPassedOver
                | Self::ExpiredScanned
                | Self::ExpiredCompared
        )
    }

    /// Whether it is about deletes that are collected.
    pub fn is_of_collection(self) -> bool {
        matches!(self.kind(), Kind::Collection | Kind::Mark)
    }

    /// Whether it takes disks that are put back as they were.
    pub fn is_of_backups(self) -> bool {
        self.is_of_void() || self == Self::CollectIgnoresBoot
    }

    /// Whether answers lack the mark that they carry.
    fn is_of_void(self) -> bool {
        matches!(
            self,
            Self::NoVoidInGets
                | Self::NoVoidInScans
                | Self::NoVoidInRejoins
                | Self::NoVoidInPrepares
        )
    }

    /// Whether it takes replicas that rejoin beside those.
    pub fn is_of_rejoins(self) -> bool {
        self == Self::NoVoidInRejoins
    }

    /// Whether the coordinator counts or sends what it should not, as the oracle is to see.
    pub fn is_counted(self) -> bool {
        matches!(
            self,
            Self::PutsAcrossEras
                | Self::ReadsAcrossEras
                | Self::PutForgetsTtl
                | Self::ExpiryComparesNothing
        ) || self.is_of_void()
    }

    /// Whether a crash shows it, by what it leaves of what a replica keeps of itself.
    pub fn is_of_crashes(self) -> bool {
        matches!(self, Self::EraNotDurable | Self::JoiningNotDurable)
    }

    /// Whether it is in the coordinator of `mutant`.
    pub fn is_mutant(self) -> bool {
        matches!(
            self.kind(),
            Kind::Clock | Kind::Coordinator | Kind::Register | Kind::Scan
        )
    }

    /// What a replica admits.
    pub fn limits(bug: Option<Self>, mut limits: Limits) -> Limits {
        match bug {
            Some(Self::DriftUnit) => limits.max_drift *= 1_000,
            Some(Self::DriftUnchecked) => limits.max_drift = Duration::MAX,
            _ => {}
        }
        limits
    }

    /// How a coordinator is really set.
    pub fn settings(bug: Option<Self>, mut settings: Settings) -> Settings {
        match bug {
            Some(Self::NoBackground) => settings.background = 0,
            Some(Self::NoBound) => settings.background = usize::MAX,
            Some(Self::NoRepair) => {
                settings.repairs = false;
                settings.blocking = false;
            }
            Some(Self::ObservesNothing) => settings.max_drift = Duration::ZERO,
            Some(Self::NeverRestamped) => settings.attempts = 1,
            _ => {}
        }
        settings
    }
}
