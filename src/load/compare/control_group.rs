//! A control group that servers run in: it knows their processor time whole, also that of children for
//! which nobody waited, which the system forgets otherwise.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

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
        let home = own_home()?.ok_or_else(|| io::Error::other("there are no control groups"))?;
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
        match own_home()? {
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
        let told = fs::read_to_string(self.folder.join("cpu.stat"))?;
        let micros = told
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        let micros = micros.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Duration::from_micros(micros))
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

fn own_home() -> io::Result<Option<PathBuf>> {
    Ok(home(
        &fs::read_to_string("/proc/self/mountinfo")?,
        &fs::read_to_string("/proc/self/cgroup")?,
    ))
}

fn enter(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), process::id().to_string())
}

/// Where the group of this process lies, by what cgroups(7) has of mounts and of the process.
fn home(mounts: &str, groups: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let place = place.split(' ').nth(4)?;
        kind.starts_with("cgroup2 ").then_some(place)
    })?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_process_is_found() {
        let mounts = "24 23 0:22 / /sys rw - sysfs sysfs rw\n\
                      31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let found = home(mounts, "1:cpu:/x\n0::/user.slice/a\n");
        let expected = Path::new("/sys/fs/cgroup/user.slice/a");
        assert_eq!(found.as_deref(), Some(expected));
        assert_eq!(home("24 23 0:22 / /sys rw - sysfs sysfs rw", "0::/"), None);
        assert_eq!(home(mounts, "1:cpu:/x\n"), None);
    }
}
