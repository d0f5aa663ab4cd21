//! Every bound of the core in one place, each with its reason.
//! What happens at a bound is decided, and documented, where the bound is used.

use std::time::Duration;

/// Frames in one message. A view sends one frame per large argument; a hundred thousand of them is
/// more than any client makes, and a peer that never ends its message stops here.
pub const FRAMES_PER_MESSAGE_MAX: usize = 131_072;

/// Bytes of a message part from which the task database shares the received allocation. Smaller parts
/// are copied together: they are slices of a read buffer that would stay as long as the slice.
pub const SHARED_PART_MIN: usize = 16 * 1024;

/// Finished records that the memory database keeps unless told otherwise: some minutes of small tasks.
pub const MEMORY_RECORDS: usize = 10_000;

/// Bytes of finished records that the memory database keeps unless told otherwise, so that a controller
/// stays below 50 MB. Pending records may take twice that at most, see `task_db::memory`.
pub const MEMORY_BYTES: usize = 16 * 1024 * 1024;

/// Pending records in the memory database: more are not listed until they are finished.
pub const PENDING_RECORDS_MAX: usize = 100_000;

/// Records in the memory database that only engine output is known of. Their requests were culled or
/// purged, or will come within moments.
pub const OUTPUT_ONLY_RECORDS_MAX: usize = 1024;

/// Bytes of stdout, and of stderr, and of the input kept for one task: thousands of lines. A task that
/// prints for ever stops being recorded here.
pub const OUTPUT_TEXT_MAX: usize = 256 * 1024;

/// Bytes of a displayed result or an error kept for one task: a plot fits.
pub const OUTPUT_VALUE_MAX: usize = 1024 * 1024;

/// Bytes of a database query. A list of every id in the memory database is a tenth of this.
pub const QUERY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Fields and operators in one database query.
pub const QUERY_TESTS_MAX: usize = 64;

/// Values in one list of a query that must be compared one by one. Texts and dates are not among them.
pub const QUERY_VALUES_MAX: usize = 1000;

/// Characters of a `$glob` pattern: matching costs pattern times text.
pub const GLOB_PATTERN_MAX: usize = 256;

/// Bytes of JSON in the answer to one query. It is built in memory, next to everything else on a Pi.
pub const REPLY_JSON_MAX: usize = 64 * 1024 * 1024;
/// Tasks that the scheduler holds, waiting or running. A client that submits a million tasks of one
/// second each keeps 64 engines busy for hours; more is a runaway loop.
pub const TASKS_MAX: usize = 1_048_576;

/// Pairs of a task and one that it waits for, over all tasks: a quarter of a gigabyte. Enough for a
/// thousand tasks that each wait for a map of four thousand.
pub const TASK_DEPENDENCIES_MAX: usize = 4_194_304;

/// Ended tasks whose outcome the scheduler knows, for tasks that depend on them: 8 MB.
pub const FINISHED_TASKS_MAX: usize = 262_144;

/// How long the holder of a routing id has to answer when another connection claims it. A round trip
/// in a busy wireless network takes well below a second.
pub const CLAIM_PROBE: Duration = Duration::from_secs(2);

/// Engines that left are remembered by uuid, so that one that was only out of reach gets its number
/// back. Each costs about 100 bytes.
pub const DEPARTED_ENGINES_MAX: usize = 4096;

/// A client that has asked for the engines subscribes to news of them within this time, also from a slow network.
pub const NEWS_KEPT: Duration = Duration::from_secs(30);

/// Changes that are kept so long: those of a large pool that starts at once. Each costs about 100 bytes.
pub const NEWS_MAX: usize = 8192;

/// Engines whose registration waits for their first heartbeat. Far more than any pool has.
pub const PENDING_REGISTRATIONS_MAX: usize = 16_384;

/// Length of an engine's uuid, or of a message id. Real ones have below 100 characters.
pub const ID_LENGTH_MAX: usize = 256;

/// Between the end of an engine's connections and its unregistration: replies that were already
/// received on its other sockets are routed first.
pub const LEAVING_GRACE: Duration = Duration::from_millis(60);

/// Places for signatures that are remembered against replay (1 MiB): twice as many as stock peers
/// remember, because some are forgotten early (see `wire::sign::ReplayGuard`).
pub const REPLAY_MEMORY: usize = 131_072;

/// How far above the next free number an engine may ask for its own. MPI ranks come in any order, but
/// within the size of their world.
pub const WANTED_ID_AHEAD_MAX: u32 = 65_536;

/// At most one warning of a kind in this time: a flood from one peer must not become a flood of log.
pub const COMPLAINT_INTERVAL: Duration = Duration::from_secs(2);

/// Engines that one broadcast may name: each costs a signed copy of its header.
pub const BROADCAST_TARGETS_MAX: usize = 65_536;

/// Requests through mux and broadcast that one engine has not answered. Whoever sends more to an engine
/// that takes a second for each waits for a day.
pub const ENGINE_QUEUE_MAX: usize = 65_536;

/// The same over all engines: about 150 MB of bookkeeping.
pub const DIRECT_REQUESTS_MAX: usize = 524_288;

/// Hub queries that may wait for the task database at the same time. Clients ask one at a time.
pub const WAITING_QUERIES_MAX: usize = 4096;

/// Changes of the engine table are saved after this pause, so that a thousand registrations are one write.
pub const SAVE_ENGINES_PAUSE: Duration = Duration::from_millis(100);

/// Between the reply to a shutdown request and the end, so that all clients get the notification.
pub const SHUTDOWN_PAUSE: Duration = Duration::from_millis(200);

/// How long an engine that answers heartbeats may take to connect its other sockets before it is
/// announced with those it has.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of load-balanced tasks that wait or run. Beyond it a new task is refused with an error, so
/// that a client which submits without end meets a bound before the machine does. The transport stops
/// reading a client's large tasks well before.
pub const WAITING_BYTES_MAX: usize = 512 << 20;

/// Records that the database on disk keeps unless told otherwise.
pub const DISK_RECORDS: u64 = 100_000;

/// Bytes that the database on disk keeps unless told otherwise: an SD card has other uses.
pub const DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// Changes and questions that wait for the database in memory; the router then waits for it. 64 of the bundles that it is handed.
pub const MEMORY_QUEUE_ITEMS: usize = 16_384;

/// Bytes that wait for the database in memory; one bundle more may wait.
pub const MEMORY_QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// Operations that wait for the disk. A card that stalls for a second must not lose records.
pub const DISK_QUEUE_OPS: usize = 50_000;

/// Bytes that wait for the disk; one message more may wait, however large.
pub const DISK_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Questions that wait for the disk. Clients ask one at a time, and wait.
pub const DISK_QUEUE_REQUESTS: usize = 1024;

/// Bytes of buffers in an answer from disk, unless they are those of a single record.
pub const REPLY_BUFFERS_MAX: usize = 128 * 1024 * 1024;
/// Bytes of one message, frames and what we need to keep them. Arrays of 2 GB pass on a 64-bit
/// machine; a 32-bit one could not hold them.
pub const MESSAGE_BYTES_MAX: usize = if usize::BITS >= 64 { 4 << 30 } else { 1 << 30 };

/// What a frame is taken to cost beyond its bytes, so that empty frames count too.
pub const FRAME_OVERHEAD: usize = 64;

/// Bytes of one ZMTP command: a handshake, a subscription. libzmq's own stay below 512; user-defined
/// properties may add some hundred.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// Frames from this size on travel without being copied; below, a copy is cheaper than the
/// bookkeeping.
pub const LARGE_FRAME: usize = 16 << 10;

/// Bytes that may wait for a peer when it asks for a PONG; beyond, what waits is proof of life enough.
pub const PONG_BACKLOG_MAX: usize = 1 << 20;

/// Bytes of one frame of a join handshake: three short messages of keys and tags.
pub const JOIN_HANDSHAKE_FRAME_MAX: usize = 512;

/// Bytes of one message between a node and its controller. A connection file has below 4 KB, a list of package
/// versions below 20 KB.
pub const JOIN_MESSAGE_MAX: usize = 60_000;

/// Bytes of the words with which somebody is refused.
pub const JOIN_REFUSAL_MAX: usize = 300;

/// Sources whose handshakes are counted one by one.
pub const KNOCK_SOURCES_MAX: usize = 1024;

/// Handshakes under way at the same time.
pub const JOIN_HALF_OPEN_MAX: usize = 128;

/// Nodes and laptops that wait for somebody to let them in. A class of pupils fits, a flood does not.
pub const PENDING_NODES_MAX: usize = 64;

/// Nodes that are remembered, revoked ones among them.
pub const NODES_MAX: usize = 1024;

/// Bytes of a node's name, as shown.
pub const NODE_NAME_MAX: usize = 63;

/// Instances of our service that a node keeps in mind. A network may have more; those it joined first count.
pub const SIGHTINGS_MAX: usize = 512;
