//! The descriptor limit of this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many descriptors this process may have, if there is a limit.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises this process's descriptor limit to its maximum: every file read, every upload and many clients take
/// one or two, and the default limit is meant for programs that may use `select`.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(
            from = limit.current,
            to = raised.current,
            "descriptor limit raised"
        ),
        // Some systems have a lower limit that they do not report; the current one must do.
        Err(error) => tracing::debug!(%error, "descriptor limit not raised"),
    }
}
