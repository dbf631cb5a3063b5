//! The head of SET_IRQS as bytes, and the rules for it that come before the device's own.

use super::numbers::flags;
use super::structures::IrqSet;
use crate::errno::Errno;
use crate::interrupt::IrqAction;

/// What follows the head, one element a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// Nothing.
    None,
    /// 1 byte each.
    Bool,
    /// 4 bytes each, a signed descriptor.
    Event,
}

impl DataKind {
    /// Bytes of one element.
    pub const fn element(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Bool => 1,
            Self::Event => 4,
        }
    }
}

/// A head that keeps the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqSetHeader {
    /// The index by its number.
    pub index: u32,
    /// The first vector.
    pub start: u32,
    /// So many vectors.
    pub count: u32,
    /// The action bits, whether or not they make sense.
    pub action: IrqAction,
    /// What follows.
    pub data: DataKind,
}

impl IrqSetHeader {
    /// Checks a head. `of` tells how many vectors an index has, `None` where there is no such index. All that breaks
    /// a rule is EINVAL.
    pub fn check(head: &IrqSet, of: impl FnOnce(u32) -> Option<u32>) -> Result<Self, Errno> {
        const KNOWN: u32 = 0x3f;
        let IrqSet { argsz, flags, index, start, count } = *head;
        let of = of(index).ok_or(Errno::EINVAL)?;
        let end = start.checked_add(count).ok_or(Errno::EINVAL)?;
        if flags & !KNOWN != 0 || start >= of || end > of {
            return Err(Errno::EINVAL);
        }
        let data = match flags & 0b111 {
            flags::IRQ_DATA_NONE => DataKind::None,
            flags::IRQ_DATA_BOOL => DataKind::Bool,
            flags::IRQ_DATA_EVENT => DataKind::Event,
            _ => return Err(Errno::EINVAL),
        };
        let needed = data.element().checked_mul(count).ok_or(Errno::EINVAL)?;
        let offered = argsz.checked_sub(20).ok_or(Errno::EINVAL)?;
        if offered < needed {
            return Err(Errno::EINVAL);
        }
        Ok(Self { index, start, count, action: IrqAction::from_bits_truncate(flags), data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: IrqSet = IrqSet { argsz: 28, flags: 0x24, index: 2, start: 3, count: 2 };

    fn check(head: IrqSet) -> Result<IrqSetHeader, Errno> {
        IrqSetHeader::check(&head, |index| (index < 5).then_some(5))
    }

    #[test]
    fn a_good_head_passes() {
        let expected = IrqSetHeader { index: 2, start: 3, count: 2, action: IrqAction::TRIGGER, data: DataKind::Event };
        assert_eq!(check(GOOD), Ok(expected));
        assert!(check(IrqSet { argsz: 20, flags: 0x21, ..GOOD }).is_ok(), "no elements");
        assert!(check(IrqSet { argsz: 20, count: 0, ..GOOD }).is_ok());
        assert_eq!(check(IrqSet { flags: 0x3c, ..GOOD }).map(|head| head.action.bits()), Ok(0x38));
    }

    #[test]
    fn each_rule_refuses() {
        for bad in [
            IrqSet { argsz: 19, ..GOOD },
            IrqSet { argsz: 27, ..GOOD },
            IrqSet { flags: 0x20, ..GOOD },
            IrqSet { flags: 0x23, ..GOOD },
            IrqSet { flags: 0x64, ..GOOD },
            IrqSet { index: 5, ..GOOD },
            IrqSet { start: 5, count: 0, ..GOOD },
            IrqSet { start: 4, ..GOOD },
            IrqSet { start: 1, count: u32::MAX, ..GOOD },
        ] {
            assert_eq!(check(bad), Err(Errno::EINVAL), "{bad:?}");
        }
    }
}
