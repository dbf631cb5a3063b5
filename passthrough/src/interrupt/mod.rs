//! Interrupts of an assigned function, by VFIO's SET_IRQS: INTx, MSI, MSI-X, the error and the request event.
//!
//! At most one of INTx, MSI and MSI-X is on. What the function writes is never what the guest wrote: the guest's
//! messages become events, the function gets the messages of the remapping entries that deliver to these events.

mod error;
mod guest;
mod line;
mod message;
mod notification;
mod set;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use bitflags::bitflags;
pub use error::SetIrqsError;
use line::Line;

use crate::door::{Event, RemappingHardware};

/// The kinds of interrupts of a device, by their VFIO index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqIndex {
    /// 0: the wire.
    Line,
    /// 1: MSI.
    Msi,
    /// 2: MSI-X.
    MsiX,
    /// 3: the device reported an error.
    Error,
    /// 4: the device is wanted back.
    Request,
}

impl IrqIndex {
    /// Every index.
    pub const ALL: [Self; 5] = [Self::Line, Self::Msi, Self::MsiX, Self::Error, Self::Request];

    /// From VFIO's number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Line),
            1 => Some(Self::Msi),
            2 => Some(Self::MsiX),
            3 => Some(Self::Error),
            4 => Some(Self::Request),
            _ => None,
        }
    }
}

bitflags! {
    /// What GET_IRQ_INFO tells of an index.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IrqFlags: u32 {
        /// It can signal events.
        const EVENT = 1;
        /// It can be masked and unmasked.
        const MASKABLE = 2;
        /// It masks itself when it fires.
        const AUTOMASKED = 4;
        /// Its number of vectors stays what it was when it was enabled.
        const NORESIZE = 8;
    }

    /// What SET_IRQS shall do; exactly one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IrqAction: u32 {
        /// Mask.
        const MASK = 8;
        /// Unmask.
        const UNMASK = 16;
        /// Fire, or say where to deliver, or disable.
        const TRIGGER = 32;
    }
}

/// What GET_IRQ_INFO tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqInfo {
    /// What it can do.
    pub flags: IrqFlags,
    /// Its vectors; 0 when the function has none.
    pub count: u32,
}

/// The data of SET_IRQS: one element a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqData<'a> {
    /// None: the action holds for every vector of the range.
    None,
    /// The action holds for the vectors whose byte is not 0.
    Bool(&'a [u8]),
    /// Where each vector delivers; `None` takes the event away.
    Events(&'a [Option<Event>]),
}

/// SET_IRQS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqSet<'a> {
    /// The index by its VFIO number.
    pub index: u32,
    /// The first vector.
    pub start: u32,
    /// So many vectors.
    pub count: u32,
    /// What to do.
    pub action: IrqAction,
    /// The elements.
    pub data: IrqData<'a>,
}

/// One vector of MSI or MSI-X.
#[derive(Debug)]
struct Vector<R: RemappingHardware> {
    /// The remapping entry of an MSI-X vector.
    entry: Option<R::Interrupts>,
    event: Option<Event>,
}

/// Which of the three is on.
#[derive(Debug)]
enum Active<R: RemappingHardware> {
    None,
    Line(Line<R>),
    /// With the block of remapping entries, one a message.
    Msi {
        block: R::Interrupts,
        count: u16,
    },
    MsiX,
}

/// The interrupts of one device.
#[derive(Debug)]
pub(crate) struct Interrupts<R: RemappingHardware> {
    active: Active<R>,
    /// As many as the larger of MSI and MSI-X can have; allocated once, when the device is opened.
    vectors: Vec<Vector<R>>,
    /// Whether the function obeys the interrupt-disable bit of its command register.
    can_disable_line: bool,
    error: Option<Event>,
    request: Option<Event>,
}

impl<R: RemappingHardware> Interrupts<R> {
    pub(crate) fn new(vectors: usize, can_disable_line: bool) -> Self {
        let vectors = core::iter::repeat_with(|| Vector { entry: None, event: None }).take(vectors).collect();
        Self { active: Active::None, vectors, can_disable_line, error: None, request: None }
    }

    /// Which of INTx, MSI and MSI-X is on.
    pub(crate) fn active(&self) -> Option<IrqIndex> {
        match self.active {
            Active::None => None,
            Active::Line(_) => Some(IrqIndex::Line),
            Active::Msi { .. } => Some(IrqIndex::Msi),
            Active::MsiX => Some(IrqIndex::MsiX),
        }
    }

    /// So many messages MSI was enabled with; 0 while it is off.
    fn msi_count(&self) -> u16 {
        if let Active::Msi { count, .. } = self.active { count } else { 0 }
    }

    /// Whether the interrupt-disable bit of the command register must be set.
    pub(crate) fn is_line_disabled(&self) -> bool {
        match &self.active {
            Active::Line(line) => self.can_disable_line && line.is_masked(),
            _ => true,
        }
    }
}
