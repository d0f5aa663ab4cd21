//! Every bound of the core in one place, each with its reason.
//! What happens at a bound is decided, and documented, where the bound is used.

/// Frames in one message. A view sends one frame per large argument; a hundred thousand of them is
/// more than any client makes, and a peer that never ends its message stops here.
pub const FRAMES_PER_MESSAGE_MAX: usize = 131_072;

/// Tasks that the scheduler holds, waiting or running. A client that submits a million tasks of one
/// second each keeps 64 engines busy for hours; more is a runaway loop.
pub const TASKS_MAX: usize = 1_048_576;

/// Pairs of a task and one that it waits for, over all tasks: a quarter of a gigabyte. Enough for a
/// thousand tasks that each wait for a map of four thousand.
pub const TASK_DEPENDENCIES_MAX: usize = 4_194_304;

/// Ended tasks whose outcome the scheduler knows, for tasks that depend on them: 8 MB.
pub const FINISHED_TASKS_MAX: usize = 262_144;
