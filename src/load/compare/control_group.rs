//! A control group that servers run in: it knows their processor time whole, also that of children for
//! which nobody waited, which the system forgets otherwise.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use super::super::process::{control_group, group_time};
use super::FOLDER;
use crate::time::Duration;

/// A group of its own below that of this process; gone with this.
#[derive(Debug)]
pub(super) struct ControlGroup {
    folder: PathBuf,
    /// The group that this process is in.
    home: PathBuf,
}

impl ControlGroup {
    /// Makes one; says why if the system does not let this process.
    pub(super) fn new() -> io::Result<Self> {
        let home = control_group("self")?
            .ok_or_else(|| io::Error::other("there are no control groups"))?;
        let folder = home.join(name(process::id()));
        fs::create_dir(&folder)?;
        let group = Self { folder, home };
        // Seen now, rather than after the first round.
        group.within(|| ())?;
        group.processor()?;
        Ok(group)
    }

    /// Removes what a process that was in the same group as this one left behind.
    pub(super) fn remove_of(comparer: u32) -> io::Result<()> {
        match control_group("self")? {
            Some(home) => fs::remove_dir(home.join(name(comparer))),
            None => Ok(()),
        }
    }

    /// Does `work` in the group: what it starts stays there.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        enter(&self.folder)?;
        let done = work();
        enter(&self.home)?;
        Ok(done)
    }

    /// The processor time of all that ever ran in it.
    pub(super) fn processor(&self) -> io::Result<Duration> {
        group_time(&self.folder)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // A group that is not empty stays; it costs nothing.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// What the group of this process's servers is called.
fn name(comparer: u32) -> String {
    format!("{FOLDER}-{comparer}")
}

fn enter(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), process::id().to_string())
}
