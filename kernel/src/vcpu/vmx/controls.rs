//! Which VMX controls an engine runs with, chosen from what the processor takes: one table for all of them.
//!
//! A processor is never assumed to have a control. What is required and absent is refused by name; what is wanted and
//! absent is done without, and the log says so once; what is forbidden must be possible to leave off.

use core::fmt;

use super::capability::{Allowed, Capabilities};

/// The words of controls (SDM volume 3 sections 25.6 to 25.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Word {
    Pin,
    Primary,
    Secondary,
    Exit,
    Entry,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pin => "pin-based",
            Self::Primary => "primary processor-based",
            Self::Secondary => "secondary processor-based",
            Self::Exit => "exit",
            Self::Entry => "entry",
        })
    }
}

/// What is asked of a control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Always on.
    Required,
    /// Switched on and off while guests run; off at first.
    Switched,
    /// On where the processor has it and all that it needs.
    Wanted,
    /// Wanted, and switched on and off while guests run.
    WantedSwitched,
    /// Never on.
    Forbidden,
}

/// A control: where it is, and what is asked of it.
pub(super) struct Control {
    pub(super) word: Word,
    pub(super) bit: u32,
    pub(super) name: &'static str,
    pub(super) demand: Demand,
    /// Without which others it must stay off.
    pub(super) needs: &'static [(Word, u32)],
    pub(super) why: &'static str,
}

pub(super) const EXTERNAL_INTERRUPT: u32 = 1 << 0;
pub(super) const NMI: u32 = 1 << 3;
pub(super) const VIRTUAL_NMI: u32 = 1 << 5;
pub(super) const PREEMPTION_TIMER: u32 = 1 << 6;
pub(super) const POSTED_INTERRUPTS: u32 = 1 << 7;

pub(super) const INTERRUPT_WINDOW: u32 = 1 << 2;
pub(super) const TSC_OFFSET: u32 = 1 << 3;
const HALT: u32 = 1 << 7;
const INVALIDATE_PAGE: u32 = 1 << 9;
const MWAIT: u32 = 1 << 10;
const READ_COUNTER: u32 = 1 << 11;
const READ_TIMESTAMP: u32 = 1 << 12;
const CR3_LOAD: u32 = 1 << 15;
const CR3_STORE: u32 = 1 << 16;
const CR8_LOAD: u32 = 1 << 19;
const CR8_STORE: u32 = 1 << 20;
pub(super) const TPR_SHADOW: u32 = 1 << 21;
pub(super) const NMI_WINDOW: u32 = 1 << 22;
const DEBUG_REGISTERS: u32 = 1 << 23;
const UNCONDITIONAL_PORT: u32 = 1 << 24;
pub(super) const PORT_BITMAPS: u32 = 1 << 25;
const MONITOR_TRAP: u32 = 1 << 27;
pub(super) const MSR_BITMAPS: u32 = 1 << 28;
const MONITOR: u32 = 1 << 29;
const PAUSE: u32 = 1 << 30;
pub(super) const ACTIVATE_SECONDARY: u32 = 1 << 31;

pub(super) const APIC_ACCESSES: u32 = 1 << 0;
pub(super) const EPT: u32 = 1 << 1;
const DESCRIPTOR_TABLES: u32 = 1 << 2;
const RDTSCP: u32 = 1 << 3;
pub(super) const X2APIC_MODE: u32 = 1 << 4;
pub(super) const VPID: u32 = 1 << 5;
const WBINVD: u32 = 1 << 6;
pub(super) const UNRESTRICTED: u32 = 1 << 7;
pub(super) const APIC_REGISTERS: u32 = 1 << 8;
pub(super) const INTERRUPT_DELIVERY: u32 = 1 << 9;
pub(super) const ENCLS: u32 = 1 << 15;

pub(super) const SAVE_DEBUG: u32 = 1 << 2;
pub(super) const HOST_64: u32 = 1 << 9;
pub(super) const ACKNOWLEDGE: u32 = 1 << 15;
pub(super) const LOAD_HOST_PAT: u32 = 1 << 19;
pub(super) const LOAD_HOST_EFER: u32 = 1 << 21;
pub(super) const SAVE_PREEMPTION_TIMER: u32 = 1 << 22;

pub(super) const LOAD_DEBUG: u32 = 1 << 2;
pub(super) const LONG_MODE_GUEST: u32 = 1 << 9;
pub(super) const LOAD_PAT: u32 = 1 << 14;
pub(super) const LOAD_EFER: u32 = 1 << 15;

macro_rules! table {
    ($($word:ident $bit:expr, $name:literal, $demand:ident [$($need_word:ident $need:expr),*] $why:literal;)*) => {
        &[$(Control {
            word: Word::$word,
            bit: $bit,
            name: $name,
            demand: Demand::$demand,
            needs: &[$((Word::$need_word, $need)),*],
            why: $why,
        }),*]
    };
}

/// Every control that an engine has an opinion on. A bit that is not here is set as the processor demands it.
pub(super) const TABLE: &[Control] = table! {
    Pin EXTERNAL_INTERRUPT, "external-interrupt exiting", Required [] "the host handles its devices' interrupts";
    Pin NMI, "NMI exiting", Required [] "the host handles its NMIs";
    Pin VIRTUAL_NMI, "virtual NMIs", Required [Pin NMI] "the processor knows when a guest can take its next NMI";
    Pin PREEMPTION_TIMER, "VMX-preemption timer", Wanted [] "a guest's time slice without the host's timer";
    Pin POSTED_INTERRUPTS, "process posted interrupts", Wanted
        [Secondary INTERRUPT_DELIVERY, Secondary APIC_REGISTERS, Secondary X2APIC_MODE, Exit ACKNOWLEDGE]
        "interrupts for a running guest cause no exit";

    Primary INTERRUPT_WINDOW, "interrupt-window exiting", Switched [] "an interrupt waits for the guest's flag";
    Primary TSC_OFFSET, "use TSC offsetting", Required [] "a guest's time-stamp counter is its own";
    Primary HALT, "HLT exiting", Required [] "a halted guest gives its processor back";
    Primary INVALIDATE_PAGE, "INVLPG exiting", Forbidden [] "extended page tables make it needless";
    Primary MWAIT, "MWAIT exiting", Required [] "guests are not shown it, and it would hold the processor";
    Primary READ_COUNTER, "RDPMC exiting", Required [] "the counters are the host's";
    Primary READ_TIMESTAMP, "RDTSC exiting", Forbidden [] "the offset is enough";
    Primary CR3_LOAD, "CR3-load exiting", Forbidden [] "extended page tables make it needless";
    Primary CR3_STORE, "CR3-store exiting", Forbidden [] "extended page tables make it needless";
    Primary CR8_LOAD, "CR8-load exiting", Forbidden [] "the TPR shadow takes it";
    Primary CR8_STORE, "CR8-store exiting", Forbidden [] "the TPR shadow gives it";
    Primary TPR_SHADOW, "use TPR shadow", Required [] "CR8 is accessed without an exit, and its fall is seen";
    Primary NMI_WINDOW, "NMI-window exiting", Switched [Pin VIRTUAL_NMI] "an NMI waits for the one before";
    Primary DEBUG_REGISTERS, "MOV-DR exiting", Forbidden [] "debug registers are switched with the guest";
    Primary UNCONDITIONAL_PORT, "unconditional I/O exiting", Forbidden [] "the bitmaps say it";
    Primary PORT_BITMAPS, "use I/O bitmaps", Required [] "which ports a guest reaches";
    Primary MONITOR_TRAP, "monitor trap flag", Forbidden [] "nobody steps guests";
    Primary MSR_BITMAPS, "use MSR bitmaps", Required [] "which registers a guest reaches";
    Primary MONITOR, "MONITOR exiting", Required [] "guests are not shown it";
    Primary PAUSE, "PAUSE exiting", Forbidden [] "spinning costs the guest its own slice";
    Primary ACTIVATE_SECONDARY, "activate secondary controls", Required [] "extended page tables are among them";

    Secondary EPT, "enable EPT", Required [] "a guest reaches its own memory only";
    Secondary UNRESTRICTED, "unrestricted guest", Required [Secondary EPT] "guests begin in real mode";
    Secondary APIC_ACCESSES, "virtualize APIC accesses", WantedSwitched
        [Primary TPR_SHADOW] "an access to the local APIC says which register it meant";
    Secondary DESCRIPTOR_TABLES, "descriptor-table exiting", Forbidden [] "a guest's tables are its own";
    Secondary RDTSCP, "enable RDTSCP", Wanted [] "guests are shown it where the processor has it";
    Secondary X2APIC_MODE, "virtualize x2APIC mode", WantedSwitched
        [Primary TPR_SHADOW] "a local APIC in x2APIC mode is read without an exit";
    Secondary VPID, "enable VPID", Wanted [] "translations outlive an exit";
    Secondary WBINVD, "WBINVD exiting", Required [] "the guest's caches are the host's";
    Secondary APIC_REGISTERS, "APIC-register virtualization", WantedSwitched
        [Primary TPR_SHADOW, Secondary APIC_ACCESSES] "the local APIC's registers are read without an exit";
    Secondary INTERRUPT_DELIVERY, "virtual-interrupt delivery", WantedSwitched
        [Primary TPR_SHADOW, Pin EXTERNAL_INTERRUPT, Secondary APIC_ACCESSES]
        "interrupts are delivered and ended without an exit";
    Secondary 1 << 10, "PAUSE-loop exiting", Forbidden [] "spinning costs the guest its own slice";
    Secondary 1 << 11, "RDRAND exiting", Forbidden [] "random numbers are for everybody";
    Secondary 1 << 12, "enable INVPCID", Forbidden [] "guests are not shown it: #UD";
    Secondary 1 << 13, "enable VM functions", Forbidden [] "none is offered";
    Secondary 1 << 14, "VMCS shadowing", Forbidden [] "guests have no VMX";
    Secondary ENCLS, "ENCLS exiting", Wanted [] "enclaves are not virtualized: #UD";
    Secondary 1 << 16, "RDSEED exiting", Forbidden [] "random numbers are for everybody";
    Secondary 1 << 17, "enable PML", Forbidden [] "nobody asks what a guest wrote";
    Secondary 1 << 18, "EPT-violation #VE", Forbidden [] "the hypervisor handles its own faults";
    Secondary 1 << 20, "enable XSAVES", Forbidden [] "guests are not shown it: #UD";
    Secondary 1 << 22, "mode-based execute control", Forbidden [] "permissions have one execute bit";
    Secondary 1 << 25, "use TSC scaling", Forbidden [] "guests see the machine's own rate";
    Secondary 1 << 26, "enable user wait and pause", Forbidden [] "guests are not shown it: #UD";
    Secondary 1 << 27, "enable PCONFIG", Forbidden [] "guests are not shown it: #UD";

    Exit SAVE_DEBUG, "save debug controls", Required [] "DR7 is switched with the guest";
    Exit HOST_64, "host address-space size", Required [] "the hypervisor runs in 64-bit mode";
    Exit 1 << 12, "load PERF_GLOBAL_CTRL", Forbidden [] "counters are not virtualized";
    Exit ACKNOWLEDGE, "acknowledge interrupt on exit", Required [] "posted interrupts need it, and one path is enough";
    Exit LOAD_HOST_PAT, "load IA32_PAT", Required [] "the guest's is its own";
    Exit LOAD_HOST_EFER, "load IA32_EFER", Required [] "the guest's is its own";
    Exit SAVE_PREEMPTION_TIMER, "save VMX-preemption timer value", Forbidden [] "each entry says how long it may last";

    Entry LOAD_DEBUG, "load debug controls", Required [] "DR7 is switched with the guest";
    Entry LONG_MODE_GUEST, "IA-32e mode guest", Switched [] "it follows the guest's EFER";
    Entry 1 << 10, "entry to SMM", Forbidden [] "guests have no SMM";
    Entry 1 << 11, "deactivate dual-monitor treatment", Forbidden [] "guests have no SMM";
    Entry 1 << 13, "load PERF_GLOBAL_CTRL", Forbidden [] "counters are not virtualized";
    Entry LOAD_PAT, "load IA32_PAT", Required [] "the guest's is its own";
    Entry LOAD_EFER, "load IA32_EFER", Required [] "the guest's is its own";
};

/// The controls to run with. Those that are switched at run time are off in the words; whether they may be switched on
/// says [`has`](Self::has).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Controls {
    words: [u32; 5],
    available: [u32; 5],
}

impl Controls {
    /// The word to begin with.
    pub(super) const fn word(&self, word: Word) -> u32 {
        self.words[word as usize]
    }

    /// Whether the control is on, or may be switched on.
    pub(super) const fn has(&self, word: Word, bit: u32) -> bool {
        (self.words[word as usize] | self.available[word as usize]) & bit == bit
    }
}

/// A control for which the processor does not do what has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit {
    word: Word,
    name: &'static str,
    why: &'static str,
    /// It cannot be switched on; otherwise it cannot be switched off.
    absent: bool,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { word, name, why, absent } = self;
        let cannot = if *absent { "has no" } else { "cannot run without" };
        write!(f, "the processor {cannot} \"{name}\" ({word} control): {why}")
    }
}

const fn allowed(capabilities: &Capabilities, word: Word) -> Allowed {
    match word {
        Word::Pin => capabilities.pin,
        Word::Primary => capabilities.primary,
        Word::Secondary => capabilities.secondary,
        Word::Exit => capabilities.exit,
        Word::Entry => capabilities.entry,
    }
}

/// The controls to run with on a processor of these capabilities. `without` is told every wanted control that is done
/// without.
///
/// # Errors
///
/// The first control that has to be otherwise.
pub(super) fn choose(
    capabilities: &Capabilities,
    mut without: impl FnMut(&'static Control),
) -> Result<Controls, Unfit> {
    let mut chosen = Controls { words: [0; 5], available: [0; 5] };
    for word in [Word::Pin, Word::Primary, Word::Secondary, Word::Exit, Word::Entry] {
        chosen.words[word as usize] = allowed(capabilities, word).must();
    }
    for control in TABLE {
        let allowed = allowed(capabilities, control.word);
        let (may, must) = (allowed.may() & control.bit != 0, allowed.must() & control.bit != 0);
        let unfit = Unfit { word: control.word, name: control.name, why: control.why, absent: !may };
        match control.demand {
            Demand::Required | Demand::Switched if !may => return Err(unfit),
            Demand::Forbidden | Demand::Switched | Demand::WantedSwitched if must => return Err(unfit),
            _ => {}
        }
        if may && control.demand != Demand::Forbidden {
            chosen.available[control.word as usize] |= control.bit;
        }
    }
    // What needs something that is absent goes, and what needs that, until nothing goes any more.
    loop {
        let before = chosen.available;
        for control in TABLE {
            if chosen.available[control.word as usize] & control.bit != 0
                && let Some((word, bit)) = control.needs.iter().find(|(word, bit)| !chosen.has(*word, *bit))
            {
                match control.demand {
                    Demand::Required | Demand::Switched => {
                        let missing = TABLE.iter().find(|other| other.word == *word && other.bit == *bit);
                        let name = missing.map_or(control.name, |missing| missing.name);
                        return Err(Unfit { word: *word, name, why: control.why, absent: true });
                    }
                    _ => chosen.available[control.word as usize] &= !control.bit,
                }
            }
        }
        if chosen.available == before {
            break;
        }
    }
    for control in TABLE {
        let available = chosen.available[control.word as usize] & control.bit != 0;
        match control.demand {
            Demand::Required | Demand::Wanted if available => chosen.words[control.word as usize] |= control.bit,
            Demand::Wanted | Demand::WantedSwitched if !available => without(control),
            _ => {}
        }
    }
    Ok(chosen)
}

/// How a guest gets its interrupts: the rungs of a ladder, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The processor takes them out of the descriptor by itself.
    Posted,
    /// The processor delivers what it finds in the virtual-APIC page; a running guest is made to leave for new ones.
    Virtual,
    /// They are injected one by one when the guest can take them.
    Window,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Posted => "posted interrupts",
            Self::Virtual => "virtual-interrupt delivery without posting",
            Self::Window => "injection in interrupt windows",
        })
    }
}

impl Controls {
    /// The highest rung that these controls reach, and the name of the control that the next higher one lacks.
    pub(super) fn delivery(&self) -> (Delivery, Option<&'static str>) {
        let lacks = |wanted: &[(Word, u32)]| {
            let missing = wanted.iter().find(|(word, bit)| !self.has(*word, *bit))?;
            TABLE.iter().find(|control| (control.word, control.bit) == *missing).map(|control| control.name)
        };
        let virtual_delivery = [
            (Word::Secondary, APIC_ACCESSES),
            (Word::Secondary, APIC_REGISTERS),
            (Word::Secondary, X2APIC_MODE),
            (Word::Secondary, INTERRUPT_DELIVERY),
        ];
        if let Some(missing) = lacks(&virtual_delivery) {
            return (Delivery::Window, Some(missing));
        }
        match lacks(&[(Word::Pin, POSTED_INTERRUPTS)]) {
            Some(missing) => (Delivery::Virtual, Some(missing)),
            None => (Delivery::Posted, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::capability::recorded::arrow_lake;
    use super::*;

    fn chosen(replaced: &[(u32, u64)]) -> Result<Controls, Unfit> {
        choose(&arrow_lake(replaced), |_| ())
    }

    #[test]
    fn every_control_stands_once_and_says_why() {
        let mut seen = HashSet::new();
        for control in TABLE {
            assert!(control.bit.is_power_of_two() && !control.why.is_empty(), "{}", control.name);
            assert!(seen.insert((control.word as usize, control.bit)), "{} stands twice", control.name);
            for need in control.needs {
                assert!(
                    TABLE.iter().any(|other| (other.word, other.bit) == *need),
                    "{} needs a stranger",
                    control.name
                );
            }
        }
    }

    #[test]
    fn the_recorded_machine_lacks_only_what_concerns_enclaves() {
        let mut without = Vec::new();
        let capabilities = arrow_lake(&[]);
        let controls = choose(&capabilities, |control| without.push(control.name)).unwrap();
        assert_eq!(without, ["ENCLS exiting"]);
        assert_eq!(controls.delivery(), (Delivery::Posted, None));
        assert_eq!(controls.word(Word::Pin), 0xff);
        for word in [Word::Pin, Word::Primary, Word::Secondary, Word::Exit, Word::Entry] {
            assert!(allowed(&capabilities, word).takes(controls.word(word)), "{word}");
        }
        assert_eq!(controls.word(Word::Secondary) & (APIC_ACCESSES | X2APIC_MODE), 0, "switched by the APIC's mode");
    }

    /// An MSR of capabilities without one control.
    fn lacking(word: Word, bit: u32) -> Vec<(u32, u64)> {
        let number = match word {
            Word::Pin => 0x48d,
            Word::Primary => 0x48e,
            Word::Secondary => 0x48b,
            Word::Exit => 0x48f,
            Word::Entry => 0x490,
        };
        let recorded = super::super::capability::recorded::ARROW_LAKE;
        let value = recorded.iter().find(|(known, _)| *known == number).unwrap().1;
        vec![(number, value & !(u64::from(bit) << 32 | u64::from(bit)))]
    }

    #[test]
    fn a_processor_that_lacks_any_one_control_is_refused_by_name_or_done_without() {
        for control in TABLE {
            let mut without = Vec::new();
            let result = choose(&arrow_lake(&lacking(control.word, control.bit)), |control| without.push(control.name));
            match control.demand {
                Demand::Required | Demand::Switched => {
                    assert_eq!(result.unwrap_err().name, control.name);
                }
                Demand::Wanted | Demand::WantedSwitched => {
                    assert!(!result.unwrap().has(control.word, control.bit));
                    assert!(without.contains(&control.name), "{} is missed", control.name);
                }
                Demand::Forbidden => assert!(!result.unwrap().has(control.word, control.bit)),
            }
        }
    }

    #[test]
    fn a_processor_that_insists_on_a_forbidden_control_is_refused_by_name() {
        let refusal = chosen(&[(0x480, 0x0058_1000_0000_0004)]).unwrap_err();
        assert_eq!((refusal.name, refusal.absent), ("CR3-load exiting", false));
        assert!(refusal.to_string().contains("cannot run without \"CR3-load exiting\""));
    }

    #[test]
    fn what_is_left_without_its_need_goes_too() {
        let mut without = Vec::new();
        let lacks = lacking(Word::Secondary, INTERRUPT_DELIVERY);
        let controls = choose(&arrow_lake(&lacks), |control| without.push(control.name)).unwrap();
        assert_eq!(without, ["process posted interrupts", "virtual-interrupt delivery", "ENCLS exiting"]);
        assert_eq!(controls.delivery(), (Delivery::Window, Some("virtual-interrupt delivery")));
        assert_eq!(controls.word(Word::Pin) & POSTED_INTERRUPTS, 0);
    }

    #[test]
    fn the_ladder_has_three_rungs() {
        let controls = chosen(&lacking(Word::Pin, POSTED_INTERRUPTS)).unwrap();
        assert_eq!(controls.delivery(), (Delivery::Virtual, Some("process posted interrupts")));
        let controls = chosen(&lacking(Word::Secondary, APIC_ACCESSES)).unwrap();
        assert_eq!(controls.delivery(), (Delivery::Window, Some("virtualize APIC accesses")));
    }
}
