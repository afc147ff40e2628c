//! `put`: sends a file to a server.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::args::Put;
use super::{Trouble, errand};
use crate::client::LocalFile;
use crate::shard::Operation;

pub(super) fn run(arguments: Put) -> Result<(), Trouble> {
    let Put {
        file,
        server,
        name,
        terms,
    } = arguments;
    let mut place = errand::place(&server, name)?;
    complete(&mut place.name, &file)?;
    errand::run(Operation::Write, place, LocalFile::Path(file), &terms)
}

/// Appends the local file's name if the name is empty or ends with a directory.
fn complete(name: &mut Vec<u8>, file: &Path) -> Result<(), Trouble> {
    if name.is_empty() || name.ends_with(b"/") {
        let own = file.file_name().ok_or_else(|| {
            Trouble::arguments(format!(
                "{} ends in no file's name; say how it is to be called there",
                file.display()
            ))
        })?;
        name.extend_from_slice(own.as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_at_the_server() {
        let complete = |name: &str, file: &str| {
            let mut name = name.as_bytes().to_vec();
            complete(&mut name, Path::new(file))
                .ok()
                .and_then(|()| String::from_utf8(name).ok())
        };
        assert_eq!(complete("", "dir/a.img").as_deref(), Some("a.img"));
        assert_eq!(complete("up/", "dir/a.img").as_deref(), Some("up/a.img"));
        assert_eq!(complete("b", "dir/a.img").as_deref(), Some("b"));
        assert_eq!(complete("", ".."), None);
    }
}
