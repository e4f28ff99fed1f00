//! The `swarmgate` command.

fn main() {}
