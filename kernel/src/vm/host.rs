//! The narrow door from a VM to the rest of the kernel: time and console.

/// What a VM asks of the hypervisor around it. Called on exit paths, with no lock of the VM held but for
/// [`nanoseconds`](Self::nanoseconds).
pub trait Host: Send + Sync {
    /// Nanoseconds since some fixed moment; never goes back.
    fn nanoseconds(&self) -> u64;

    /// One byte that the guest sends to its console. The rate was limited already.
    fn console_write(&self, byte: u8);

    /// What is held of an unfinished line is to be shown.
    fn console_flush(&self);

    /// The next byte typed for this guest.
    fn console_read(&self) -> Option<u8>;

    /// A whole line that the guest gave by hypercall. The rate was limited already.
    fn console_line(&self, line: &[u8]);

    /// The guest printed faster than it may: so many bytes were dropped since the last call.
    fn console_dropped(&self, bytes: u64);

    /// A hypercall that is neither the virtual CPU's nor the VM's. `None`: there is none of this number, or it was
    /// refused.
    fn hypercall(&self, number: u64, arguments: [u64; 3]) -> Option<u64>;
}
