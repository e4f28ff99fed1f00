//! The `swarmgate` command.

fn main() -> std::process::ExitCode {
    swarmgate::cli::main()
}
