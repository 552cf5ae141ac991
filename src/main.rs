//! The program `duramen`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
