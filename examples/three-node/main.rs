//! Three replicas, each in a process of its own, and what becomes of a map when
//! they die, return, and disagree.
//!
//! Without a command this is an experiment that tells its own story. The
//! commands are the pieces to do the same by hand: see `three-node help`.

mod backup;
mod client;
mod cluster;
mod collect;
mod experiment;
mod layout;
mod node;
mod one_pass;
mod page;
mod passes;
mod registers;
mod rejoin;
mod scan;
mod security;
mod signals;
mod status;
mod story;
mod watch;
mod words;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kvquorum_core::WithCauses;

/// The operation failed. That of a wrong command line is the same.
const FAILED: u8 = 2;

/// Runs an experiment with three replicas over HTTP on this machine, or parts
/// of it by hand.
#[derive(Parser)]
#[command(name = "three-node", version, args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Exit codes: 0 if all went well, 1 if `get` found no value, `cas` or \
                  `create` not what they expect, `pass` is not complete, or `collect` has not \
                  collected all, 2 for errors."
)]
struct Arguments {
    /// The experiment's nodes listen on this port and the next two
    #[arg(long, value_name = "PORT", default_value_t = 3001)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=65533))]
    base_port: u16,

    /// The experiment's nodes keep their replicas in memory, not on disk
    #[arg(long)]
    memory: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serves a page on which to play with three nodes: http://127.0.0.1:3000
    ///
    /// It starts the nodes, and ends them on Ctrl-C. Only this machine reaches it.
    Page(page::Arguments),
    /// Runs one node in the foreground until Ctrl-C
    Node(node::Arguments),
    /// Copies the replica of a node that is not running
    ///
    /// One that is running makes a backup when it is sent SIGUSR1: see --backups.
    Backup(backup::Backup),
    /// Fills the directory of a new node from backups
    Restore(backup::Restore),
    /// Makes a node ready that lost its data, with what the others still have
    ///
    /// For where two of three nodes lost their data at once, and reads fail until somebody
    /// decides. It says what may be lost, and does nothing without --yes.
    AcceptLoss(rejoin::AcceptLoss),
    /// Prints how each node is, what it holds, and what its last pass repaired
    ///
    /// What a node holds is counted: it sends all of its entries, page by page.
    ///
    /// Times are by the node's own clock. What is stamped before the time that a node is
    /// sealed up to it takes no more; deletes from before the time that it has collected
    /// up to left nothing behind. While a collection waits for a node, it says for which.
    Status(status::Arguments),
    /// Compares what the three nodes hold, and brings each what it lacks
    ///
    /// How far it is goes to stderr: a bar on a terminal, and elsewhere a line now and
    /// then. What it came to goes to stdout. Ctrl-C ends it early; what it has brought
    /// until then stays.
    #[command(
        after_help = "Exit codes: 0 if all three were compared and took what they lacked, \
                            1 if not, 2 for errors."
    )]
    Pass(one_pass::Arguments),
    /// Drops what deletes have left behind, on all three nodes
    ///
    /// It begins with a pass, and needs all three. From then on nodes refuse writes that
    /// are stamped before the time that it says, so that no old copy of what was deleted
    /// comes back, however late.
    #[command(after_help = "Exit codes: 0 if all three have collected, 1 if not, 2 for errors.")]
    Collect(collect::Arguments),
    /// Writes a value under a key
    Put(client::Put),
    /// Prints the value under a key
    ///
    /// The value goes to stdout. What each replica answered goes to stderr.
    #[command(after_help = "Exit codes: 0 if there is a value, 1 if there is none, 2 for errors.")]
    Get(client::Get),
    /// Deletes a key
    Delete(client::Delete),
    /// Adds to the integer under a key, and prints the sum
    ///
    /// A key that is absent counts as 0. However many do so at the same time, each of
    /// them counts once: the key is a register, and this an update of it. The sum goes
    /// to stdout. Its version, a number that rises with each update, goes to stderr.
    #[command(
        after_help = "Exit codes: 0 if it was added, 2 for errors. Those say whether \
                            it may have been added all the same."
    )]
    Increment(registers::Increment),
    /// Writes a value only where another one is
    ///
    /// Of all who do so at the same time, expecting the same, one succeeds. Where
    /// the value is not the one expected, nothing is changed, and the value that is
    /// there goes to stdout.
    #[command(
        after_help = "Exit codes: 0 if the new value is there, 1 if the value was another \
                            one, 2 for errors. Those say whether it may be there all the same."
    )]
    Cas(registers::Cas),
    /// Writes a value only where there is none
    ///
    /// Of all who do so at the same time, one succeeds: so it takes a lock, which
    /// `delete` gives back. Where there is a value, nothing is changed, and that value
    /// goes to stdout.
    #[command(
        after_help = "Exit codes: 0 if the new value is there, 1 if there was one already, \
                            2 for errors. Those say whether it may be there all the same."
    )]
    Create(registers::Create),
    /// Prints the keys that begin with a prefix, and their values
    ///
    /// One line of JSON for each on stdout, in the order of the keys' bytes:
    /// {"key":"tea","value":{"cups":2}}. Where a key is not UTF-8, or a value is not
    /// JSON, its bytes are in "key_hex" or "value_hex". How many there are goes to
    /// stderr.
    #[command(after_help = "Exit codes: 0 if all were read, also if there are none, 2 for errors.")]
    Scan(scan::Scan),
}

// One thread is plenty for each process: none of them computes anything.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            let width = layout::columns().unwrap_or(usize::MAX);
            let error = WithCauses(&*error).to_string();
            layout::say(&layout::wrap("error: ", "", &error, width));
            ExitCode::from(FAILED)
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    match arguments.command {
        None => experiment::run(arguments.base_port, arguments.memory).await?,
        Some(Command::Page(arguments)) => page::run(arguments).await?,
        Some(Command::Node(arguments)) => node::run(arguments).await?,
        Some(Command::Backup(arguments)) => backup::backup(arguments).await?,
        Some(Command::Restore(arguments)) => backup::restore(arguments).await?,
        Some(Command::AcceptLoss(arguments)) => rejoin::accept_loss(arguments).await?,
        Some(Command::Status(arguments)) => status::run(arguments).await?,
        Some(Command::Put(arguments)) => client::put(arguments).await?,
        Some(Command::Delete(arguments)) => client::delete(arguments).await?,
        Some(Command::Increment(arguments)) => registers::increment(arguments).await?,
        Some(Command::Scan(arguments)) => scan::scan(arguments).await?,
        Some(Command::Collect(arguments)) => return collect::run(arguments).await,
        Some(Command::Pass(arguments)) => return one_pass::run(arguments).await,
        Some(Command::Get(arguments)) => return client::get(arguments).await,
        Some(Command::Cas(arguments)) => return registers::cas(arguments).await,
        Some(Command::Create(arguments)) => return registers::create(arguments).await,
    }
    Ok(ExitCode::SUCCESS)
}
