//! Three replicas, each in a process of its own, and what becomes of a map when
//! they die, return, and disagree.
//!
//! Without a command this is an experiment that tells its own story. The
//! commands are the pieces to do the same by hand: see `three-node help`.

mod client;
mod cluster;
mod experiment;
mod layout;
mod node;
mod passes;
mod security;
mod signals;
mod story;
mod words;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The operation failed. That of a wrong command line is the same.
const FAILED: u8 = 2;

/// Runs an experiment with three replicas over HTTP on this machine, or parts
/// of it by hand.
#[derive(Parser)]
#[command(name = "three-node", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Exit codes: 0 if all went well, 1 if `get` found no value, 2 for errors.")]
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
    /// Runs one node in the foreground until Ctrl-C
    Node(node::Arguments),
    /// Prints how each node is, what it holds, and what its last pass repaired
    Status(passes::Status),
    /// Writes a value under a key
    Put(client::Put),
    /// Prints the value under a key
    ///
    /// The value goes to stdout. What each replica answered goes to stderr.
    #[command(after_help = "Exit codes: 0 if there is a value, 1 if there is none, 2 for errors.")]
    Get(client::Get),
    /// Deletes a key
    Delete(client::Delete),
}

// One thread is plenty for each process: none of them computes anything.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            let width = layout::columns().unwrap_or(usize::MAX);
            let error = words::with_causes(&*error);
            layout::say(&layout::wrap("error: ", "", &error, width));
            ExitCode::from(FAILED)
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    match arguments.command {
        None => experiment::run(arguments.base_port, arguments.memory).await?,
        Some(Command::Node(arguments)) => node::run(arguments).await?,
        Some(Command::Status(arguments)) => passes::status(arguments).await?,
        Some(Command::Put(arguments)) => client::put(arguments).await?,
        Some(Command::Delete(arguments)) => client::delete(arguments).await?,
        Some(Command::Get(arguments)) => return client::get(arguments).await,
    }
    Ok(ExitCode::SUCCESS)
}
