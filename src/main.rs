//! The command.

use std::process::ExitCode;

fn main() -> ExitCode {
    bootstorm::cli::run(std::env::args_os())
}
