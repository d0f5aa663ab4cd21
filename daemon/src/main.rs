//! The program: everything is in the library.

use std::process::ExitCode;

// Pools of thousands of small messages are freed in the order in which they came. On musl, whose own allocator is
// several times slower, it matters most.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    piparallel::cli::main()
}
