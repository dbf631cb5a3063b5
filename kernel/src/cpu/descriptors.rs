//! Segments, task state and interrupt gates (SDM volume 3 chapters 3, 6 and 8).

use spin::Once;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::trap;
use crate::memory::stacks::Purpose;

/// The selector of the hypervisor's code: the first descriptor behind the empty one.
pub(crate) const CODE: SegmentSelector = SegmentSelector::new(1, PrivilegeLevel::Ring0);

/// One CPU's descriptor tables; they never move once they are loaded.
pub(super) struct Descriptors {
    state: TaskStateSegment,
    table: Once<(GlobalDescriptorTable, SegmentSelector, SegmentSelector)>,
}

impl Descriptors {
    /// The tables of the CPU with this index, whose stacks are mapped.
    pub(super) fn new(cpu: u32) -> Self {
        let mut state = TaskStateSegment::new();
        let stacks = [Purpose::DoubleFault, Purpose::NonMaskable, Purpose::MachineCheck];
        let [first, second, third] = stacks.map(|purpose| VirtAddr::new_truncate(purpose.top(cpu) as u64));
        let none = VirtAddr::zero();
        state.interrupt_stack_table = [first, second, third, none, none, none, none];
        Self { state, table: Once::new() }
    }

    /// Loads them on this CPU.
    ///
    /// # Safety
    ///
    /// This CPU is the one that they are for, it runs on the hypervisor's page tables, and it never loaded them
    /// before.
    pub(super) unsafe fn load(&'static self) {
        let (table, data, state) = self.table.call_once(|| {
            let mut table = GlobalDescriptorTable::new();
            table.append(Descriptor::kernel_code_segment());
            let data = table.append(Descriptor::kernel_data_segment());
            let state = table.append(Descriptor::tss_segment(&self.state));
            (table, data, state)
        });
        table.load();
        // SAFETY: the selectors name descriptors of the table just loaded: 64-bit code, flat data, an available TSS.
        // GS's selector is loaded before its base is set.
        unsafe {
            CS::set_reg(CODE);
            for set in [SS::set_reg, DS::set_reg, ES::set_reg, FS::set_reg, GS::set_reg] {
                set(*data);
            }
            load_tss(*state);
        }
    }
}

/// An interrupt gate for 64-bit mode.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gate {
    offset_low: u16,
    selector: u16,
    /// Interrupt stack table, bits 2:0; type 0xe (interrupt gate) and present, bits 15:8.
    options: u16,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Gate>() == 16);

impl Gate {
    fn new(address: u64, stack: u16) -> Self {
        Self {
            offset_low: address as u16,
            selector: CODE.0,
            options: 0x8e00 | stack,
            offset_middle: (address >> 16) as u16,
            offset_high: (address >> 32) as u32,
            reserved: 0,
        }
    }
}

/// Which entry of the interrupt stack table an exception uses; 0 for the stack that is in use.
fn stack_of(vector: u8) -> u16 {
    match vector {
        trap::DOUBLE_FAULT => 1,
        trap::NON_MASKABLE => 2,
        trap::MACHINE_CHECK => 3,
        _ => 0,
    }
}

/// Loads the interrupt gates, the same for all CPUs.
///
/// # Safety
///
/// This CPU has its [`Descriptors`] loaded.
pub(super) unsafe fn load_gates() {
    static GATES: Once<[Gate; 256]> = Once::new();
    let gates =
        GATES.call_once(|| core::array::from_fn(|vector| Gate::new(trap::entry(vector as u8), stack_of(vector as u8))));
    let pointer =
        DescriptorTablePointer { limit: (size_of_val(gates) - 1) as u16, base: VirtAddr::from_ptr(gates.as_ptr()) };
    // SAFETY: 256 good gates that live for good; the stacks that they name are in the task state.
    unsafe { lidt(&pointer) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_its_address() {
        let gate = Gate::new(0xffff_ffff_8012_3456, 2);
        let words: [u64; 2] = [
            u64::from(gate.offset_low)
                | u64::from(gate.selector) << 16
                | u64::from(gate.options) << 32
                | u64::from(gate.offset_middle) << 48,
            u64::from(gate.offset_high) | u64::from(gate.reserved) << 32,
        ];
        assert_eq!(words, [0x8012_8e02_0008_3456, 0xffff_ffff]);
    }

    #[test]
    fn what_must_be_served_has_a_stack_of_its_own() {
        assert_eq!([8, 2, 18].map(stack_of), [1, 2, 3]);
        assert_eq!((0..=255).filter(|vector| stack_of(*vector) != 0).count(), 3);
    }
}
