//! The fields of a virtual-machine control structure (SDM volume 3 appendix B), in one family for each width: a field
//! of one family cannot be read or written as if it were of another.

/// A field, and what it holds.
pub(super) trait Field: Copy {
    /// What the field holds.
    type Value: Copy;
    /// Its encoding, as VMREAD and VMWRITE take it.
    fn encoding(self) -> u32;
    /// What VMREAD gave.
    fn narrow(raw: u64) -> Self::Value;
    /// What VMWRITE takes.
    fn widen(value: Self::Value) -> u64;
}

macro_rules! family {
    ($(#[$about:meta])* $name:ident: $value:ty, width $width:literal; $($field:ident = $encoding:literal,)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub(super) enum $name { $($field = $encoding,)* }

        impl $name {
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$field,)*];
        }

        impl Field for $name {
            type Value = $value;

            #[inline]
            fn encoding(self) -> u32 {
                self as u32
            }

            #[inline]
            fn narrow(raw: u64) -> $value {
                raw as $value
            }

            #[inline]
            fn widen(value: $value) -> u64 {
                value as u64
            }
        }

        // Bits 14:13 of an encoding are the width: 0 16 bits, 1 64 bits, 2 32 bits, 3 natural. Bit 0 would be the
        // upper half of a 64-bit field.
        const _: () = { $(assert!($encoding >> 13 & 3 == $width && $encoding & 1 == 0);)* };
    };
}

family! {
    /// Fields of 16 bits.
    Field16: u16, width 0;
    Vpid = 0x0000,
    NotificationVector = 0x0002,
    GuestEs = 0x0800,
    GuestCs = 0x0802,
    GuestSs = 0x0804,
    GuestDs = 0x0806,
    GuestFs = 0x0808,
    GuestGs = 0x080a,
    GuestLdtr = 0x080c,
    GuestTr = 0x080e,
    GuestInterruptStatus = 0x0810,
    HostEs = 0x0c00,
    HostCs = 0x0c02,
    HostSs = 0x0c04,
    HostDs = 0x0c06,
    HostFs = 0x0c08,
    HostGs = 0x0c0a,
    HostTr = 0x0c0c,
}

family! {
    /// Fields of 64 bits.
    Field64: u64, width 1;
    PortBitmapA = 0x2000,
    PortBitmapB = 0x2002,
    MsrBitmap = 0x2004,
    TimestampOffset = 0x2010,
    VirtualApicPage = 0x2012,
    ApicAccessPage = 0x2014,
    PostedInterruptDescriptor = 0x2016,
    EptPointer = 0x201a,
    EoiExit0 = 0x201c,
    EoiExit1 = 0x201e,
    EoiExit2 = 0x2020,
    EoiExit3 = 0x2022,
    EnclsExiting = 0x202e,
    GuestPhysicalAddress = 0x2400,
    LinkPointer = 0x2800,
    GuestDebugControl = 0x2802,
    GuestPat = 0x2804,
    GuestEfer = 0x2806,
    GuestPdpte0 = 0x280a,
    GuestPdpte1 = 0x280c,
    GuestPdpte2 = 0x280e,
    GuestPdpte3 = 0x2810,
    HostPat = 0x2c00,
    HostEfer = 0x2c02,
}

family! {
    /// Fields of 32 bits.
    Field32: u32, width 2;
    PinControls = 0x4000,
    PrimaryControls = 0x4002,
    ExceptionBitmap = 0x4004,
    PageFaultMask = 0x4006,
    PageFaultMatch = 0x4008,
    Cr3TargetCount = 0x400a,
    ExitControls = 0x400c,
    ExitMsrStoreCount = 0x400e,
    ExitMsrLoadCount = 0x4010,
    EntryControls = 0x4012,
    EntryMsrLoadCount = 0x4014,
    EntryInterruption = 0x4016,
    EntryErrorCode = 0x4018,
    EntryInstructionLength = 0x401a,
    TaskPriorityThreshold = 0x401c,
    SecondaryControls = 0x401e,
    InstructionError = 0x4400,
    ExitReason = 0x4402,
    ExitInterruption = 0x4404,
    IdtVectoring = 0x4408,
    IdtVectoringErrorCode = 0x440a,
    InstructionLength = 0x440c,
    GuestEsLimit = 0x4800,
    GuestCsLimit = 0x4802,
    GuestSsLimit = 0x4804,
    GuestDsLimit = 0x4806,
    GuestFsLimit = 0x4808,
    GuestGsLimit = 0x480a,
    GuestLdtrLimit = 0x480c,
    GuestTrLimit = 0x480e,
    GuestGdtrLimit = 0x4810,
    GuestIdtrLimit = 0x4812,
    GuestEsRights = 0x4814,
    GuestCsRights = 0x4816,
    GuestSsRights = 0x4818,
    GuestDsRights = 0x481a,
    GuestFsRights = 0x481c,
    GuestGsRights = 0x481e,
    GuestLdtrRights = 0x4820,
    GuestTrRights = 0x4822,
    Interruptibility = 0x4824,
    ActivityState = 0x4826,
    GuestSysenterCs = 0x482a,
    HostSysenterCs = 0x4c00,
}

family! {
    /// Fields of the processor's natural width.
    FieldNatural: u64, width 3;
    Cr0Mask = 0x6000,
    Cr4Mask = 0x6002,
    Cr0Shadow = 0x6004,
    Cr4Shadow = 0x6006,
    ExitQualification = 0x6400,
    GuestCr0 = 0x6800,
    GuestCr3 = 0x6802,
    GuestCr4 = 0x6804,
    GuestEsBase = 0x6806,
    GuestCsBase = 0x6808,
    GuestSsBase = 0x680a,
    GuestDsBase = 0x680c,
    GuestFsBase = 0x680e,
    GuestGsBase = 0x6810,
    GuestLdtrBase = 0x6812,
    GuestTrBase = 0x6814,
    GuestGdtrBase = 0x6816,
    GuestIdtrBase = 0x6818,
    GuestDr7 = 0x681a,
    GuestRsp = 0x681c,
    GuestRip = 0x681e,
    GuestFlags = 0x6820,
    PendingDebug = 0x6822,
    GuestSysenterEsp = 0x6824,
    GuestSysenterEip = 0x6826,
    HostCr0 = 0x6c00,
    HostCr3 = 0x6c02,
    HostCr4 = 0x6c04,
    HostFsBase = 0x6c06,
    HostGsBase = 0x6c08,
    HostTrBase = 0x6c0a,
    HostGdtrBase = 0x6c0c,
    HostIdtrBase = 0x6c0e,
    HostSysenterEsp = 0x6c10,
    HostSysenterEip = 0x6c12,
    HostRip = 0x6c16,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_fields_have_one_encoding() {
        let mut seen = HashSet::new();
        let all = [
            Field16::ALL.iter().map(|field| field.encoding()).collect::<Vec<_>>(),
            Field32::ALL.iter().map(|field| field.encoding()).collect(),
            Field64::ALL.iter().map(|field| field.encoding()).collect(),
            FieldNatural::ALL.iter().map(|field| field.encoding()).collect(),
        ]
        .concat();
        assert!(all.len() > 110);
        assert!(all.iter().all(|encoding| seen.insert(*encoding)));
    }
}
