//! Trying what may raise an exception.
//!
//! On one processor only, and not from an interrupt handler.

use core::fmt;

/// An exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// Its error code, or 0.
    pub error: u64,
    /// CR2 then.
    pub address: u64,
}

impl Fault {
    /// #UD.
    pub const UNDEFINED: u8 = 6;
    /// #GP.
    pub const PROTECTION: u8 = 13;
    /// #PF.
    pub const PAGE: u8 = 14;
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.vector {
            0 => "#DE",
            1 => "#DB",
            3 => "#BP",
            Self::UNDEFINED => "#UD",
            7 => "#NM",
            8 => "#DF",
            10 => "#TS",
            11 => "#NP",
            12 => "#SS",
            Self::PROTECTION => "#GP",
            Self::PAGE => "#PF",
            17 => "#AC",
            18 => "#MC",
            19 => "#XM",
            vector => return write!(f, "exception-{vector}"),
        };
        f.write_str(name)
    }
}

#[cfg(target_os = "none")]
pub(crate) use bare::recover;
#[cfg(target_os = "none")]
pub use bare::{address, attempt};

/// Runs `action`; if an exception ends it, says which. What `action` owned is then forgotten.
#[cfg(not(target_os = "none"))]
pub fn attempt<T>(action: impl FnOnce() -> T) -> Result<T, Fault> {
    Ok(action())
}

#[cfg(target_os = "none")]
mod bare {
    use core::arch::{asm, global_asm};
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::Fault;
    use crate::interrupts::Frame;

    // attempt_call(function, argument): 0 after the function returned, 1 after an exception ended it.
    global_asm!(
        r#"
        .section .text
        .global attempt_call, attempt_recover
        attempt_call:
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        mov [rip + {stack}], rsp
        mov rax, rdi
        mov rdi, rsi
        sub rsp, 8
        call rax
        add rsp, 8
        xor eax, eax
        jmp 2f
        attempt_recover:
        mov eax, 1
        2:
        mov qword ptr [rip + {stack}], 0
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        ret
    "#,
        stack = sym STACK,
    );

    unsafe extern "sysv64" {
        fn attempt_call(function: extern "sysv64" fn(*mut u8), argument: *mut u8) -> u64;
        fn attempt_recover();
    }

    /// The stack pointer to return to; 0: no exception is expected.
    static STACK: AtomicU64 = AtomicU64::new(0);
    /// The last exception: vector, error code, CR2.
    static LAST: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

    /// Runs `action`; if an exception ends it, says which. What `action` owned is then forgotten.
    ///
    /// # Errors
    ///
    /// The exception.
    pub fn attempt<T>(action: impl FnOnce() -> T) -> Result<T, Fault> {
        struct Call<T, F>(Option<F>, Option<T>);
        extern "sysv64" fn run<T, F: FnOnce() -> T>(call: *mut u8) {
            // SAFETY: `attempt` passes its own `Call` of these types and looks at it again after the return.
            let call = unsafe { &mut *call.cast::<Call<T, F>>() };
            call.1 = call.0.take().map(|action| action());
        }
        fn call_of<T, F: FnOnce() -> T>(action: F) -> (Call<T, F>, extern "sysv64" fn(*mut u8)) {
            (Call(Some(action), None), run::<T, F>)
        }
        let (mut call, run) = call_of(action);
        // SAFETY: the function gets the argument that it expects; after an exception the registers that a call keeps
        // are those of this call.
        let failed = unsafe { attempt_call(run, (&raw mut call).cast()) };
        let [vector, error, address] = LAST.each_ref().map(|word| word.load(Ordering::SeqCst));
        match call.1.take() {
            Some(value) if failed == 0 => Ok(value),
            _ => Err(Fault { vector: vector as u8, error, address }),
        }
    }

    /// Sends an exception back to [`attempt`], if one runs.
    pub(crate) fn recover(frame: &mut Frame) -> bool {
        let stack = STACK.load(Ordering::SeqCst);
        if stack == 0 {
            return false;
        }
        for (word, value) in LAST.iter().zip([frame.vector, frame.error, address()]) {
            word.store(value, Ordering::SeqCst);
        }
        frame.rsp = stack;
        frame.rip = attempt_recover as *const () as u64;
        // Not with the trap flag, and not in a state in which each access is checked for alignment.
        frame.rflags &= !(1 << 8 | 1 << 18);
        true
    }

    /// CR2.
    pub fn address() -> u64 {
        let address;
        // SAFETY: reading CR2 has no effect.
        unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
        address
    }
}
