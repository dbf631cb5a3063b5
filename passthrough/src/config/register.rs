//! Registers of configuration space: offsets and bits (PCI 3.0 chapter 6, PCI Express Base chapter 7).

/// Vendor id, 2 bytes; all ones where no function answers.
pub const VENDOR: u16 = 0x00;
/// Command, 2 bytes.
pub const COMMAND: u16 = 0x04;
/// Status, 2 bytes.
pub const STATUS: u16 = 0x06;
/// Header type, 1 byte.
pub const HEADER_TYPE: u16 = 0x0e;
/// The expansion ROM's base, 4 bytes.
pub const ROM: u16 = 0x30;
/// The address bits of that register.
pub const ROM_ADDRESS: u32 = 0xffff_f800;
/// The enable bit of that register.
pub const ROM_ENABLE: u32 = 1;
/// The first capability, 1 byte.
pub const CAPABILITY_POINTER: u16 = 0x34;
/// Interrupt line, 1 byte.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 1 byte: 0 none, 1 to 4 INTA to INTD.
pub const INTERRUPT_PIN: u16 = 0x3d;
/// Bridge control of a bridge, 2 bytes.
pub const BRIDGE_CONTROL: u16 = 0x3e;
/// In bridge control: resets the bus below.
pub const SECONDARY_BUS_RESET: u16 = 1 << 6;

/// The offset of BAR `index`, 0 to 5.
pub const fn bar(index: usize) -> u16 {
    match index {
        0 => 0x10,
        1 => 0x14,
        2 => 0x18,
        3 => 0x1c,
        4 => 0x20,
        _ => 0x24,
    }
}

/// Bits of the command register.
pub mod command {
    /// Answers to I/O.
    pub const IO: u16 = 1 << 0;
    /// Answers to memory.
    pub const MEMORY: u16 = 1 << 1;
    /// May send requests.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Reports errors by SERR#.
    pub const SYSTEM_ERROR: u16 = 1 << 8;
    /// Does not raise its interrupt wire.
    pub const INTERRUPT_DISABLE: u16 = 1 << 10;
    /// Every bit that means something.
    pub const DEFINED: u16 = 0x07ff;
}

/// Bits of the status register.
pub mod status {
    /// The function's interrupt wire is asserted (whether or not the command register lets it through).
    pub const INTERRUPT: u16 = 1 << 3;
    /// There is a chain of capabilities.
    pub const CAPABILITIES: u16 = 1 << 4;
}

/// Power management: offsets in the capability, and bits.
pub mod power {
    /// Control and status, 2 bytes.
    pub const CONTROL: u16 = 4;
    /// The state, 0 (D0) to 3 (D3hot).
    pub const STATE: u16 = 0b11;
    /// D3hot.
    pub const D3_HOT: u16 = 3;
    /// The function keeps its state from D3hot to D0.
    pub const NO_SOFT_RESET: u16 = 1 << 3;
}

/// PCI Express: offsets in the capability, and bits.
pub mod express {
    /// Device capabilities, 4 bytes.
    pub const DEVICE_CAPABILITIES: u16 = 4;
    /// In device capabilities: the function can be reset alone.
    pub const FUNCTION_LEVEL_RESET: u32 = 1 << 28;
    /// Device control, 2 bytes.
    pub const DEVICE_CONTROL: u16 = 8;
    /// In device control: resets the function.
    pub const INITIATE_RESET: u16 = 1 << 15;
    /// In device control: the largest payload, 128 bytes << n.
    pub const PAYLOAD: u16 = 0b111 << 5;
    /// In device control: phantom functions.
    pub const PHANTOM: u16 = 1 << 9;
    /// In device control: the largest read request, 128 bytes << n.
    pub const READ_REQUEST: u16 = 0b111 << 12;
    /// Device status, 2 bytes.
    pub const DEVICE_STATUS: u16 = 10;
    /// In device status: requests are outstanding.
    pub const TRANSACTIONS_PENDING: u16 = 1 << 5;
    /// Link control, 2 bytes.
    pub const LINK_CONTROL: u16 = 16;
    /// Device control 2, 2 bytes; version 2 of the capability.
    pub const DEVICE_CONTROL_2: u16 = 40;
    /// In device control 2: ARI forwarding.
    pub const ARI_FORWARDING: u16 = 1 << 5;
    /// Link control 2, 2 bytes; version 2 of the capability.
    pub const LINK_CONTROL_2: u16 = 48;
}

/// Advanced features: offsets in the capability, and bits.
pub mod advanced {
    /// Capabilities, 1 byte.
    pub const CAPABILITIES: u16 = 3;
    /// In capabilities: the transactions-pending bit is there.
    pub const HAS_PENDING: u8 = 1 << 0;
    /// In capabilities: the function can be reset alone.
    pub const HAS_RESET: u8 = 1 << 1;
    /// Control, 1 byte.
    pub const CONTROL: u16 = 4;
    /// In control: resets the function.
    pub const INITIATE_RESET: u8 = 1 << 0;
    /// Status, 1 byte.
    pub const STATUS: u16 = 5;
    /// In status: requests are outstanding.
    pub const TRANSACTIONS_PENDING: u8 = 1 << 0;
}

/// MSI: offsets in the capability, and bits.
pub mod msi {
    /// Message control, 2 bytes.
    pub const CONTROL: u16 = 2;
    /// In control: on.
    pub const ENABLE: u16 = 1 << 0;
    /// In control: log2 of the messages that the function wants, shifted by 1.
    pub const WANTED: u16 = 0b111 << 1;
    /// In control: log2 of the messages in use, shifted by 4.
    pub const IN_USE: u16 = 0b111 << 4;
    /// In control: the address has 64 bits.
    pub const WIDE: u16 = 1 << 7;
    /// In control: each message can be masked.
    pub const MASKABLE: u16 = 1 << 8;
    /// Address, 4 bytes.
    pub const ADDRESS: u16 = 4;
    /// Upper address of a wide one, 4 bytes.
    pub const ADDRESS_HIGH: u16 = 8;
}

/// MSI-X: offsets in the capability and in a table entry, and bits.
pub mod msix {
    /// Message control, 2 bytes.
    pub const CONTROL: u16 = 2;
    /// In control: on.
    pub const ENABLE: u16 = 1 << 15;
    /// In control: every vector is masked.
    pub const MASK_ALL: u16 = 1 << 14;
    /// In control: entries of the table less one.
    pub const SIZE: u16 = 0x07ff;
    /// The table's BAR in bits 2:0, its offset in the rest, 4 bytes.
    pub const TABLE: u16 = 4;
    /// The same for the pending bits, 4 bytes.
    pub const PENDING: u16 = 8;
    /// In these two: the BAR.
    pub const BAR: u32 = 0b111;
    /// Bytes of one table entry: address 8, data 4, vector control 4.
    pub const ENTRY: u64 = 16;
    /// In vector control: masked.
    pub const MASKED: u32 = 1;
}
