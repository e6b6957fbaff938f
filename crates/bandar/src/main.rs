//! The binary that runs the platform: everything on one machine (`bandar up`), or some services (`bandar run`).

mod backing;
mod cli;
mod data;
mod demo;
mod limits;
mod listeners;
mod nats_users;
mod run;
mod services;
mod settings;
mod tls;
mod up;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::cli::{Cli, Command};

/// Gives memory back after a wave of connections, which the C library's allocator does not. How soon is set where it is
/// built (`.cargo/config.toml`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// `EX_USAGE` of sysexits, as for faults in the configuration.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(message) => {
            // Help is printed too; if that fails there is nobody to tell.
            drop(message.print());
            return if message.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    runtime::main(|| async {
        match command {
            Command::Up(arguments) => up::up(arguments).await,
            Command::Run(arguments) => run::run(arguments).await,
            Command::Demo(arguments) => demo::demo(arguments).await,
            Command::CheckConfig(arguments) => run::check_config(&arguments),
            Command::NatsConfig(arguments) => nats_users::nats_config(&arguments),
        }
    })
}

/// Writes to standard output what a command has to say; logs go to standard error.
fn say(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("cannot write to standard output")
}
