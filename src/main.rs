//! The `easyfuse` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    easyfuse::cli::main()
}
