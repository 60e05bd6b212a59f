//! Collecting deletes: rules G-SEAL, G-LEVEL, G-COLLECT and G-VOID, over whole rounds.

mod backups;
mod cluster;
mod rounds;
mod schedules;
#[path = "../rejoin_schedules/stage.rs"]
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod sweeps;
mod under_way;
