//! `get`: fetches a file from a server.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::args::Get;
use super::{Trouble, errand, url};
use crate::client::LocalFile;
use crate::shard::Operation;

pub(super) fn run(arguments: Get) -> Result<(), Trouble> {
    let Get {
        server,
        name,
        output,
        terms,
    } = arguments;
    let place = errand::place(&server, name)?;
    if place.name.is_empty() {
        return Err(Trouble::arguments(
            "the file's name is missing; give tftp://HOST/NAME, or HOST and NAME",
        ));
    }
    let local = local(output, &place.name)?;
    errand::run(Operation::Read, place, local, &terms)
}

/// The local destination of the file.
fn local(output: Option<PathBuf>, name: &[u8]) -> Result<LocalFile, Trouble> {
    match output {
        Some(path) if path.as_os_str() == "-" => Ok(LocalFile::StandardOutput),
        Some(path) => Ok(LocalFile::Path(path)),
        None => url::last_component(name)
            .map(|last| LocalFile::Path(OsStr::from_bytes(last).into()))
            .ok_or_else(|| {
                Trouble::arguments("the name ends in no file's name; say with -o where to write")
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_file_goes() {
        let local = |output: Option<&str>, name: &[u8]| local(output.map(PathBuf::from), name).ok();
        let path = |text: &str| Some(LocalFile::Path(text.into()));
        assert_eq!(local(None, b"boot/vmlinuz"), path("vmlinuz"));
        assert_eq!(local(Some("x/y"), b"boot/vmlinuz"), path("x/y"));
        assert_eq!(local(Some("-"), b"a"), Some(LocalFile::StandardOutput));
        assert_eq!(local(None, b"boot/.."), None);
        assert_eq!(local(Some("x"), b"boot/"), path("x"));
    }
}
