//! Being told when the guest can take an interrupt: a virtual interrupt that is never delivered, because its intercept
//! comes first (APM volume 2 section 15.21.4), and the writes of CR8.
//!
//! While a virtual interrupt is requested, QEMU's TCG (seen in 10.0) does not survive a guest's write of CR8: it notes the
//! interrupt without the lock that it asserts it holds. And it takes one whose priority equals CR8 for one that can be
//! delivered, where it has to be above.

use super::vmcb::{Control, first, interrupt};

/// Intercepted writes of control registers: CR4. CR0 by the selective intercept, which leaves TS alone. Reads never: the
/// emulator reports reads of CR2, CR3 and CR4 as CR0's.
pub(super) const CR_WRITES: u16 = 1 << 4;
/// CR8, while an interrupt waits.
const CR8_WRITES: u16 = 1 << 8;

/// Leave the guest as soon as it could take an interrupt of this vector's class, or writes CR8; `None`: do not.
pub(super) fn open(control: &mut Control, vector: Option<u8>) {
    control.interrupt &=
        !(interrupt::REQUEST | interrupt::PRIORITY | interrupt::IGNORE_TASK_PRIORITY | interrupt::VECTOR);
    control.first &= !first::VIRTUAL_INTERRUPT;
    control.cr_write = CR_WRITES;
    let Some(vector) = vector else { return };
    control.cr_write |= CR8_WRITES;
    // Otherwise the fall of CR8 is all that is waited for.
    if u64::from(vector >> 4) > control.interrupt & interrupt::TASK_PRIORITY {
        control.interrupt |= u64::from(vector >> 4) << interrupt::PRIORITY_SHIFT;
        request(control);
    }
}

/// Leave the guest as soon as it takes interrupts at all, whatever CR8 says.
pub(super) fn open_external(control: &mut Control) {
    control.cr_write |= CR8_WRITES;
    control.interrupt |= interrupt::IGNORE_TASK_PRIORITY;
    request(control);
}

fn request(control: &mut Control) {
    control.interrupt |= interrupt::REQUEST;
    control.first |= first::VIRTUAL_INTERRUPT;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::svm::vmcb::Vmcb;

    #[test]
    fn cr8_is_watched_whenever_a_virtual_interrupt_is_requested() {
        // SAFETY: zero is a value of every field.
        let mut vmcb: Box<Vmcb> = Box::new(unsafe { core::mem::zeroed() });
        let control = &mut vmcb.control;
        for task_priority in 0..16u64 {
            for vector in (0x10..=0xff).map(Some).chain([None]) {
                for external in [false, true] {
                    control.interrupt = interrupt::MASKING | task_priority;
                    open(control, vector);
                    if external {
                        open_external(control);
                    }
                    let requested = control.interrupt & interrupt::REQUEST != 0;
                    let above = vector.is_some_and(|vector: u8| u64::from(vector >> 4) > task_priority);
                    assert_eq!(requested, above || external);
                    assert_eq!(control.first & first::VIRTUAL_INTERRUPT != 0, requested);
                    assert_eq!(control.cr_write & CR8_WRITES != 0, vector.is_some() || external);
                    assert_eq!(control.interrupt & (interrupt::MASKING | 0xf), interrupt::MASKING | task_priority);
                }
            }
        }
        open(control, None);
        assert_eq!((control.interrupt & interrupt::REQUEST, control.cr_write), (0, CR_WRITES));
    }
}
