//! Whether an overlay is older than the base image under it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Why an overlay's base image may not be the one that it was made over. Of the base image nothing
/// but its times is read; without those, or the overlay's, there is nothing to say.
pub(super) fn warning(overlay: &Path, made: &Metadata, base: &Path) -> Option<String> {
    // A relative name is relative to where the overlay is.
    let base = overlay.parent().map_or_else(|| base.to_owned(), |folder| folder.join(base));
    let made = made.created().ok()?;
    let found = base.metadata().ok()?;
    let base = base.display();
    let is_younger = |time: std::io::Result<SystemTime>| time.is_ok_and(|time| time > made);
    if is_younger(found.modified()) || is_younger(found.created()) {
        return Some(format!(
            "base image {base} is younger than this overlay; if its content is another now, the \
             guest's disk is damaged: put the old one back, or make the overlay anew"
        ));
    }
    (changed(&found)? > made).then(|| {
        format!(
            "base image {base} may have changed since this overlay was made: its time of change \
             is later"
        )
    })
}

/// The time of change, which also `chmod` and a rename set.
fn changed(found: &Metadata) -> Option<SystemTime> {
    let seconds = Duration::from_secs(found.ctime().try_into().ok()?);
    let nanoseconds = Duration::from_nanos(found.ctime_nsec().try_into().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(seconds + nanoseconds)
}
