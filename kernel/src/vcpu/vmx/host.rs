//! What each host CPU needs to run guests: VMX allowed by firmware and switched on, and the numbers that tell guests'
//! translations apart.

use core::arch::x86_64::__cpuid_count;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use iommu::address::{HostPhysical, PAGE_SIZE};
use spin::{Mutex, Once};

use super::capability::Capabilities;
use super::controls::{self, Controls, Unfit, Word};
use super::permissions;
use crate::cpu;
use crate::memory::{self, Owner};
use crate::vcpu::VcpuError;

/// CPUID 1 ECX: VMX.
const VMX: u32 = 1 << 5;
/// IA32_FEATURE_CONTROL, and its bits: the register is locked; VMXON is allowed outside SMX.
#[cfg(target_os = "none")]
const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED: u64 = 1 << 0;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;
/// CR4: VMX is on.
const CR4_VMXE: u64 = 1 << 13;

/// Why this machine cannot run guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// CPUID does not show VMX.
    NoVmx,
    /// Firmware locked it off.
    LockedOff,
    /// A control is not as it has to be.
    Unfit(Unfit),
    /// The extended page tables lack something.
    Tables(&'static str),
    /// A CPU's controls differ from the first one's.
    Differs(u32),
    /// A control register does not fit VMX operation.
    ControlRegister(&'static str),
    /// VMXON failed.
    NotEntered,
    /// The processor's structures have to be below 4 GiB, and there is no memory.
    NoLowMemory,
    /// There is no place for a CPU with this index.
    TooManyCpus(u32),
    /// Every number for a guest's translations is taken.
    TooManyGuests,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVmx => f.write_str(
                "this processor shows neither VMX (CPUID 1 ECX bit 5) nor SVM (CPUID 0x80000001 ECX bit 2), one of \
                 which guests need; in QEMU give -cpu max,+svm, or -accel kvm on a host with nested virtualization; \
                 on hardware choose a processor that has one",
            ),
            Self::LockedOff => f.write_str(
                "firmware has locked VMX off (IA32_FEATURE_CONTROL bit 0 set, bit 2 clear): enable \"VT-x\", \"Intel \
                 Virtualization Technology\" or \"VMX\" in its setup, and switch the machine off and on",
            ),
            Self::Unfit(unfit) => unfit.fmt(f),
            Self::Tables(what) => write!(f, "this processor's extended page tables have no {what}, which guests need"),
            Self::Differs(cpu) => write!(
                f,
                "the VMX controls of CPU {cpu} differ from those of CPU 0, and guests move between CPUs; look for a \
                 firmware update that gives all CPUs the same microcode"
            ),
            Self::ControlRegister(register) => {
                write!(f, "{register} of this CPU does not fit VMX operation (IA32_VMX_CR0_FIXED0 to CR4_FIXED1)")
            }
            Self::NotEntered => f.write_str("VMXON failed although the processor and firmware allow it"),
            Self::NoLowMemory => {
                f.write_str("this processor wants its VMX structures below 4 GiB, where no memory is free")
            }
            Self::TooManyCpus(index) => {
                write!(f, "CPU {index} is more than guests can run on; name only CPUs below {}", cpu::MAXIMUM)
            }
            Self::TooManyGuests => write!(f, "there are {} virtual CPUs already, and no more are possible", VPIDS - 1),
        }
    }
}

impl core::error::Error for Refusal {}

impl From<Refusal> for VcpuError {
    fn from(refusal: Refusal) -> Self {
        Self::Vmx(refusal)
    }
}

/// What all CPUs have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Common {
    pub(super) capabilities: Capabilities,
    pub(super) controls: Controls,
}

static COMMON: Once<Common> = Once::new();
static ENABLED: [AtomicBool; cpu::MAXIMUM] = [const { AtomicBool::new(false) }; cpu::MAXIMUM];

/// What [`enable`] found on the first CPU.
pub(super) fn common() -> Option<&'static Common> {
    COMMON.get()
}

/// Whether VMX is on on the CPU with this index.
pub(super) fn is_enabled(index: u32) -> bool {
    ENABLED.get(index as usize).is_some_and(|enabled| enabled.load(Ordering::Relaxed))
}

/// Whether CPUID shows VMX.
fn is_present() -> bool {
    __cpuid_count(1, 0).ecx & VMX != 0
}

/// What IA32_FEATURE_CONTROL has to be set to, if it is not right already.
fn allow(feature_control: u64) -> Result<Option<u64>, Refusal> {
    if feature_control & LOCKED == 0 {
        return Ok(Some(feature_control | LOCKED | VMX_OUTSIDE_SMX));
    }
    if feature_control & VMX_OUTSIDE_SMX == 0 { Err(Refusal::LockedOff) } else { Ok(None) }
}

/// What the extended page tables have to be able to do.
fn check_tables(capabilities: &Capabilities, controls: &Controls) -> Result<(), Refusal> {
    let has_vpid = controls.has(Word::Secondary, controls::VPID);
    for (there, what) in [
        (capabilities.ept_has_4_levels(), "tables of 4 levels"),
        (capabilities.ept_is_write_back(), "write-back tables"),
        (capabilities.invalidates_one_table() || capabilities.invalidates_all_tables(), "INVEPT"),
        (
            !has_vpid || capabilities.invalidates_one_guest() || capabilities.invalidates_all_guests(),
            "INVVPID of one guest or of all",
        ),
    ] {
        if !there {
            return Err(Refusal::Tables(what));
        }
    }
    Ok(())
}

/// Switches VMX on on this CPU.
///
/// # Errors
///
/// The processor's or the firmware's reason, or no memory.
pub fn enable() -> Result<(), VcpuError> {
    if !is_present() {
        return Err(Refusal::NoVmx.into());
    }
    let index = cpu::index();
    let enabled = ENABLED.get(index as usize).ok_or(Refusal::TooManyCpus(index))?;
    if enabled.load(Ordering::Relaxed) {
        return Ok(());
    }
    open_feature()?;
    let capabilities = Capabilities::read(|number| cpu::msr::probe(number).unwrap_or(0));
    let found = Common {
        capabilities,
        controls: controls::choose(&capabilities, |control| {
            if index == 0 {
                log::info!(
                    target: "vmx",
                    "the processor has no \"{}\" ({} control), which is done without: {}", control.name, control.word, control.why
                );
            }
        })
        .map_err(Refusal::Unfit)?,
    };
    check_tables(&found.capabilities, &found.controls)?;
    permissions::prepare()?;
    let common = COMMON.call_once(|| found);
    if *common != found {
        return Err(Refusal::Differs(index).into());
    }
    let region = structure(Owner::Hypervisor, &capabilities)?;
    enter_operation(&capabilities, region)?;
    enabled.store(true, Ordering::Relaxed);
    if index == 0 {
        say(common);
    }
    Ok(())
}

fn say(common: &Common) {
    let (delivery, missing) = common.controls.delivery();
    let capabilities = &common.capabilities;
    let reason = missing.map_or("the processor has all that it takes".into(), |missing| {
        alloc::format!("the processor has no \"{missing}\"")
    });
    log::info!(target: "vmx", "interrupts reach guests by {delivery}: {reason}");
    log::info!(
        target: "vmx",
        "guests run on VMX revision {:#x} with extended page tables{}{}",
        capabilities.revision(),
        if capabilities.ept_has_accessed_dirty() { ", accessed and dirty flags" } else { "" },
        if common.controls.has(Word::Secondary, controls::VPID) { ", VPID" } else { "" },
    );
}

/// A page that begins with the processor's revision: a VMXON region or a VMCS.
pub(super) fn structure(owner: Owner, capabilities: &Capabilities) -> Result<HostPhysical, VcpuError> {
    let frames = memory::frames();
    let page = frames.allocate_zeroed(owner, 1, PAGE_SIZE)?;
    if !capabilities.reaches(page) {
        if let Err(error) = frames.free(owner, page, 1) {
            log::error!("a page for VMX is not given back: {error}");
        }
        return Err(Refusal::NoLowMemory.into());
    }
    // SAFETY: the frame was just given to us, and the processor does not know it yet.
    unsafe { memory::to_pointer(page).cast::<u32>().write(capabilities.revision()) };
    Ok(page)
}

/// Makes firmware's switch allow VMXON.
#[cfg(target_os = "none")]
fn open_feature() -> Result<(), Refusal> {
    // SAFETY: the register is there with VMX; it is written only while it is not locked, with the bits that the manual
    // gives (SDM volume 3 section 24.7).
    unsafe {
        if let Some(value) = allow(cpu::msr::read(FEATURE_CONTROL))? {
            cpu::msr::write(FEATURE_CONTROL, value);
        }
    }
    Ok(())
}

#[cfg(not(target_os = "none"))]
fn open_feature() -> Result<(), Refusal> {
    allow(LOCKED).map(|_| ())
}

/// Enters VMX operation for good.
#[cfg(target_os = "none")]
fn enter_operation(capabilities: &Capabilities, region: HostPhysical) -> Result<(), Refusal> {
    use x86_64::registers::control::{Cr0, Cr4};
    let (cr0, cr4) = (Cr0::read_raw(), Cr4::read_raw() | CR4_VMXE);
    if !capabilities.cr0_fixed.takes(cr0, 0) {
        return Err(Refusal::ControlRegister("CR0"));
    }
    if !capabilities.cr4_fixed.takes(cr4, 0) {
        return Err(Refusal::ControlRegister("CR4"));
    }
    // SAFETY: VMXE only allows VMXON; the region is this CPU's for good, and INIT signals, which VMX operation blocks,
    // are not sent to a CPU that runs.
    unsafe {
        Cr4::write_raw(cr4);
        super::machine::enter_operation(super::machine::pointer(region)).map_err(|_| Refusal::NotEntered)
    }
}

#[cfg(not(target_os = "none"))]
fn enter_operation(capabilities: &Capabilities, region: HostPhysical) -> Result<(), Refusal> {
    if !capabilities.cr4_fixed.takes(CR4_VMXE, 0) {
        return Err(Refusal::ControlRegister("CR4"));
    }
    // SAFETY: an ordinary process's function, which does nothing.
    unsafe { super::machine::enter_operation(super::machine::pointer(region)).map_err(|_| Refusal::NotEntered) }
}

/// Numbers for guests' translations; 0 is the host's.
const VPIDS: u16 = 4096;

static TAKEN: Mutex<[u64; VPIDS as usize / 64]> = Mutex::new({
    let mut taken = [0; VPIDS as usize / 64];
    taken[0] = 1;
    taken
});

/// A number that tags one virtual CPU's translations on every host CPU. A CPU on which it runs for the first time
/// forgets what it holds under the number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vpid(u16);

impl Vpid {
    pub(super) fn take() -> Result<Self, Refusal> {
        let mut taken = TAKEN.lock();
        for (word, at) in taken.iter_mut().zip(0u16..) {
            let free = word.trailing_ones();
            if free < 64 {
                *word |= 1 << free;
                // Below VPIDS.
                return Ok(Self(at * 64 + free as u16));
            }
        }
        Err(Refusal::TooManyGuests)
    }

    pub(super) const fn number(&self) -> u16 {
        self.0
    }
}

impl Drop for Vpid {
    fn drop(&mut self) {
        if let Some(word) = TAKEN.lock().get_mut(usize::from(self.0 / 64)) {
            *word &= !(1 << (self.0 % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::capability::recorded::arrow_lake;
    use super::*;

    #[test]
    fn firmwares_switch_is_set_kept_or_named() {
        assert_eq!(allow(0), Ok(Some(LOCKED | VMX_OUTSIDE_SMX)));
        assert_eq!(allow(1 << 20), Ok(Some(1 << 20 | LOCKED | VMX_OUTSIDE_SMX)));
        assert_eq!(allow(LOCKED | VMX_OUTSIDE_SMX), Ok(None));
        assert_eq!(allow(LOCKED), Err(Refusal::LockedOff));
        assert!(Refusal::LockedOff.to_string().contains("VT-x"));
    }

    #[test]
    fn tables_that_lack_something_are_refused_by_name() {
        let check = |ept_vpid| {
            let capabilities = arrow_lake(&[(0x48c, ept_vpid)]);
            check_tables(&capabilities, &controls::choose(&capabilities, |_| ()).unwrap())
        };
        let all = 0x0000_0f01_06f3_4141;
        assert_eq!(check(all), Ok(()));
        assert_eq!(check(all & !(1 << 6)), Err(Refusal::Tables("tables of 4 levels")));
        assert_eq!(check(all & !(1 << 14)), Err(Refusal::Tables("write-back tables")));
        assert_eq!(check(all & !(1 << 20)), Err(Refusal::Tables("INVEPT")));
        assert_eq!(check(all & !(1 << 32)), Err(Refusal::Tables("INVVPID of one guest or of all")));
    }

    #[test]
    fn numbers_are_never_the_hosts_and_never_shared() {
        let (first, second) = (Vpid::take().unwrap(), Vpid::take().unwrap());
        assert!(first.number() != 0 && second.number() != 0 && first != second);
        let freed = first.number();
        drop(first);
        assert!((0..3).any(|_| Vpid::take().is_ok_and(|vpid| vpid.number() <= freed)));
    }
}
