//! One virtual CPU: its loop, and one handler a file for each kind of exit.

pub mod platform;

pub use platform::{CrashReason, End, NotMemory, Platform, ResetCause};
