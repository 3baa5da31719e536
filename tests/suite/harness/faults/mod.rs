//! Fault makers: each makes the kernel fail a process under test, and nothing outside of it.
//!
//! | fault | made by | proved by |
//! | --- | --- | --- |
//! | `ENOSPC` | a full tmpfs | cases `a7-full-disk`, `a7-too-small-disk`, `r3-full-disk` |
//! | `EXDEV` | a tmpfs | cases `a5-other-filesystem`; `acquire::another_filesystem` |
//! | `EROFS` | a read-only tmpfs | cases `a7-read-only`, `l8-read-only` |
//! | `EACCES` | no capabilities, modes | cases `a5-no-permission`, `a7-no-directory`, `l11-removal-fails` |
//! | `EBUSY` | a mount, by the judge | cases `a5-busy`, `l11-busy` |
//! | `EMFILE` | [`descriptors`] | case `a7-no-descriptors`; `error_injection::descriptors` |
//! | a file or directory vanishes | removal | cases `a5-vanished`, `l12-*` |
//! | a filesystem hangs, or lacks what others have | [`fuse`] | cases `*-slow-filesystem`, `a1-filesystem-in-user-space` |
//! | any error, at any call | [`strace`] | `error_injection::operations` |
//! | `SIGKILL`, at random and at any call | signals, [`strace`] | `error_injection::chaos`, `operations` |
//! | the creator is killed or stopped | signals | cases `c2-*` |
//! | no memory for the creator | [`memory`] | `error_injection::memory` |
//! | the wall clock jumps | [`clock`], times of files | `error_injection::clock`; case `a10-future` |
//!
//! Cases are those of `tests/conformance/cases`, by which every port is judged.

pub(crate) mod clock;
pub(crate) mod memory;
pub(crate) mod strace;

pub(crate) use overlay_pool_conformance::faults::{descriptors, fuse};
