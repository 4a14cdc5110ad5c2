//! The file a report is written to.

use std::fs::File;
use std::path::{Path, PathBuf, absolute};

use omni_core::{Error, Result};

use super::Report;
use crate::new_file::{NewFile, replace};

/// A file for a report, known to be writable before the work begins that is reported on.
#[derive(Debug)]
pub struct ReportFile(PathBuf);

impl ReportFile {
    /// Checks that a report can be written to `path`. Nothing is written yet.
    ///
    /// # Errors
    /// [`Error::Io`] if no file can be made there, [`Error::Request`] for a directory, or a path inside `out`, the checkpoint that
    /// is to be made.
    pub fn new(path: PathBuf, out: &Path) -> Result<Self> {
        let refused = |reason: &str| Err(Error::Request(format!("report {}: {reason}", path.display())));
        if path.is_dir() {
            return refused("this is a directory, expected a file");
        }
        let [file, out] = [&path, out].map(|path| absolute(path).map_err(|source| Error::io(path, source)));
        if file?.starts_with(out?) {
            return refused("it would lie in the checkpoint that is to be made; expected a file elsewhere");
        }
        match is_special(&path) {
            true => File::options().append(true).open(&path).map(drop).map_err(|source| Error::io(&path, source))?,
            false => drop(NewFile::create(&path)?),
        }
        Ok(Self(path))
    }

    /// Writes a report as JSON, in place of what the file held.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&self, report: &Report) -> Result<()> {
        let text = serde_json::to_string_pretty(report).expect("reports can be written as JSON");
        match is_special(&self.0) {
            true => std::fs::write(&self.0, text).map_err(|source| Error::io(&self.0, source)),
            false => replace(&self.0, text.as_bytes()),
        }
    }
}

/// Whether this is a pipe, a device or a link, which is written to and never replaced.
fn is_special(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_refused_at_once_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let refused = |path: PathBuf| ReportFile::new(path, &out).unwrap_err().to_string();
        let message = refused(directory.path().join("no/such/report.json"));
        assert!(message.contains("no/such/report.json"), "{message}");
        assert!(refused(directory.path().to_owned()).contains("directory, expected a file"));
        assert!(refused(out.join("config.json")).contains("expected a file elsewhere"));
        let path = directory.path().join("report.json");
        std::fs::write(&path, "old").unwrap();
        let file = ReportFile::new(path.clone(), &out).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        file.write(&Report { components: Vec::new(), tensors: Vec::new() }).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("components"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let [target, link] = ["target", "link"].map(|name| directory.path().join(name));
        std::fs::write(&target, "old and long").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let file = ReportFile::new(link.clone(), &directory.path().join("out")).unwrap();
        file.write(&Report { components: Vec::new(), tensors: Vec::new() }).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&target).unwrap()).unwrap();
        assert!(written["components"].is_array() && link.symlink_metadata().unwrap().is_symlink());
    }
}
