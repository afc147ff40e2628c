//! How many descriptors this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process have as many descriptors as it may: every file that is read, every upload and many a
/// client takes one or two, and the limit that programs start with is for those that might use `select`.
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
        // Some systems have a lower one that they do not tell; what there is has to do.
        Err(error) => tracing::debug!(%error, "descriptor limit not raised"),
    }
}
