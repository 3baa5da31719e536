//! What goes wrong with VMs, as clients see it.

use std::io;

use axum::http::StatusCode;

use super::tenants::TooMany;
use crate::Error;
use crate::api::wire::Problem;
use crate::creator::CreatorError;
use crate::vm::{DiskError, GuestError, Unfit, UnknownLanguage, VmError, VmState};

impl From<TooMany> for Problem {
    fn from(error: TooMany) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-vms", error.to_string())
    }
}

impl From<UnknownLanguage> for Problem {
    fn from(error: UnknownLanguage) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-request", error.to_string())
    }
}

/// Whether the host has no room: for a VM's disk, for its directory, or for what its guest writes.
fn is_for_want_of_space(error: &VmError) -> bool {
    let source = match error {
        VmError::NoSpace { .. } => return true,
        VmError::File { source, .. }
        | VmError::Disk(
            Error::Target { source, .. }
            | Error::Create { source: CreatorError::Write(source), .. },
        ) => source,
        _ => return false,
    };
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<VmError> for Problem {
    fn from(error: VmError) -> Self {
        Self::from(&error)
    }
}

impl From<&VmError> for Problem {
    fn from(error: &VmError) -> Self {
        let (status, name) = match error {
            VmError::NotStarted => (StatusCode::SERVICE_UNAVAILABLE, "not-started"),
            VmError::TooMany { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too-many-vms"),
            VmError::NoImage { .. } => (StatusCode::NOT_FOUND, "no-image"),
            VmError::NotReady { state: VmState::Destroying | VmState::Destroyed, .. } => {
                (StatusCode::NOT_FOUND, "unknown-vm")
            }
            VmError::NotReady { .. } => (StatusCode::CONFLICT, "vm-busy"),
            VmError::Guest {
                source: GuestError::Refused(_) | GuestError::TooLong { .. }, ..
            } => (StatusCode::UNPROCESSABLE_ENTITY, "guest-refused"),
            VmError::OwnDisk(DiskError { why: Unfit::InUse, .. }) => {
                (StatusCode::CONFLICT, "disk-busy")
            }
            VmError::DiskSize { .. }
            | VmError::OwnDisk(DiskError {
                why: Unfit::Layer(_) | Unfit::TooLong { .. }, ..
            }) => (StatusCode::UNPROCESSABLE_ENTITY, "bad-disk"),
            VmError::BootTimeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "vm-failed"),
            error if is_for_want_of_space(error) => (StatusCode::INSUFFICIENT_STORAGE, "vm-failed"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "vm-failed"),
        };
        let detail = match error {
            // Which is up to the server, not to its client.
            VmError::NotStarted => {
                "the server isn't ready yet; try again once /readyz is".to_owned()
            }
            VmError::TooMany { limit } => {
                format!(
                    "{limit} VMs are in use, which is all that this server has; try again later"
                )
            }
            VmError::OwnDisk(DiskError { path, why: Unfit::TooLong { bytes, limit_mib } }) => {
                format!(
                    "disk {}: its file has {bytes} bytes, over the limit of {limit_mib} MiB that \
                     this server's VMs have",
                    path.display()
                )
            }
            VmError::DiskSize { size, least, most, .. } => {
                format!("a disk of {size} bytes: give {least} (those of its base image) to {most}")
            }
            error => error.to_string(),
        };
        Self::new(status, name, detail)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use rstest::rstest;
    use rustix::io::Errno;

    use super::*;
    use crate::image::LayerError;
    use crate::vm::Language;

    fn guest(source: GuestError) -> VmError {
        VmError::Guest { vm: "vm".to_owned(), source, log: None }
    }

    fn file(errno: Errno) -> VmError {
        VmError::File { what: "disk", path: PathBuf::new(), source: errno.into() }
    }

    fn target(errno: Errno) -> VmError {
        let (base, target) = (PathBuf::new(), PathBuf::new());
        VmError::Disk(Error::Target { base, target, source: errno.into() })
    }

    fn own(why: Unfit) -> VmError {
        VmError::OwnDisk(DiskError { path: PathBuf::new(), why })
    }

    fn creation(source: CreatorError) -> VmError {
        VmError::Disk(Error::Create { base: PathBuf::new(), target: PathBuf::new(), source })
    }

    /// A client tells by the status whether to try again, and by the name what went wrong.
    #[rstest]
    #[case(VmError::NotStarted, 503, "not-started")]
    #[case(VmError::TooMany { limit: 1 }, 503, "too-many-vms")]
    #[case(VmError::NoImage { language: Language::PYTHON, directory: PathBuf::new() }, 404, "no-image")]
    #[case(VmError::NotReady { vm: String::new(), state: VmState::Executing }, 409, "vm-busy")]
    #[case(VmError::NotReady { vm: String::new(), state: VmState::Destroying }, 404, "unknown-vm")]
    #[case(VmError::NotReady { vm: String::new(), state: VmState::Destroyed }, 404, "unknown-vm")]
    #[case(guest(GuestError::Refused(String::new())), 422, "guest-refused")]
    #[case(guest(GuestError::TooLong { what: "arguments", limit: 1 }), 422, "guest-refused")]
    #[case(guest(GuestError::Closed), 500, "vm-failed")]
    #[case(
        VmError::BootTimeout {
            vm: String::new(), after: Duration::ZERO, said: String::new(), log: None
        },
        504,
        "vm-failed"
    )]
    #[case(VmError::NoSpace { vm: String::new(), directory: PathBuf::new() }, 507, "vm-failed")]
    #[case(own(Unfit::InUse), 409, "disk-busy")]
    #[case(own(Unfit::Layer(LayerError::DataFile)), 422, "bad-disk")]
    #[case(own(Unfit::TooLong { bytes: 1, limit_mib: 1 }), 422, "bad-disk")]
    #[case(VmError::DiskSize { size: 9, least: 1, most: 8, limit_mib: 7 }, 422, "bad-disk")]
    #[case(own(Unfit::Io(Errno::IO.into())), 500, "vm-failed")]
    #[case(file(Errno::NOSPC), 507, "vm-failed")]
    #[case(file(Errno::DQUOT), 507, "vm-failed")]
    #[case(file(Errno::IO), 500, "vm-failed")]
    #[case(target(Errno::NOSPC), 507, "vm-failed")]
    #[case(target(Errno::ACCESS), 500, "vm-failed")]
    #[case(creation(CreatorError::Write(Errno::NOSPC.into())), 507, "vm-failed")]
    #[case(creation(CreatorError::Stopped), 500, "vm-failed")]
    fn each_error_has_its_status(#[case] error: VmError, #[case] status: u16, #[case] name: &str) {
        let problem = Problem::from(error);
        assert_eq!((problem.status, &*problem.error), (status, name), "{problem:?}");
    }

    /// They are told what a client can do, and not what its administrator can.
    #[test]
    fn what_is_up_to_the_server_is_not_the_client_s_to_mend() {
        let detail = |error: VmError| Problem::from(error).detail;
        assert!(detail(VmError::NotStarted).contains("once /readyz is"));
        let too_many = detail(VmError::TooMany { limit: 3 });
        assert!(too_many.starts_with("3 VMs are in use") && !too_many.contains("max_concurrent"));
        let too_long = detail(own(Unfit::TooLong { bytes: 9, limit_mib: 1 }));
        let size = detail(VmError::DiskSize { size: 9, least: 1, most: 8, limit_mib: 7 });
        assert!(size.ends_with("to 8"), "{size}");
        assert!(too_long.contains("9 bytes") && !too_long.contains("disk_mib"), "{too_long}");
        assert!(detail(guest(GuestError::Closed)).contains("the connection to the guest ended"));
    }
}
