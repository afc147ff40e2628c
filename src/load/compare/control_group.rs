//! A control group to run servers in. It accounts for all their CPU time, including that of children that
//! nobody waited for, which the system otherwise forgets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use super::super::process::{control_group, group_time};
use super::FOLDER;
use crate::time::Duration;

/// A group below that of this process; removed on drop.
#[derive(Debug)]
pub(super) struct ControlGroup {
    folder: PathBuf,
    /// The group that this process is in.
    home: PathBuf,
}

impl ControlGroup {
    /// Creates the group; returns the reason if the system does not permit it.
    pub(super) fn new() -> io::Result<Self> {
        let home = control_group("self")?
            .ok_or_else(|| io::Error::other("there are no control groups"))?;
        let folder = home.join(name(process::id()));
        fs::create_dir(&folder)?;
        let group = Self { folder, home };
        // Fail now rather than after the first round.
        group.within(|| ())?;
        group.processor()?;
        Ok(group)
    }

    /// Removes the group left behind by a process that was in the same group as this one.
    pub(super) fn remove_of(comparer: u32) -> io::Result<()> {
        match control_group("self")? {
            Some(home) => fs::remove_dir(home.join(name(comparer))),
            None => Ok(()),
        }
    }

    /// Does `work` in the group: processes that it starts stay there.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        enter(&self.folder)?;
        let done = work();
        enter(&self.home)?;
        Ok(done)
    }

    /// The CPU time of everything that ever ran in the group.
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

/// The name of the group for this process's servers.
fn name(comparer: u32) -> String {
    format!("{FOLDER}-{comparer}")
}

fn enter(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), process::id().to_string())
}
