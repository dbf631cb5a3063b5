//! The fixed ACPI description table (ACPI 6.5, section 5.2.9).

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::vm::device::{cmos, power};

/// Boot architecture flags: there are devices at legacy ports (the console).
const LEGACY_DEVICES: u16 = 1 << 0;
/// Boot architecture flags: there is no VGA.
const NO_VGA: u16 = 1 << 2;
/// Latencies that mean: no C2, no C3.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// The table for these addresses of FACS and DSDT.
pub(super) fn build(facs: u64, dsdt: u64) -> FADT {
    let ports = |first: u16, bits: u8, access| GAS::new(AddressSpace::SystemIo, bits, 0, access, first.into());
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    // Both forms of each address: some guests know only one. Tables lie below 1 MiB.
    table.firmware_ctrl = (facs as u32).into();
    table.dsdt = (dsdt as u32).into();
    table.x_dsdt = dsdt.into();
    table.sci_int = u16::from(power::SYSTEM_CONTROL_INTERRUPT).into();
    table.pm1a_evt_blk = u32::from(power::EVENT_BLOCK).into();
    table.pm1_evt_len = 4;
    table.x_pm1a_evt_blk = ports(power::EVENT_BLOCK, 32, AccessSize::WordAccess);
    table.pm1a_cnt_blk = u32::from(power::CONTROL_BLOCK).into();
    table.pm1_cnt_len = 2;
    table.x_pm1a_cnt_blk = ports(power::CONTROL_BLOCK, 16, AccessSize::WordAccess);
    table.pm_tmr_blk = u32::from(power::TIMER_BLOCK).into();
    table.pm_tmr_len = 4;
    table.x_pm_tmr_blk = ports(power::TIMER_BLOCK, 32, AccessSize::DwordAccess);
    table.p_lvl2_lat = NO_C2.into();
    table.p_lvl3_lat = NO_C3.into();
    table.century = cmos::CENTURY;
    table.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    table.reset_reg = ports(power::RESET_REGISTER, 8, AccessSize::ByteAccess);
    table.reset_value = power::RESET_VALUE;
    table.finalize()
}
