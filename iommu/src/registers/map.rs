//! The one table of registers: offset, width, meaning, access (VT-d section 11.4).

use crate::queue::register::ContextCommand;
use crate::registers::access::{ReadOnly, ReadWrite, WriteOneToClear, WriteOnly};
use crate::registers::capability::{Capability, ExtendedCapability, Version};
use crate::registers::status::{
    EventAddress, EventControl, EventData, EventUpperAddress, FaultStatus, GlobalStatus, InterruptTableAddress,
    ProtectedHighAddress, ProtectedLowAddress, ProtectedMemoryEnable, QueueAddress, QueueErrorRecord, QueuePosition,
    RootTableAddress,
};
use crate::registers::{Register, command};

/// The architecture's version.
pub const VERSION: Register<Version, ReadOnly> = Register::at(0x00);
/// Capabilities.
pub const CAPABILITY: Register<Capability, ReadOnly> = Register::at(0x08);
/// More capabilities.
pub const EXTENDED_CAPABILITY: Register<ExtendedCapability, ReadOnly> = Register::at(0x10);
/// Commands; written by [`command::Commander`] alone.
pub(super) const GLOBAL_COMMAND: Register<command::CommandWord, WriteOnly> = Register::at(0x18);
/// The commands that are in force.
pub const GLOBAL_STATUS: Register<GlobalStatus, ReadOnly> = Register::at(0x1c);
/// The root table.
pub const ROOT_TABLE_ADDRESS: Register<RootTableAddress, ReadWrite> = Register::at(0x20);
/// An invalidation of context entries, on units without a queue.
pub const CONTEXT_COMMAND: Register<ContextCommand, ReadWrite> = Register::at(0x28);
/// What went wrong.
pub const FAULT_STATUS: Register<FaultStatus, WriteOneToClear> = Register::at(0x34);
/// The control of the fault message.
pub const FAULT_EVENT_CONTROL: Register<EventControl, ReadWrite> = Register::at(0x38);
/// The data of the fault message.
pub const FAULT_EVENT_DATA: Register<EventData, ReadWrite> = Register::at(0x3c);
/// The address of the fault message.
pub const FAULT_EVENT_ADDRESS: Register<EventAddress, ReadWrite> = Register::at(0x40);
/// The upper address of the fault message.
pub const FAULT_EVENT_UPPER_ADDRESS: Register<EventUpperAddress, ReadWrite> = Register::at(0x44);
/// The protected memory ranges.
pub const PROTECTED_MEMORY_ENABLE: Register<ProtectedMemoryEnable, ReadWrite> = Register::at(0x64);
/// The first address of the low protected range.
pub const PROTECTED_LOW_BASE: Register<ProtectedLowAddress, ReadWrite> = Register::at(0x68);
/// The last address of the low protected range.
pub const PROTECTED_LOW_LIMIT: Register<ProtectedLowAddress, ReadWrite> = Register::at(0x6c);
/// The first address of the high protected range.
pub const PROTECTED_HIGH_BASE: Register<ProtectedHighAddress, ReadWrite> = Register::at(0x70);
/// The last address of the high protected range.
pub const PROTECTED_HIGH_LIMIT: Register<ProtectedHighAddress, ReadWrite> = Register::at(0x78);
/// The next descriptor that the unit takes from the queue.
pub const QUEUE_HEAD: Register<QueuePosition, ReadOnly> = Register::at(0x80);
/// The next slot of the queue that software fills.
pub const QUEUE_TAIL: Register<QueuePosition, ReadWrite> = Register::at(0x88);
/// The invalidation queue.
pub const QUEUE_ADDRESS: Register<QueueAddress, ReadWrite> = Register::at(0x90);
/// The control of the invalidation-completion message.
pub const INVALIDATION_EVENT_CONTROL: Register<EventControl, ReadWrite> = Register::at(0xa0);
/// Why the queue stands still.
pub const QUEUE_ERROR_RECORD: Register<QueueErrorRecord, ReadOnly> = Register::at(0xb0);
/// The interrupt-remapping table.
pub const INTERRUPT_TABLE_ADDRESS: Register<InterruptTableAddress, ReadWrite> = Register::at(0xb8);
