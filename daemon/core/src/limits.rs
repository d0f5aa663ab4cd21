//! Every bound of the core in one place, each with its reason.
//! What happens at a bound is decided, and documented, where the bound is used.

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

/// Records that the database on disk keeps unless told otherwise.
pub const DISK_RECORDS: u64 = 100_000;

/// Bytes that the database on disk keeps unless told otherwise: an SD card has other uses.
pub const DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// Operations that wait for the disk. A card that stalls for a second must not lose records.
pub const DISK_QUEUE_OPS: usize = 50_000;

/// Bytes that wait for the disk; one message more may wait, however large.
pub const DISK_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Questions that wait for the disk. Clients ask one at a time, and wait.
pub const DISK_QUEUE_REQUESTS: usize = 1024;

/// Bytes of buffers in an answer from disk, unless they are those of a single record.
pub const REPLY_BUFFERS_MAX: usize = 128 * 1024 * 1024;
