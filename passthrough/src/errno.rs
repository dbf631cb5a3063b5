//! The error numbers of Linux that VFIO's calls answer with. Every error type of this crate carries one.

/// An error number of Linux (`errno.h`, the generic table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Errno {
    /// Not permitted.
    EPERM = 1,
    /// No such thing.
    ENOENT = 2,
    /// The hardware failed.
    EIO = 5,
    /// A handle that is none.
    EBADF = 9,
    /// Contended, try again.
    EAGAIN = 11,
    /// No memory, or a budget is used up.
    ENOMEM = 12,
    /// Access denied.
    EACCES = 13,
    /// An address outside of what may be reached.
    EFAULT = 14,
    /// In use.
    EBUSY = 16,
    /// Exists already.
    EEXIST = 17,
    /// No such device.
    ENODEV = 19,
    /// An argument breaks a rule.
    EINVAL = 22,
    /// The object has no such call.
    ENOTTY = 25,
    /// No room left.
    ENOSPC = 28,
    /// A number outside of its range.
    ERANGE = 34,
    /// The wait ran past its bound.
    ETIMEDOUT = 110,
}

impl Errno {
    /// The number, positive.
    pub const fn number(self) -> i32 {
        self as i32
    }
}
