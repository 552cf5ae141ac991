//! The program `duramen`.

mod cli;

use std::process::ExitCode;

/// Values of all sizes come and go in random order: this one does not look at the neighbours of what is freed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
