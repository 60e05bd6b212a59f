//! Calls that share an exchange: which ones do, and that each remains its own.

// In a test a panic is how a broken promise shows.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod failures;
mod played;
mod served;
mod sharing;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use common::*;
use kvquorum_core::{Ack, Entry, Refusal, Replica, Response, Transport, TransportError};
use kvquorum_http::{HttpError, HttpTransport, HttpTransportBuilder, Server};
use played::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
