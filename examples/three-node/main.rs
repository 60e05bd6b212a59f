//! Three replicas, each in a process of its own, and what becomes of a map when
//! they die, return, and disagree.
//!
//! Without arguments this is an experiment that tells its own story. With them
//! it is the pieces to do the same by hand: see `three-node help`.

mod client;
mod cluster;
mod experiment;
mod node;
mod signals;
mod story;
mod words;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs an experiment with three replicas over HTTP on this machine, or parts
/// of it by hand.
#[derive(Parser)]
#[command(name = "three-node", args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The experiment's nodes listen on this port and the next two.
    #[arg(long, value_name = "PORT", default_value_t = 3001)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=65533))]
    base_port: u16,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one node in the foreground until Ctrl-C
    Node(node::Arguments),
    /// Writes a value under a key
    Put {
        key: String,
        /// JSON; what is not JSON is taken for a string
        value: String,
        #[command(flatten)]
        cluster: client::Arguments,
    },
    /// Reads the value under a key
    Get {
        key: String,
        #[command(flatten)]
        cluster: client::Arguments,
    },
    /// Deletes a key
    Delete {
        key: String,
        #[command(flatten)]
        cluster: client::Arguments,
    },
}

// One thread is plenty for each process: none of them computes anything.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    use client::Operation::{Delete, Get, Put};
    let Some(command) = arguments.command else {
        return experiment::run(arguments.base_port).await;
    };
    match command {
        Command::Node(arguments) => node::run(arguments).await,
        Command::Put {
            key,
            value,
            cluster,
        } => client::run(cluster, &key, Put(&value)).await,
        Command::Get { key, cluster } => client::run(cluster, &key, Get).await,
        Command::Delete { key, cluster } => client::run(cluster, &key, Delete).await,
    }
}
